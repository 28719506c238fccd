"""The tracker, with known embeddings and moving faces that are 40 px wide."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from facespace.faces.face import overlaps
from facespace.video.tracker import Sighting, Track, Tracker

DIMENSION = 16
Seen = tuple[tuple[float, float], np.ndarray]  # centre of a face, its embedding


def person(k: int) -> np.ndarray:
    return np.eye(DIMENSION)[k]


def like(who: np.ndarray, similarity: float, other: int = DIMENSION - 1) -> np.ndarray:
    """Return a unit vector with this cosine to `who`."""
    return similarity * who + math.sqrt(1 - similarity**2) * person(other)


def look(
    tracker: Tracker,
    seconds: float,
    faces: Sequence[Seen],
    scores: Sequence[float] | None = None,
    *,
    cut: bool = False,
) -> list[Sighting]:
    """Return the sightings of one frame's faces."""
    boxes = np.array([(x - 20, y - 20, x + 20, y + 20) for (x, y), _ in faces], np.float64).reshape(-1, 4)
    embeddings = np.array([embedding for _, embedding in faces]).reshape(-1, DIMENSION)
    return tracker.update(seconds, boxes, np.array(scores or [1.0] * len(faces)), embeddings, cut=cut)


def step(tracker: Tracker, seconds: float, faces: Sequence[Seen], *, cut: bool = False) -> list[int]:
    """Return the track numbers of one frame's faces, as they are before the next frame."""
    return [sighting.track.number for sighting in look(tracker, seconds, faces, cut=cut)]


def in_place(tracker: Tracker, people: Sequence[np.ndarray], cuts: Sequence[int] = ()) -> list[Sighting]:
    """Return the final tracks of faces at one position, five a second; there is a cut before those in `cuts`."""
    return [look(tracker, k / 5, [((100, 100), who)], cut=k in cuts)[0] for k, who in enumerate(people)]


def numbers(sightings: Sequence[Sighting]) -> list[int]:
    return [sighting.track.number for sighting in sightings]


def mean(track: Track) -> np.ndarray:
    return track.total / np.linalg.norm(track.total)


ANNA, BEN, CARL = person(0), person(1), person(2)


# Where


def test_overlaps_against_counted_pixels() -> None:
    dice = np.random.default_rng(3)
    corners = dice.integers(0, 12, (40, 2))
    boxes = np.concatenate([corners, corners + dice.integers(1, 9, (40, 2))], axis=1)

    def pixels(box: np.ndarray) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    expected = [[len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b)) for b in boxes[15:]] for a in boxes[:15]]
    assert overlaps(boxes[:15], boxes[15:]) == pytest.approx(np.array(expected))


def test_a_face_that_moves_slowly_stays_itself() -> None:
    tracker = Tracker()
    assert [step(tracker, k / 5, [((100 + 10 * k, 100), ANNA)]) for k in range(30)] == [[1]] * 30


def test_a_face_that_jumps_is_recognised_by_its_embedding() -> None:
    tracker = Tracker()
    assert step(tracker, 0.0, [((50, 50), ANNA)]) == [1]
    assert step(tracker, 0.2, [((300, 50), like(ANNA, 0.7))]) == [1]
    assert step(tracker, 0.4, [((50, 50), like(ANNA, 0.3, 5))]) == [2], "far away and not similar"


def test_crossing_faces_keep_their_tracks() -> None:
    tracker, tracks = Tracker(), {}
    for k in range(21):  # they overlap in the middle at k = 10
        anna, ben = ((100 + 10 * k, 100), like(ANNA, 0.8, 5)), ((300 - 10 * k, 102), like(BEN, 0.8, 6))
        # The order of a frame's faces must not matter.
        found = look(tracker, k / 5, [ben, anna] if k % 2 else [anna, ben])
        assert numbers(found) == ([2, 1] if k % 2 else [1, 2])
        assert not any(sighting.doubtful for sighting in found)
        tracks = {sighting.track.number: sighting.track for sighting in found}
    assert abs(float(mean(tracks[1]) @ mean(tracks[2]))) < 0.1, "neither track has the other's face"


def test_faces_that_swap_positions_are_recognised_by_their_embeddings() -> None:
    tracker = Tracker()
    assert step(tracker, 0.0, [((100, 100), ANNA), ((200, 100), BEN)]) == [1, 2]
    assert step(tracker, 0.2, [((100, 100), BEN), ((200, 100), ANNA)]) == [2, 1]


