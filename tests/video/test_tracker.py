"""Tracks: who goes on as whom, with embeddings that are known; faces are 40 px wide and go their ways."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from facespace.faces.face import overlaps
from facespace.video.tracker import Track, Tracker

DIMENSION = 16
Seen = tuple[tuple[float, float], np.ndarray]  # centre of a face, its embedding


def person(k: int) -> np.ndarray:
    return np.eye(DIMENSION)[k]


def like(who: np.ndarray, similarity: float, other: int = DIMENSION - 1) -> np.ndarray:
    """A unit vector of that cosine to `who`."""
    return similarity * who + math.sqrt(1 - similarity**2) * person(other)


def step(tracker: Tracker, seconds: float, faces: Sequence[Seen], scores: Sequence[float] | None = None) -> list[int]:
    """The numbers of the tracks of one frame's faces."""
    boxes = np.array([(x - 20, y - 20, x + 20, y + 20) for (x, y), _ in faces], np.float64).reshape(-1, 4)
    embeddings = np.array([embedding for _, embedding in faces]).reshape(-1, DIMENSION)
    found = tracker.update(seconds, boxes, np.array(scores or [1.0] * len(faces)), embeddings)
    return [track.number for track in found]


ANNA, BEN, CARL = person(0), person(1), person(2)


# Where


def test_overlaps_against_counted_pixels() -> None:
    dice = np.random.default_rng(3)
    corners = dice.integers(0, 12, (40, 2))
    boxes = np.concatenate([corners, corners + dice.integers(1, 9, (40, 2))], axis=1)

    def pixels(box: np.ndarray) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    wanted = [[len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b)) for b in boxes[15:]] for a in boxes[:15]]
    assert overlaps(boxes[:15], boxes[15:]) == pytest.approx(np.array(wanted))


def test_a_face_that_moves_slowly_stays_itself() -> None:
    tracker = Tracker()
    assert [step(tracker, k / 5, [((100 + 10 * k, 100), ANNA)]) for k in range(30)] == [[1]] * 30


def test_a_face_that_jumps_is_known_by_its_looks() -> None:
    tracker = Tracker()
    assert step(tracker, 0.0, [((50, 50), ANNA)]) == [1]
    assert step(tracker, 0.2, [((300, 50), like(ANNA, 0.7))]) == [1]
    assert step(tracker, 0.4, [((50, 50), like(ANNA, 0.3, 5))]) == [2], "far away and not alike"


def test_crossing_faces_keep_their_tracks() -> None:
    tracker = Tracker()
    for k in range(21):  # they meet in the middle at k = 10, one upon the other
        anna, ben = ((100 + 10 * k, 100), like(ANNA, 0.8, 5)), ((300 - 10 * k, 102), like(BEN, 0.8, 6))
        if k % 2:  # the order of a frame's faces says nothing
            assert step(tracker, k / 5, [ben, anna]) == [2, 1]
        else:
            assert step(tracker, k / 5, [anna, ben]) == [1, 2]
    tracks = sorted(tracker.finish(), key=lambda track: track.number)
    assert [track.n_frames for track in tracks] == [21, 21]
    assert abs(float(tracks[0].mean @ tracks[1].mean)) < 0.1, "neither has taken up the other's face"


def test_alike_faces_side_by_side_go_by_place() -> None:
    tracker = Tracker()
    twins = like(ANNA, 0.95, 3), like(ANNA, 0.95, 4)
    for k in range(10):  # sometimes each looks more like the other
        left, right = twins if k % 3 else twins[::-1]
        assert step(tracker, k / 5, [((100, 100), left), ((160, 100), right)]) == [1, 2]


def test_two_faces_of_one_frame_are_never_one_track() -> None:
    dice = np.random.default_rng(5)
    tracker = Tracker(min_similarity=0.1, doubtful=0.0)
    n_faces, numbers = 0, set()
    for k in range(300):
        faces = [
            ((float(x), float(y)), like(person(int(who)), float(dice.uniform(0, 1))))
            for x, y, who in zip(dice.uniform(0, 90, 9), dice.uniform(0, 90, 9), dice.integers(0, 3, 9), strict=True)
        ][: dice.integers(0, 10)]
        found = step(tracker, k / 5, faces)
        assert len(set(found)) == len(faces)
        n_faces += len(faces)
        numbers |= set(found)
    tracks = tracker.ended() + tracker.finish()
    assert numbers <= {track.number for track in tracks} == set(range(1, len(tracks) + 1)), "numbers have no gaps"
    assert sum(track.n_frames for track in tracks) == n_faces, "every face counts once"


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
    (ended,) = tracker.ended()
    assert (ended.number, ended.first, ended.last, ended.n_frames) == (1, 0.0, 2.0, 6)
    assert tracker.ended() == [], "told once"
    assert step(tracker, 6.0, [((200, 100), ANNA)]) == [2], "back too late"


def test_frames_far_apart_are_followed_all_the_same() -> None:
    tracker = Tracker(lost_after=2.0)
    assert [step(tracker, 10.0 * k, [((100, 100), ANNA)]) for k in range(5)] == [[1]] * 5
    step(tracker, 50.0, [])
    assert step(tracker, 60.0, [((100, 100), ANNA)]) == [2]


