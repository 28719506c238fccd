"""Drawn videos: every frame at its time, boxes where the faces are, also between the frames looked at."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from facespace.errors import VideoError
from facespace.faces.drawing import KNOWN
from facespace.faces.face import Face
from facespace.video import drawing as video_drawing
from facespace.video.drawing import STRANGER, draw_frame, draw_video
from facespace.video.naming import Appearance, NamedFace, NamedFrame
from facespace.video.reader import read_frames
from support.video_files import write_video

SIZE = (320, 240)


def face_at(x: float) -> Face:
    return Face(
        (x, 60.0, x + 60, 120.0), 0.99, ((x + 20, 80), (x + 40, 80), (x + 30, 90), (x + 22, 100), (x + 38, 100))
    )


def named(k: int, *faces: tuple[int, float]) -> NamedFrame:
    """Frame k of 25 a second, with (track, place) of its faces; nobody has a name yet."""
    return NamedFrame(k, k / 25, [NamedFace(face_at(x), track, None, 0.1, 0.4) for track, x in faces])


def appearance(track: int, name: str | None) -> Appearance:
    return Appearance(track, name, 0.5, 0.4, 0.0, 1.0, 2)


@pytest.fixture
def black(tmp_path: Path) -> Path:
    return write_video(tmp_path / "black.mp4", [np.zeros((*SIZE[::-1], 3), np.uint8)] * 20)


def left_edge(pixels: np.ndarray, color: tuple[int, int, int]) -> int | None:
    """The first column with much of a colour."""
    near = (np.abs(pixels.astype(int) - color).max(axis=2) < 45)[61:119].sum(axis=0) > 30
    return int(near.argmax()) if near.any() else None


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov", ".webm"])
def test_boxes_move_evenly_and_names_hold_from_the_first_frame(black: Path, ending: str) -> None:
    target = black.with_name(f"drawn{ending}")
    draw_video(str(black), target, [named(0, (1, 10)), named(10, (1, 110))], [appearance(1, "Anna")])
    drawn = list(read_frames(target, every=1))
    assert [frame.seconds for frame in drawn] == pytest.approx([k / 25 for k in range(20)], abs=0.002)
    assert drawn[0].pixels.shape == (*SIZE[::-1], 3)
    edges = [left_edge(frame.pixels, KNOWN) for frame in drawn]
    assert edges[:11] == pytest.approx([10 + 10 * k for k in range(11)], abs=2)
    assert edges[11:] == pytest.approx([110] * 9, abs=2), "after the last frame looked at they stay"
    assert sorted(path.name for path in black.parent.iterdir()) == ["black.mp4", target.name]


def test_faces_that_come_and_go_change_in_the_middle(black: Path) -> None:
    target = black.with_name("drawn.mkv")
    draw_video(
        str(black), target, [named(0, (1, 10)), named(10, (2, 200))], [appearance(1, "Anna"), appearance(2, None)]
    )
    drawn = [frame.pixels for frame in read_frames(target, every=1)]
    assert [left_edge(pixels, KNOWN) is not None for pixels in drawn] == [True] * 5 + [False] * 15
    assert [left_edge(pixels, STRANGER) is not None for pixels in drawn] == [False] * 5 + [True] * 15


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
    monkeypatch.setattr(video_drawing, "_CODERS", coders)
    target = black.with_name("drawn.mp4")
    draw_video(str(black), target, [named(0, (1, 10))], [])
    assert len(list(read_frames(target, every=1))) == 20
    monkeypatch.setattr(video_drawing, "_CODERS", (("h264", "no_such_coder"),))
    with pytest.raises(VideoError, match="no coder for such a file"):
        draw_video(str(black), target, [], [])


def test_a_damaged_video_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    noise = [dice.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(20)]
    path = write_video(tmp_path / "a.mkv", noise, gop=1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    draw_video(str(path), tmp_path / "drawn.mkv", [], [])
    assert 5 < len(list(read_frames(tmp_path / "drawn.mkv", every=1))) < 15


def test_what_cannot_be_drawn_leaves_nothing(black: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"wants the ending \.mp4"):
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