def test_similar_faces_next_to_each_other_are_tracked_by_position() -> None:
    tracker = Tracker()
    twins = like(ANNA, 0.95, 3), like(ANNA, 0.95, 4)
    for k in range(10):  # sometimes each is more similar to the other
        left, right = twins if k % 3 else twins[::-1]
        assert step(tracker, k / 5, [((100, 100), left), ((160, 100), right)]) == [1, 2]


def test_two_faces_of_one_frame_are_never_one_track() -> None:
    dice = np.random.default_rng(5)
    tracker, seen = Tracker(min_similarity=0.1), []
    for k in range(300):
        faces = [
            ((float(x), float(y)), like(person(int(who)), float(dice.uniform(0, 1))))
            for x, y, who in zip(dice.uniform(0, 90, 9), dice.uniform(0, 90, 9), dice.integers(0, 3, 9), strict=True)
        ][: dice.integers(0, 10)]
        found = look(tracker, k / 5, faces, cut=k % 50 == 49)
        assert len(set(numbers(found))) == len(faces)
        seen.append(found)
    for found in seen:
        assert len(set(numbers(found))) == len(found), "nor when doubts are settled"
    all_numbers = {number for found in seen for number in numbers(found)}
    assert all_numbers == set(range(1, len(all_numbers) + 1)), "numbers have no gaps"


# When


def test_vanished_and_back() -> None:
    tracker = Tracker(lost_after=2.0)
    for k in range(5):
        step(tracker, k / 5, [((100, 100), ANNA)])
    for k in range(5, 10):
        assert step(tracker, k / 5, []) == []
    assert step(tracker, 2.0, [((200, 100), ANNA)]) == [1], "back within two seconds"
    for k in range(11, 30):
        step(tracker, k / 5, [])
    assert step(tracker, 6.0, [((200, 100), ANNA)]) == [2], "back too late"


def test_faces_in_distant_frames_are_tracked_too() -> None:
    tracker = Tracker(lost_after=2.0)
    assert [step(tracker, 10.0 * k, [((100, 100), ANNA)]) for k in range(5)] == [[1]] * 5
    step(tracker, 50.0, [])
    assert step(tracker, 60.0, [((100, 100), ANNA)]) == [2]


# Who


def test_the_mean_is_weighted_by_score() -> None:
    tracker = Tracker()
    look(tracker, 0.0, [((100, 100), ANNA)], [0.9])
    (sighting,) = look(tracker, 0.2, [((100, 100), like(ANNA, 0.6, 3))], [0.3])
    assert sighting.track.total == pytest.approx(0.9 * ANNA + 0.3 * like(ANNA, 0.6, 3))
    assert sighting.total == pytest.approx(0.3 * like(ANNA, 0.6, 3))


def test_a_turning_head_is_tracked_by_its_latest_embedding() -> None:
    tracker = Tracker()
    angles = [0.4 * k for k in range(9)]  # cosine 0.92 from frame to frame, −1 from first to last
    seen = in_place(tracker, [math.cos(angle) * ANNA + math.sin(angle) * person(3) for angle in angles])
    assert numbers(seen) == [1] * 9
    assert not any(sighting.doubtful for sighting in seen)


def test_one_bad_frame_neither_ends_nor_changes_a_track() -> None:
    seen = in_place(Tracker(), [CARL if k == 4 else ANNA for k in range(10)])
    assert numbers(seen) == [1] * 10
    assert [sighting.doubtful for sighting in seen] == [k == 4 for k in range(10)]
    assert mean(seen[0].track) == pytest.approx(ANNA)


def test_dissimilar_bad_frames_do_not_begin_a_track() -> None:
    seen = in_place(Tracker(), [like(person(k), 0.9) if 3 < k < 8 else ANNA for k in range(10)])  # slightly similar
    assert numbers(seen) == [1] * 10
    assert mean(seen[0].track) == pytest.approx(ANNA)


def test_a_bad_frame_far_from_the_next_does_not_end_a_track() -> None:
    tracker = Tracker(lost_after=2.0)
    assert [step(tracker, 10.0 * k, [((100, 100), BEN if k == 2 else ANNA)]) for k in range(5)] == [[1]] * 5


def test_a_bad_frame_updates_the_position_of_a_moving_face() -> None:
    tracker = Tracker()
    step(tracker, 0.0, [((100, 100), ANNA)])
    assert step(tracker, 0.2, [((115, 100), BEN)]) == [1]
    assert step(tracker, 0.4, [((130, 100), like(ANNA, 0.7, 5))]) == [1], "too far from the first frame alone"