def test_ended_and_finished_tracks_are_all_there_are() -> None:
    tracker = Tracker(lost_after=0.5)
    for k in range(20):
        step(tracker, float(k), [((100, 100), person(k % 10))] if k % 2 else [])
    tracks: list[Track] = tracker.ended() + tracker.finish()
    assert [track.number for track in tracks] == list(range(1, 11))
    assert tracker.finish() == []


# Who


def test_the_mean_is_weighted_by_score_and_of_length_one() -> None:
    tracker = Tracker()
    step(tracker, 0.0, [((100, 100), ANNA)], [0.9])
    step(tracker, 0.2, [((100, 100), like(ANNA, 0.6, 3))], [0.3])
    (track,) = tracker.finish()
    wanted = 0.9 * ANNA + 0.3 * like(ANNA, 0.6, 3)
    assert track.mean == pytest.approx(wanted / np.linalg.norm(wanted))
    assert track.mean.dtype == np.float32


def test_one_bad_frame_neither_ends_a_track_nor_spoils_it() -> None:
    tracker = Tracker()
    for k in range(10):
        assert step(tracker, k / 5, [((100, 100), CARL if k == 4 else ANNA)]) == [1]
    (track,) = tracker.finish()
    assert (track.n_frames, track.first, track.last) == (10, 0.0, 1.8)
    assert track.mean == pytest.approx(ANNA)


def test_bad_frames_unlike_each_other_are_no_person() -> None:
    tracker = Tracker()
    for k in range(10):
        bad = like(person(k), 0.9)  # all of them a little alike
        assert step(tracker, k / 5, [((100, 100), bad if 3 < k < 8 else ANNA)]) == [1]
    (track,) = tracker.finish()
    assert track.n_frames == 10
    assert track.mean == pytest.approx(ANNA)


def test_a_bad_frame_far_from_the_next_ends_no_track() -> None:
    tracker = Tracker(lost_after=2.0)
    assert [step(tracker, 10.0 * k, [((100, 100), BEN if k == 2 else ANNA)]) for k in range(5)] == [[1]] * 5


def test_a_bad_frame_in_motion_leads_to_where_the_face_goes() -> None:
    tracker = Tracker()
    step(tracker, 0.0, [((100, 100), ANNA)])
    assert step(tracker, 0.2, [((115, 100), BEN)]) == [1]
    assert step(tracker, 0.4, [((130, 100), like(ANNA, 0.4, 5))]) == [1], "too far from the first frame alone"


def test_a_cut_to_another_face_in_the_same_place() -> None:
    tracker = Tracker()
    numbers = [step(tracker, k / 5, [((100, 100), ANNA if k < 5 else BEN)])[0] for k in range(10)]
    assert numbers == [1] * 6 + [2] * 4, "the first of them waits for the next"
    anna, ben = sorted(tracker.finish(), key=lambda track: track.number)
    assert (anna.first, anna.last, anna.n_frames) == (0.0, 0.8, 5)
    assert (ben.first, ben.last, ben.n_frames) == (1.0, 1.8, 5), "and counts for the newcomer in the end"
    assert anna.mean == pytest.approx(ANNA)
    assert ben.mean == pytest.approx(BEN)


def test_who_was_covered_comes_back_beside_whom_covered_them() -> None:
    tracker = Tracker()
    step(tracker, 0.0, [((100, 100), ANNA)])
    assert step(tracker, 0.2, [((100, 100), BEN)]) == [1], "for now"
    assert step(tracker, 0.4, [((100, 100), BEN), ((150, 100), ANNA)]) == [2, 1]


def test_a_bad_last_frame_counts_as_seen() -> None:
    tracker = Tracker()
    step(tracker, 0.0, [((100, 100), ANNA)])
    step(tracker, 0.2, [((100, 100), BEN)])
    (track,) = tracker.finish()
    assert (track.n_frames, track.last) == (2, 0.2)
    assert track.mean == pytest.approx(ANNA)


def test_nobody() -> None:
    tracker = Tracker()
    assert tracker.update(0.0, np.empty((0, 4)), np.empty(0), np.empty((0, DIMENSION))) == []
    assert tracker.finish() == []


@pytest.mark.parametrize(
    "options",
    [{"min_overlap": 0}, {"min_overlap": 1.1}, {"doubtful": 0.6}, {"min_similarity": 1.5}, {"lost_after": -1}],
    ids=str,
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="want"):
        Tracker(**options)


@pytest.mark.parametrize(
    ("boxes", "scores", "embeddings"),
    [((2, 4), (2,), (1, 8)), ((2, 4), (1,), (2, 8)), ((2, 5), (2,), (2, 8)), ((2, 4), (2,), (2,))],
)
def test_shapes_that_do_not_fit(boxes: tuple[int, ...], scores: tuple[int, ...], embeddings: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="boxes"):
        Tracker().update(0.0, np.ones(boxes), np.ones(scores), np.ones(embeddings))
