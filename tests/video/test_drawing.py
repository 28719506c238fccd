"""Drawn videos: every frame at its time, and boxes at the faces, also between the analysed frames."""

from __future__ import annotations

import errno
from pathlib import Path

import av
import numpy as np
import pytest

from facespace.errors import VideoError
from facespace.faces.drawing import KNOWN
from facespace.faces.face import Face
from facespace.video import drawing as video_drawing
from facespace.video.appearances import Appearance, NamedFace, NamedFrame
from facespace.video.drawing import STRANGER, Labels, draw_frame, draw_video
from facespace.video.reader import read_frames
from support.video_files import write_video

SIZE = (320, 240)


def face_at(x: float) -> Face:
    return Face(
        (x, 60.0, x + 60, 120.0), 0.99, ((x + 20, 80), (x + 40, 80), (x + 30, 90), (x + 22, 100), (x + 38, 100))
    )


def named(k: int, *faces: tuple[int, float]) -> NamedFrame:
    """Return frame k, of 25 a second, with (track, position) of its faces, without names."""
    return NamedFrame(k, k / 25, [NamedFace(face_at(x), track, None, 0.1, 0.4) for track, x in faces])


def appearance(track: int, name: str | None) -> Appearance:
    return Appearance(track, name, 0.5, 0.4, 0.0, 1.0, 2)


@pytest.fixture
def black(tmp_path: Path) -> Path:
    return write_video(tmp_path / "black.mp4", [np.zeros((*SIZE[::-1], 3), np.uint8)] * 20)


def left_edge(pixels: np.ndarray, color: tuple[int, int, int]) -> int | None:
    """Return the first column with much of a colour."""
    near = (np.abs(pixels.astype(int) - color).max(axis=2) < 45)[61:119].sum(axis=0) > 30
    return int(near.argmax()) if near.any() else None


def shown(labels: Labels, second: float) -> list[tuple[float, str | None]]:
    """Return the positions of faces at a second and their names, from left to right."""
    return sorted((round(face.box[0], 6), name) for face, name in labels.at(second))


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov", ".webm"])
def test_boxes_are_interpolated_and_names_apply_from_the_first_frame(black: Path, ending: str) -> None:
    target = black.with_name(f"drawn{ending}")
    draw_video(str(black), target, [named(0, (1, 10)), named(10, (1, 110))], [appearance(1, "Anna")])
    drawn = list(read_frames(target, every=1))
    assert [frame.seconds for frame in drawn] == pytest.approx([k / 25 for k in range(20)], abs=0.002)
    assert drawn[0].pixels.shape == (*SIZE[::-1], 3)
    edges = [left_edge(frame.pixels, KNOWN) for frame in drawn]
    assert edges[:11] == pytest.approx([10 + 10 * k for k in range(11)], abs=2)
    assert edges[11:] == pytest.approx([110] * 9, abs=2), "after the last analysed frame they stay"
    assert sorted(path.name for path in black.parent.iterdir()) == ["black.mp4", target.name]


def test_faces_come_and_go_halfway_between_frames(black: Path) -> None:
    target = black.with_name("drawn.mkv")
    draw_video(
        str(black), target, [named(0, (1, 10)), named(10, (2, 200))], [appearance(1, "Anna"), appearance(2, None)]
    )
    drawn = [frame.pixels for frame in read_frames(target, every=1)]
    assert [left_edge(pixels, KNOWN) is not None for pixels in drawn] == [True] * 5 + [False] * 15
    assert [left_edge(pixels, STRANGER) is not None for pixels in drawn] == [False] * 5 + [True] * 15


def test_names_are_those_of_the_appearance_of_that_time() -> None:
    """A track that continues with another person's face; names of single frames do not count."""
    frames = [NamedFrame(k, k / 5, [NamedFace(face_at(10), 1, "at first", 0.9, 0.4)]) for k in range(6)]
    seen = [Appearance(1, "Ben", 0.5, 0.4, 0.6, 1.0, 3), Appearance(1, "Anna", 0.5, 0.4, 0.0, 0.4, 3)]
    names = [name for second in np.arange(0, 1.2, 0.04) for _, name in Labels(frames, seen).at(second)]
    assert names == ["Anna"] * 13 + ["Ben"] * 17, "the middle between 0.4 and 0.6 is at 0.5"
    assert shown(Labels(frames, []), 0.3) == [(10, None)]


def test_at_a_cut_faces_change_and_do_not_move() -> None:
    frames = [named(0, (1, 10), (2, 100)), NamedFrame(5, 0.2, named(5, (1, 50), (3, 200)).faces, cuts=(0.06, 0.14))]
    labels = Labels(frames, [appearance(1, "Anna"), appearance(2, "Ben"), appearance(3, "Carl")])
    assert shown(labels, 0.04) == [(10, "Anna"), (100, "Ben")]
    assert shown(labels, 0.06) == shown(labels, 0.12) == [], "a shot without an analysed frame"
    assert shown(labels, 0.14) == shown(labels, 0.5) == [(50, "Anna"), (200, "Carl")]