def test_another_face_at_the_same_position() -> None:
    tracker = Tracker()
    assert [step(tracker, k / 5, [((100, 100), ANNA if k < 5 else BEN)])[0] for k in range(10)] == [1] * 6 + [2] * 4
    seen = in_place(Tracker(), [ANNA] * 5 + [BEN] * 5)
    assert numbers(seen) == [1] * 5 + [2] * 5, "the first face is doubtful until the next frame, and then Ben's"
    assert not any(sighting.doubtful for sighting in seen)
    assert mean(seen[0].track) == pytest.approx(ANNA)
    assert mean(seen[9].track) == pytest.approx(BEN)


def test_a_replaced_person_gets_a_new_track() -> None:
    """Also within two seconds: the track has ended."""
    seen = in_place(Tracker(lost_after=9.0), [ANNA] * 4 + [BEN] * 4 + [ANNA] * 4)
    assert numbers(seen) == [1] * 4 + [2] * 4 + [3] * 4


@pytest.mark.parametrize("similarity", [0.1, 0.39])
def test_a_slightly_similar_face_is_another_person(similarity: float) -> None:
    assert numbers(in_place(Tracker(), [ANNA] * 4 + [like(ANNA, similarity, 4)] * 4)) == [1] * 4 + [2] * 4
    seen = in_place(Tracker(min_similarity=similarity - 0.01), [ANNA] * 4 + [like(ANNA, similarity, 4)] * 4)
    assert numbers(seen) == [1] * 8


def test_positions_are_ignored_after_a_cut() -> None:
    seen = in_place(Tracker(), [ANNA] * 4 + [BEN] * 4, cuts=[4])
    assert numbers(seen) == [1] * 4 + [2] * 4
    assert [sighting.shot for sighting in seen] == [0] * 4 + [1] * 4
    tracker = Tracker()
    step(tracker, 0.0, [((100, 100), ANNA)])
    assert step(tracker, 0.2, [((100, 100), BEN)], cut=True) == [2], "at once, without waiting for another frame"
    assert step(tracker, 0.4, [((100, 100), ANNA)]) == [2], "a blur of Ben, who is there now"


def test_the_same_person_continues_after_a_cut() -> None:
    tracker = Tracker()
    step(tracker, 0.0, [((100, 100), ANNA), ((300, 100), BEN)])
    assert step(tracker, 0.2, [((220, 100), like(ANNA, 0.5)), ((100, 100), CARL)], cut=True) == [1, 3]
    assert step(tracker, 0.4, [((300, 100), BEN)]) == [4], "a person who is not in the new shot gets a new track later"


def test_a_cut_after_another_persons_first_frame() -> None:
    """Ben is seen once before the cut, at Anna's position, and continues after it at another position."""
    tracker = Tracker()
    (anna,) = look(tracker, 0.0, [((100, 100), ANNA)])
    (ben,) = look(tracker, 0.2, [((100, 100), BEN)])
    (after,) = look(tracker, 0.4, [((300, 100), BEN)], cut=True)
    assert numbers([anna, ben, after]) == [1, 2, 2]
    assert step(tracker, 0.6, [((300, 100), BEN), ((100, 100), ANNA)]) == [2, 3]


def test_a_covered_person_comes_back_next_to_the_one_in_front() -> None:
    tracker = Tracker()
    step(tracker, 0.0, [((100, 100), ANNA)])
    assert step(tracker, 0.2, [((100, 100), BEN)]) == [1], "for now"
    assert step(tracker, 0.4, [((100, 100), BEN), ((150, 100), ANNA)]) == [2, 1]


def test_no_faces() -> None:
    tracker = Tracker()
    assert tracker.update(0.0, np.empty((0, 4)), np.empty(0), np.empty((0, DIMENSION))) == []


@pytest.mark.parametrize(
    "options",
    [{"min_overlap": 0}, {"min_overlap": 1.1}, {"min_similarity": -1.1}, {"min_similarity": 1.5}, {"lost_after": -1}],
    ids=str,
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Tracker(**options)


@pytest.mark.parametrize(
    ("boxes", "scores", "embeddings"),
    [((2, 4), (2,), (1, 8)), ((2, 4), (1,), (2, 8)), ((2, 5), (2,), (2, 8)), ((2, 4), (2,), (2,))],
)
def test_shapes_that_do_not_fit(boxes: tuple[int, ...], scores: tuple[int, ...], embeddings: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="boxes"):
        Tracker().update(0.0, np.ones(boxes), np.ones(scores), np.ones(embeddings))
