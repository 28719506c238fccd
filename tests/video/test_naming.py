"""Naming the faces of videos: with a stub detector and embedder, and with the real ones."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import facespace
from facespace.embedding.vectors import Embeddings
from facespace.errors import VideoError
from facespace.video.appearances import Appearance, NamedFrame
from facespace.video.drawing import Labels
from facespace.video.naming import VideoNamer
from facespace.video.reader import Frame, read_frames
from facespace.video.subrip import subtitles
from support.gray_people import Said, StubDetector, StubEmbedder, embedding, frame, namer
from support.video_files import moved, portrait, write_video


def people(**options: object) -> VideoNamer:
    return VideoNamer(StubDetector(), StubEmbedder(), namer, **options)  # type: ignore[arg-type]


def naming_grays(names: dict[int, str]) -> Callable[[np.ndarray], list[Said]]:
    """Return a namer of other people: it names the nearest gray, from a similarity of 0.9 on."""

    def name(embeddings: np.ndarray) -> list[Said]:
        best = [max((float(vector @ embedding(gray)), name) for gray, name in names.items()) for vector in embeddings]
        return [Said(name if similarity >= 0.9 else None, similarity, 0.9) for similarity, name in best]

    return name


def after_cut(shot: Frame, second: float) -> Frame:
    return dataclasses.replace(shot, cuts=(second,))


def names(frames: Iterable[NamedFrame]) -> list[list[str | None]]:
    return [[face.name for face in frame.faces] for frame in frames]


def test_frames_are_named_in_order() -> None:
    naming = people()
    frames = list(naming.name(frame(k, 10, 50) for k in range(40)))
    assert [(frame.index, frame.seconds) for frame in frames] == [(5 * k, k / 5) for k in range(40)]
    assert names(frames) == [["Anna", None]] * 40
    assert [face.track for frame in frames for face in frame.faces] == [1, 2] * 40
    assert frames[0].faces[0].face.box == (10, 10, 30, 30)
    assert frames[0].faces[0].similarity == pytest.approx(1)
    assert frames[0].pixels is None
    anna, stranger = naming.finish()
    assert (anna.name, anna.track, anna.first, anna.last, anna.n_frames) == ("Anna", 1, 0.0, 7.8, 40)
    assert (stranger.name, stranger.threshold) == (None, 0.9)
    assert naming.interval == pytest.approx(0.2)


def test_a_single_bad_frame_changes_no_name() -> None:
    naming = people()
    bad = {4: 50, 6: 20, 7: 12}  # a stranger's face, Ben's, Anna's badly lit and below the threshold
    assert namer(embedding(12)[None])[0].name is None
    frames = list(naming.name(frame(k, bad.get(k, 10)) for k in range(12)))
    assert names(frames) == [["Anna"]] * 12
    (anna,) = naming.finish()
    assert (anna.name, anna.n_frames) == ("Anna", 12)


def test_a_blurred_face_does_not_count() -> None:
    frames = list(people().name(frame(k, 50 if k == 4 else 10) for k in range(9)))
    assert [seen.faces[0].similarity for seen in frames] == pytest.approx([1.0] * 9)


def test_a_name_that_is_clear_later_applies_from_the_first_frame() -> None:
    naming = people()
    frames = list(naming.name(frame(k, 12 if k < 2 else 10) for k in range(12)))
    assert names(frames) == [["Anna"]] * 12
    (anna,) = naming.finish()
    assert (anna.name, anna.first, anna.last) == ("Anna", 0.0, 2.2)
    assert anna.similarity == pytest.approx(np.mean([seen.faces[0].similarity for seen in frames]))


def test_a_camera_does_not_wait_for_later_frames() -> None:
    naming = people()
    frames = list(naming.name((frame(k, 12 if k < 2 else 10) for k in range(12)), chunk_frames=1))
    assert names(frames)[:2] == [[None], [None]], "at first the name is not known"
    assert names(frames)[-8:] == [["Anna"]] * 8


def test_a_name_is_that_of_the_window() -> None:
    """Frames within a second count, nearer ones more: five at 12 and two at 10 are not similar to Anna, three are."""
    naming = people()
    frames = list(naming.name(frame(k, 10 if k < 4 else 12) for k in range(20)))
    weights = {-4: 0.2, -3: 0.4, -2: 0.6, -1: 0.8, 0: 1.0, 1: 0.8, 2: 0.6, 3: 0.4, 4: 0.2}
    for k, seen in enumerate(frames):
        total = sum(
            weight * embedding(10 if k + away < 4 else 12) for away, weight in weights.items() if 0 <= k + away < 20
        )
        assert seen.faces[0].similarity == pytest.approx(float(total @ embedding(10) / np.linalg.norm(total)))
    assert frames[0].faces[0].name == "Anna"
    assert frames[19].faces[0].name is None
    anna, unknown = naming.finish()
    assert (anna.name, unknown.name, anna.track, unknown.track) == ("Anna", None, 1, 1)
    assert anna.n_frames + unknown.n_frames == 20


def test_a_window_of_one_frame() -> None:
    naming = people(window=0.0)
    assert (
        names(naming.name(frame(k, 12 if k == 4 else 10) for k in range(8)))
        == [["Anna"]] * 4 + [[None]] + [["Anna"]] * 3
    )
    with pytest.raises(ValueError, match="window must be at least 0"):
        people(window=-1)


def test_another_person_at_the_same_position() -> None:
    naming = people()
    frames = list(naming.name(frame(k, 10 if k < 8 else 20) for k in range(16)))
    assert names(frames) == [["Anna"]] * 8 + [["Ben"]] * 8
    assert [face.track for seen in frames for face in seen.faces] == [1] * 8 + [2] * 8
    assert [(seen.name, seen.first, seen.last) for seen in naming.finish()] == [("Anna", 0.0, 1.4), ("Ben", 1.6, 3.0)]


def test_people_too_similar_for_the_tracker_soon_change_names() -> None:
    """19 and 29 have a similarity of 0.88: one track, but the names around each frame are right."""
    naming = VideoNamer(StubDetector(), StubEmbedder(), naming_grays({19: "Carl", 29: "Dora"}))  # type: ignore[arg-type]
    frames = list(naming.name(frame(k, 19 if k // 8 % 2 else 29) for k in range(32)))
    assert {face.track for seen in frames for face in seen.faces} == {1}
    assert names(frames) == ([["Dora"]] * 8 + [["Carl"]] * 8) * 2
    assert [(seen.name, seen.n_frames, seen.track) for seen in naming.finish()] == [
        ("Dora", 8, 1), ("Carl", 8, 1), ("Dora", 8, 1), ("Carl", 8, 1),
    ]  # fmt: skip


def test_windows_end_at_cuts() -> None:
    """Shots of two frames: if windows crossed cuts, people would get their neighbours' names."""
    naming = VideoNamer(StubDetector(), StubEmbedder(), naming_grays({19: "Carl", 29: "Dora"}))  # type: ignore[arg-type]
    film = [frame(k, 19 if k // 2 % 2 else 29) for k in range(12)]
    film = [after_cut(shot, shot.seconds - 0.1) if k and not k % 2 else shot for k, shot in enumerate(film)]
    assert names(naming.name(film)) == ([["Dora"]] * 2 + [["Carl"]] * 2) * 3
    seen = naming.finish()
    assert [(one.begin, one.end) for one in seen[1:3]] == [pytest.approx((0.3, 0.7)), pytest.approx((0.7, 1.1))]
    assert (seen[0].begin, seen[-1].end) == (None, None)


def test_a_cut_to_another_person_ends_the_track() -> None:
    naming = people()
    film = [frame(k, 10 if k < 4 else 20) for k in range(8)]
    film[4] = after_cut(film[4], 0.72)
    frames = list(naming.name(film))
    assert names(frames) == [["Anna"]] * 4 + [["Ben"]] * 4
    assert frames[4].cuts == (0.72,)
    anna, ben = naming.finish()
    assert (anna.end, ben.begin, ben.first) == (0.72, 0.72, 0.8)


# Each name once


def test_a_name_is_given_once_per_frame() -> None:
    """11 is similar to Anna, too: a similarity of 0.96."""
    for order in ((10, 11), (11, 10)):
        naming = people()
        frames = list(naming.name(frame(k, *order) for k in range(8)))
        assert names(frames) == [["Anna" if gray == 10 else None for gray in order]] * 8
        loser = frames[0].faces[order.index(11)]
        assert loser.similarity is not None
        assert loser.similarity > loser.threshold
        assert sorted(str(seen.name) for seen in naming.finish()) == ["Anna", "None"]


def test_a_name_may_be_given_several_times_on_request() -> None:
    assert names(people(repeats=True).name(frame(k, 10, 11) for k in range(8))) == [["Anna", "Anna"]] * 8


def test_whoever_is_alone_has_the_name() -> None:
    naming = people()
    frames = list(naming.name(frame(k, *((11, 10) if 8 <= k < 16 else (11,))) for k in range(24)))
    assert names(frames) == [["Anna"]] * 8 + [[None, "Anna"]] * 8 + [["Anna"]] * 8


@pytest.mark.parametrize("seed", range(5))
def test_frames_appearances_subtitles_and_drawing_agree(seed: int) -> None:
    """A film with everything: visible cuts, invisible cuts, people who come and go, blurs, people who look alike."""
    dice, film, shown = random.Random(seed), [], [10]
    for k in range(120):
        event = dice.random()
        if event < 0.15:
            shown = dice.sample([10, 11, 12, 20, 30, 40], dice.randrange(4))
        now = [gray if dice.random() > 0.1 else 50 for gray in shown]
        film.append(frame(k, *dict.fromkeys(now)))
        if event < 0.1:
            film[-1] = after_cut(film[-1], k / 5 - 0.08)
    naming = people()
    frames = list(naming.name(film))
    seen = naming.finish()
    labels = Labels(frames, seen)
    spans = sorted((one.begin or one.first, one.end or one.last + 0.2) for one in seen)
    assert all(begin < end for begin, end in spans)
    text = subtitles(seen, interval=naming.interval)
    for one in frames:
        said = [name for name in names([one])[0] if name is not None]
        assert len(set(said)) == len(said)
        drawn = [(face, name) for face, name in labels.at(one.seconds)]
        assert sorted(map(repr, drawn)) == sorted(repr((named.face, named.name)) for named in one.faces)
        for named in one.faces:
            (appearance,) = [a for a in seen if a.track == named.track and a.first <= one.seconds <= a.last]
            assert appearance.name == named.name
    for appearance in seen:
        there = [one for one in frames if appearance.first <= one.seconds <= appearance.last]
        with_it = [one for one in there if any(face.track == appearance.track for face in one.faces)]
        assert len(with_it) == appearance.n_frames
    assert all(name in text for name in {one.name for one in seen if one.name})


def test_the_namer_gets_the_quality_of_the_faces() -> None:
    told: list[Sequence[float]] = []

    class WithQuality(StubEmbedder):
        def represent(self, crops: np.ndarray) -> np.ndarray:
            return Embeddings(super().represent(crops), made_by="represent", model={"model": "gray"})

    def asking(embeddings: np.ndarray) -> list[Said]:
        assert isinstance(embeddings, Embeddings)
        assert (embeddings.made_by, embeddings.model) == ("represent", {"model": "gray"})
        told.append(embeddings.quality)  # type: ignore[arg-type]
        return namer(np.asarray(embeddings))

    naming = VideoNamer(StubDetector(), WithQuality(), asking)  # type: ignore[arg-type]
    frames = list(naming.name(frame(k, 10, 50) for k in range(3)))
    expected = [face.face.quality for face in frames[0].faces]
    assert None not in expected
    assert told == [pytest.approx(expected)] * 3


def test_the_tracker_takes_the_models_own_threshold() -> None:
    @dataclasses.dataclass
    class Calibrated(StubEmbedder):
        similar: float = 0.95

        def threshold(self) -> float:
            return self.similar

    for similar, n_tracks in ((0.95, 2), (0.85, 1)):  # 19 and 29 have a similarity of 0.88
        measured = Calibrated(calibration=SimpleNamespace(), similar=similar)  # type: ignore[arg-type]
        naming = VideoNamer(StubDetector(), measured, namer)  # type: ignore[arg-type]
        list(naming.name(frame(k, 19 if k < 4 else 29) for k in range(8)))
        assert len({seen.track for seen in naming.finish()}) == n_tracks


# Frames


def test_appearances_by_the_second_they_began() -> None:
    naming = people(lost_after=1.0)
    shown = [(10,)] * 5 + [()] * 10 + [(20, 10)] * 5 + [(20,)] * 5
    list(naming.name(frame(k, *grays) for k, grays in enumerate(shown)))
    assert [(seen.name, seen.first, seen.last, seen.n_frames) for seen in naming.finish()] == [
        ("Anna", 0.0, 0.8, 5), ("Ben", 3.0, 4.8, 10), ("Anna", 3.0, 3.8, 5),
    ]  # fmt: skip
    assert [seen.track for seen in naming.finish()] == [1, 2, 3], "asked again, the same"


def test_a_video_without_faces() -> None:
    naming = people()
    assert names(naming.name(frame(k) for k in range(20))) == [[]] * 20
    assert naming.finish() == []


def test_no_frames() -> None:
    naming = people()
    assert list(naming.name([])) == []
    assert (naming.finish(), naming.n_frames, naming.interval) == ([], 0, 0.0)


def test_one_frame() -> None:
    naming = people()
    assert names(naming.name([frame(0, 10)])) == [["Anna"]]
    (anna,) = naming.finish()
    assert (anna.first, anna.last, anna.n_frames, naming.interval) == (0.0, 0.0, 1, 0.0)


def test_frames_go_through_the_networks_in_chunks() -> None:
    detector, taken = StubDetector(), []

    def frames() -> Iterator[Frame]:
        for k in range(40):
            taken.append(k)
            yield frame(k, 10)

    naming = VideoNamer(detector, StubEmbedder(), namer)  # type: ignore[arg-type]
    named = naming.name(frames())
    next(named)
    assert len(taken) == 16, "at most one chunk is in memory"
    list(named)
    assert detector.calls == [16, 16, 8]


def test_large_frames_come_in_smaller_chunks() -> None:
    detector = StubDetector()
    large = np.zeros((3000, 4000, 3), np.uint8)
    large[:20, :20] = 10
    naming = VideoNamer(detector, StubEmbedder(), namer)  # type: ignore[arg-type]
    list(naming.name(Frame(k, float(k), large) for k in range(5)))
    assert detector.calls == [2, 2, 1]


def test_a_camera_is_named_at_once_and_keeps_its_pixels() -> None:
    naming = people(keep_pixels=True)
    source = (frame(k, 10) for k in range(3))
    first = next(naming.name(source, chunk_frames=1))
    assert (first.pixels == frame(0, 10).pixels).all()
    assert next(source).index == 5, "the second was not taken yet"


def test_pixels_go_with_the_frame_they_belong_to() -> None:
    naming = people(keep_pixels=True)
    frames = list(naming.name(frame(k, 10, 50) if k % 2 else frame(k, 10) for k in range(12)))
    assert [bool((seen.pixels == 50).any()) for seen in frames] == [k % 2 == 1 for k in range(12)]
    assert all(look.pixels is None for look in naming._looks), "the window of a camera keeps no pictures"


def test_a_damaged_video_is_named_up_to_its_end() -> None:
    def frames() -> Iterator[Frame]:
        for k in range(20):
            yield frame(k, 10)
        raise VideoError("a.mp4", "damaged")

    naming, seen = people(), []
    with pytest.raises(VideoError, match=r"a\.mp4: damaged"):
        for named in naming.name(frames()):
            seen.append(named)  # noqa: PERF402
    assert len(seen) == 20
    assert [appearance.n_frames for appearance in naming.finish()] == [20]


def test_an_unreadable_video_needs_no_networks() -> None:
    def frames() -> Iterator[Frame]:
        raise VideoError("a.mp4", "no such file")
        yield

    detector = StubDetector()
    naming = VideoNamer(detector, StubEmbedder(), namer)  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="no such file"):
        list(naming.name(frames()))
    assert detector.calls == []


def test_a_film_whose_caller_stops_early_has_its_appearances() -> None:
    naming = people()
    named = naming.name(frame(k, 10) for k in range(40))
    next(named)
    named.close()
    (anna,) = naming.finish()
    assert anna.n_frames == naming.n_frames == 6, "the frames that were read before the first was named"
    assert naming.finish() == [anna]


def test_real_people_alternate_at_the_same_position(
    tmp_path: Path, hopper_file: Path, collins_file: Path, detector: facespace.MTCNN, embedder: facespace.Embedder
) -> None:
    """Two enrolled people, each for 1.6 seconds, at the same position; then there are no faces."""
    faces = [(portrait(hopper_file, 150), (130, 30)), (portrait(collins_file, 225), (98, 30))]
    shots = [moved([(faces[k % 2][0], [faces[k % 2][1]] * 40)]) for k in range(4)]
    shots.append([np.full((240, 400, 3), 90, np.uint8)] * 10)
    path = write_video(tmp_path / "a.mp4", [picture for shot in shots for picture in shot])
    with facespace.Gallery(tmp_path / "a.gallery", embedder, create=True) as gallery:
        for name, file in (("Grace Hopper", hopper_file), ("Eileen Collins", collins_file)):
            (photo,) = facespace.process([str(file)], detector, embedder, largest=True, keep_crops=True)
            gallery.add(name, photo.embeddings[0], photo.crops[0])
        naming = VideoNamer(detector, embedder, gallery.identify)
        frames = list(naming.name(read_frames(path)))
    expected = ["Grace Hopper", "Eileen Collins", "Grace Hopper", "Eileen Collins"]
    assert names(frames)[:32] == [[name] for name in expected for _ in range(8)]
    seen: list[Appearance] = naming.finish()
    assert [person.name for person in seen[:4]] == expected
    assert [person.track for person in seen[:4]] == [1, 2, 3, 4]
    assert [person.begin for person in seen[1:4]] == pytest.approx([1.6, 3.2, 4.8], abs=0.01)
    assert [person.end for person in seen[:4]] == pytest.approx([1.6, 3.2, 4.8, 6.4], abs=0.01)


def test_real_people_walk_by(
    tmp_path: Path, hopper_file: Path, collins_file: Path, detector: facespace.MTCNN, embedder: facespace.Embedder
) -> None:
    """Hopper moves to the right, Collins comes later on the right side and goes again."""
    hopper, collins = portrait(hopper_file, 150), portrait(collins_file, 170)
    path = write_video(tmp_path / "a.mp4", moved([
        (hopper, [(2 * k, 20) for k in range(40)]),
        (collins, [(230, 40) if 15 <= k < 30 else None for k in range(40)]),
    ]), rate=10)  # fmt: skip
    with facespace.Gallery(tmp_path / "a.gallery", embedder, create=True) as gallery:
        (photo,) = facespace.process([str(hopper_file)], detector, embedder, largest=True, keep_crops=True)
        gallery.add("Grace Hopper", photo.embeddings[0], photo.crops[0])
        naming = VideoNamer(detector, embedder, gallery.identify)
        frames = list(naming.name(read_frames(path)))
        seen = naming.finish()
    assert len(frames) == 20
    assert [(person.name, person.track, person.n_frames) for person in seen] == [("Grace Hopper", 1, 20), (None, 2, 7)]
    assert (seen[1].first, seen[1].last) == pytest.approx((1.6, 2.8))
    lefts = [face.face.box[0] for frame in frames for face in frame.faces if face.track == 1]
    assert np.diff(lefts) == pytest.approx(4, abs=3)