def test_faces_come_and_go_when_the_picture_shows_it() -> None:
    frames = [named(0, (1, 10)), named(5, (2, 10)), named(10)]
    seen = [Appearance(1, "Anna", 0.5, 0.4, 0, 0, 1, end=0.16), Appearance(2, "Ben", 0.5, 0.4, 0.2, 0.2, 1, 0.16, 0.36)]
    names = [[name for _, name in Labels(frames, seen).at(k / 25)] for k in range(12)]
    assert names == [["Anna"]] * 4 + [["Ben"]] * 5 + [[]] * 3
    seen = [Appearance(1, "Anna", 0.5, 0.4, 0, 0.4, 2, end=0.6), appearance(2, "Ben")]
    names = [[name for _, name in Labels(frames, seen).at(k / 25)] for k in range(12)]
    assert names == [["Anna"]] * 3 + [["Ben"]] * 5 + [[]] * 4, "the end of a later appearance does not matter here"


def test_no_faces_before_the_first_frame_and_without_frames() -> None:
    assert Labels([named(5, (1, 10))], []).at(0.1) == []
    assert Labels([], []).at(0.1) == []


def test_uneven_times_and_odd_sizes(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.3, 0.31, 2.0]
    path = write_video(
        tmp_path / "a.mkv", [np.zeros((31, 33, 3), np.uint8)] * 5, codec="ffv1", pix_fmt="yuv444p", times=times
    )
    draw_video(str(path), tmp_path / "drawn.mp4", [], [])
    drawn = list(read_frames(tmp_path / "drawn.mp4", every=1))
    assert [frame.seconds for frame in drawn] == pytest.approx(times, abs=0.002)
    assert drawn[0].pixels.shape == (32, 34, 3)


@pytest.mark.parametrize("coders", [(("mpeg4", "mpeg4"),), (("vp9", "libvpx-vp9"),)], ids=str)
def test_without_x264(black: Path, monkeypatch: pytest.MonkeyPatch, coders: tuple[tuple[str, str], ...]) -> None:
    monkeypatch.setattr(video_drawing, "_ENCODERS", coders)
    target = black.with_name("drawn.mp4")
    draw_video(str(black), target, [named(0, (1, 10))], [])
    assert len(list(read_frames(target, every=1))) == 20
    monkeypatch.setattr(video_drawing, "_ENCODERS", (("h264", "no_such_coder"),))
    with pytest.raises(VideoError, match="no encoder for such a file"):
        draw_video(str(black), target, [], [])


def test_the_readable_part_of_a_damaged_video_is_drawn(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    noise = [dice.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(20)]
    path = write_video(tmp_path / "a.mkv", noise, gop=1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    draw_video(str(path), tmp_path / "drawn.mkv", [], [])
    assert 5 < len(list(read_frames(tmp_path / "drawn.mkv", every=1))) < 15


def test_a_failed_drawing_leaves_no_file(black: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"must end in \.mp4"):
        draw_video(str(black), black.with_name("a.avi"), [], [])
    with pytest.raises(VideoError, match="no frame of it can be decoded"):
        draw_video("missing.mp4", black.with_name("a.mp4"), [], [])
    with pytest.raises(FileNotFoundError):
        draw_video(str(black), black.parent / "no" / "a.mp4", [], [])
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(video_drawing._Writer, "_begin", lambda self: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space left"):
        draw_video(str(black), black.with_name("a.mp4"), [], [])
    assert [path.name for path in black.parent.iterdir()] == ["black.mp4"]


@pytest.mark.parametrize("is_late", [False, True])
def test_a_disk_that_is_full_when_a_video_is_closed(
    black: Path, is_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's error with the target's name is raised, even if writing failed before."""

    class Full:
        def __init__(self, container: object) -> None:
            self._container = container

        def __getattr__(self, name: str) -> object:
            return getattr(self._container, name)

        def mux(self, packets: object) -> None:
            if not is_late:
                raise av.error.OSError(errno.ENOSPC, "No space left on device")
            self._container.mux(packets)

        def close(self) -> None:
            self._container.close()
            raise av.error.OSError(errno.ENOSPC, "No space left on device")

    enter = video_drawing._Writer.__enter__

    def begin(writer: video_drawing._Writer) -> video_drawing._Writer:
        enter(writer)
        writer._container = Full(writer._container)
        return writer

    monkeypatch.setattr(video_drawing._Writer, "__enter__", begin)
    target = black.with_name("a.mp4")
    with pytest.raises(OSError, match="No space left") as raised:
        draw_video(str(black), target, [], [])
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(target))
    assert not isinstance(raised.value, av.FFmpegError)
    assert [path.name for path in black.parent.iterdir()] == ["black.mp4"]


def test_an_old_drawing_is_replaced(black: Path) -> None:
    target = black.with_name("drawn.mp4")
    target.write_text("old")
    draw_video(str(black), target, [], [])
    assert len(list(read_frames(target, every=1))) == 20


def test_a_frame_of_its_own(black: Path) -> None:
    pixels = np.zeros((*SIZE[::-1], 3), np.uint8)
    faces = [NamedFace(face_at(10), 1, "Anna", 0.9, 0.4), NamedFace(face_at(200), 2, None, 0.1, 0.4)]
    drawn = np.asarray(draw_frame(NamedFrame(0, 0.0, faces, pixels)))
    assert left_edge(drawn, KNOWN) == 10
    assert left_edge(drawn, STRANGER) == 200
    assert not pixels.any(), "drawn on a copy"
