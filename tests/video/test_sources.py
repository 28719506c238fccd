"""Sources to watch, and sources that stop and are reopened."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facespace.errors import VideoError
from facespace.video.reader import Frame
from facespace.video.sources import Source, connections, open_source, parsed_source
from support.video_files import counted_frames, write_video

CAMERA = Source("door", "camera", "0")


def frame(k: int) -> Frame:
    return Frame(k, k / 5, np.zeros((4, 4, 3), np.uint8))


def test_parsing_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parsed_source("2") == Source("camera 2", "camera", "2")
    assert parsed_source("back door=1") == Source("back door", "camera", "1")
    address = "rtsp://admin:x@10.0.0.7:554/live?channel=1"
    assert parsed_source(address) == Source("rtsp://10.0.0.7:554/live", "stream", address)
    assert parsed_source(f"door={address}") == Source("door", "stream", address)
    assert parsed_source("a/b.mp4") == Source("b.mp4", "film", "a/b.mp4")
    (tmp_path / "door=0").touch()
    assert parsed_source("door=0").kind == "film", "a file of that name is a file"
    for word in ("ftp://host/x", "file:///etc/passwd", "door=gopher://x"):
        with pytest.raises(ValueError, match="must begin with rtsp"):
            parsed_source(word)


def test_a_camera_that_stops_is_reopened() -> None:
    """It sends in turn: an error, two frames and an error, an end, one frame."""
    times: list[list[Frame | VideoError]] = [
        [VideoError("camera 0", "there is no such camera")],
        [frame(0), frame(1), VideoError("camera 0", "it stopped")],
        [],
        [frame(0)],
    ]
    stop, said, given = threading.Event(), [], []

    def opener(source: Source, per_second: float) -> Iterator[Frame]:
        assert (source, per_second) == (CAMERA, 3.0)
        for item in times.pop(0):
            if isinstance(item, VideoError):
                raise item
            yield item

    for frames in connections(
        CAMERA, stop, per_second=3.0, trouble=said.append, first_pause=0.01, last_pause=0.04, opener=opener
    ):
        given.append([one.index for one in frames])
        if not times:
            stop.set()
    assert given == [[], [0, 1], [], [0]]
    assert said == [
        "door: there is no such camera; opening it again in 0.01 s",
        "door: it stopped; opening it again in 0.02 s",
        "door: it ended; opening it again in 0.04 s",
    ]


def test_pauses_grow_to_their_limit_and_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, said = threading.Event(), []
    lasting = threading.Event()

    def opener(source: Source, per_second: float) -> Iterator[Frame]:
        if len(said) == 4:
            yield frame(0)
            lasting.wait(0.2)  # longer than the pause before
            yield frame(1)
        raise VideoError("camera 0", "gone")

    for frames in connections(CAMERA, stop, trouble=said.append, first_pause=0.01, last_pause=0.05, opener=opener):
        list(frames)
        if len(said) == 6:
            stop.set()
    assert [line.rpartition(" in ")[2] for line in said] == ["0.01 s", "0.02 s", "0.04 s", "0.05 s", "0.01 s", "0.02 s"]


def test_the_camera_is_released_when_stop_is_set() -> None:
    closed, stop = threading.Event(), threading.Event()

    def opener(source: Source, per_second: float) -> Iterator[Frame]:
        try:
            for k in range(1_000_000):
                yield frame(k)
        finally:
            closed.set()

    (given,) = [
        [stop.set() if one.index == 3 else one.index for one in frames]
        for frames in connections(CAMERA, stop, opener=opener)
    ]
    assert given == [0, 1, 2, None]
    assert closed.is_set()


def test_a_film_is_read_once(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", counted_frames(10), rate=5)
    source = parsed_source(str(film))
    given = [[one.index for one in frames] for frames in connections(source, threading.Event())]
    assert given == [list(range(10))]
    assert len(list(open_source(source, 2.5))) == 5
    with pytest.raises(VideoError, match="no such file"):
        for frames in connections(parsed_source(str(tmp_path / "none.mp4")), threading.Event()):
            list(frames)
