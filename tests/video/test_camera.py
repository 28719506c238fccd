"""Cameras, replaced by FFmpeg's test picture."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from facespace.errors import RuntimeUnavailable, VideoError
from facespace.video import camera
from facespace.video.camera import newest, read_camera

TEST_PICTURE = ("testsrc=size=64x48:rate=25", "lavfi", {})


@pytest.fixture
def picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "_device", lambda number: TEST_PICTURE)


# The newest


def test_a_slow_caller_gets_the_newest() -> None:
    given, taken = threading.Semaphore(0), []

    def source() -> Iterator[int]:
        for k in range(12):
            yield k
            if k in (0, 10):
                given.acquire()  # until the item was taken

    items = newest(source())
    taken.append(next(items))
    given.release()
    time.sleep(0.3)  # meanwhile ten have arrived
    taken.append(next(items))
    given.release()
    assert [*taken, *items] == [0, 10, 11]


def test_an_error_comes_after_the_last() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise VideoError("camera 0", "it stopped")

    items = newest(source())
    with pytest.raises(VideoError, match="it stopped"):
        assert list(items) == [1]
    assert list(newest([])) == []


def test_the_source_is_closed_when_the_caller_stops() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            for k in itertools.count():
                time.sleep(0.001)
                yield k
        finally:
            time.sleep(0.1)
            closed.set()

    items = newest(source())
    next(items)
    items.close()
    assert closed.is_set(), "the camera is free when this returns"


# The camera


@pytest.mark.usefixtures("picture")
def test_pictures_of_a_camera() -> None:
    pictures = read_camera(0)
    some = list(itertools.islice(pictures, 3))
    pictures.close()
    assert [frame.index for frame in some] == [0, 1, 2]
    assert some[0].seconds == 0
    assert all(first.seconds <= second.seconds for first, second in itertools.pairwise(some))
    assert some[0].pixels.shape == (48, 64, 3)
    assert np.ptp(some[0].pixels) > 200


def test_a_camera_that_has_no_picture_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, where a request that is too early raises an error, which ends the iterator."""
    answers = iter([BlockingIOError(), "picture", BlockingIOError(), "picture", None])

    def demux(stream: object) -> Iterator[object]:
        for answer in answers:
            if isinstance(answer, BlockingIOError):
                raise answer
            if answer is None:
                return
            yield SimpleNamespace(size=1, decode=lambda answer=answer: [answer])

    class Container(SimpleNamespace):
        def __enter__(self) -> Container:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    container = Container(streams=SimpleNamespace(video=["stream"]), demux=demux)
    monkeypatch.setattr(av, "open", lambda *_, **__: container)
    assert [what for _, what in camera._pictures(0)] == ["picture", "picture"]


@pytest.mark.skipif(sys.platform != "linux" or Path("/dev/video77").exists(), reason="asks Linux for a camera")
def test_no_such_camera() -> None:
    with pytest.raises(VideoError, match=r"^camera 77: there is no such camera \(/dev/video77\)$"):
        next(read_camera(77))


def test_a_camera_that_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, said in (
        (OSError(16, "Device or resource busy"), "another program"),
        (PermissionError(), "may not open"),
    ):

        def refuse(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(av, "open", refuse)
        with pytest.raises(VideoError, match=f"camera 0: .*{said}"):
            next(read_camera(0))


def test_the_device_on_each_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "platform", "linux")
    assert camera._device(1)[:2] == ("/dev/video1", "v4l2")
    monkeypatch.setattr(camera, "platform", "darwin")
    assert camera._device(1)[:2] == ("1:none", "avfoundation")
    monkeypatch.setattr(camera, "platform", "win32")
    devices = [
        SimpleNamespace(name="Microphone", media_types=["audio"]),
        SimpleNamespace(name="Webcam", media_types=["video"]),
    ]
    monkeypatch.setitem(sys.modules, "av.device", SimpleNamespace(enumerate_input_devices=lambda kind: devices))
    assert camera._device(0)[:2] == ("video=Webcam", "dshow")
    with pytest.raises(VideoError, match=r"camera 1: there is no such camera \(this machine has 1\)"):
        camera._device(1)
    monkeypatch.setitem(sys.modules, "av.device", None)
    with pytest.raises(RuntimeUnavailable, match="newer PyAV"):
        camera._device(0)


def test_a_number_below_zero() -> None:
    with pytest.raises(ValueError, match="a camera's number must be 0 or more, got -1"):
        next(read_camera(-1))


def test_without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RuntimeUnavailable, match=r"facespace\[video\]"):
        next(read_camera(0))
