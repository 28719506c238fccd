"""Frames in, named faces and appearances out: with a detector and an embedder whose answers are known, and the real."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

import facespace
from facespace.errors import VideoError
from facespace.video.naming import NamedFrame, VideoNamer
from facespace.video.reader import Frame, read_frames
from support.gray_people import StubDetector, StubEmbedder, embedding, frame, namer
from support.video_files import moved, portrait, write_video


def people(**options: object) -> VideoNamer:
    return VideoNamer(StubDetector(), StubEmbedder(), namer, **options)  # type: ignore[arg-type]


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


def test_the_name_at_the_end_is_that_of_the_whole_track() -> None:
    naming = people()
    frames = list(naming.name(frame(k, 12 if k < 2 else 10) for k in range(12)))
    assert names(frames)[0] == [None], "at first nobody could know"
    assert names(frames)[-1] == ["Anna"]
    (anna,) = naming.finish()
    assert (anna.name, anna.first) == ("Anna", 0.0)
    wanted = 2 * embedding(12) + 10 * embedding(10)
    assert anna.similarity == pytest.approx(float(wanted @ embedding(10) / np.linalg.norm(wanted)))


def test_appearances_by_the_second_they_began() -> None:
    naming = people(lost_after=1.0)
    shown = [(10,)] * 5 + [()] * 10 + [(20, 10)] * 5 + [(20,)] * 5
    list(naming.name(frame(k, *grays) for k, grays in enumerate(shown)))
    assert [(seen.name, seen.first, seen.last, seen.n_frames) for seen in naming.finish()] == [
        ("Anna", 0.0, 0.8, 5), ("Ben", 3.0, 4.8, 10), ("Anna", 3.0, 3.8, 5),
    ]  # fmt: skip
    assert [seen.track for seen in naming.finish()] == [1, 2, 3], "asked again, the same"


def test_nobody_in_it() -> None:
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
    assert len(taken) == 16, "no more are held than one chunk"
    list(named)
    assert detector.calls == [16, 16, 8]


def test_large_frames_come_in_smaller_chunks() -> None:
    detector = StubDetector()
    large = np.zeros((3000, 4000, 3), np.uint8)
    naming = VideoNamer(detector, StubEmbedder(), namer)  # type: ignore[arg-type]
    list(naming.name(Frame(k, float(k), large) for k in range(5)))
    assert detector.calls == [2, 2, 1]


def test_a_camera_is_answered_at_once_and_keeps_its_pixels() -> None:
    naming = people(keep_pixels=True)
    source = (frame(k, 10) for k in range(3))
    first = next(naming.name(source, chunk_frames=1))
    assert (first.pixels == frame(0, 10).pixels).all()
    assert next(source).index == 5, "the second was not taken yet"


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
