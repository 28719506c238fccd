"""Reads the cameras of this machine. A caller that is slower than the camera always gets the newest picture."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from sys import platform
from typing import Any, Generic, TypeVar

from facespace.errors import RuntimeUnavailable, VideoError
from facespace.io.text import first_line
from facespace.video.reader import Frame, metadata_options, pyav, upright_pixels

T = TypeVar("T")

_PAUSE = 0.005  # seconds to wait if a camera has no new picture yet
_PATIENCE = 2.0  # seconds to wait for the reading thread when reading ends


def read_camera(number: int = 0, *, per_second: float | None = None) -> Generator[Frame, None, None]:
    """Yield a camera's pictures, upright, until the caller stops. Each request gets the newest picture.

    `number` counts the machine's cameras from 0. A frame's `index` counts the yielded pictures, not the skipped ones;
    its `seconds` count from the first. At most `per_second` pictures a second are yielded. Closing the iterator
    releases the camera.

    Raises `VideoError` if there is no such camera or if it stops, `RuntimeUnavailable` without PyAV.
    """
    # Close the camera even if the caller stops in the middle: its light stays on as long as it is open.
    with contextlib.closing(newest(_pictures(number))) as pictures:
        yield from frames_of(pictures, per_second=per_second)


def frames_of(
    pictures: Iterable[tuple[float, Any]], *, per_second: float | None = None, aspect: float = 1.0
) -> Iterator[Frame]:
    """Convert (time, decoded picture) to upright frames, at most `per_second` a second, or all if None.

    `aspect` is the width of a pixel divided by its height.
    """
    pause = 0.0 if per_second is None else 1 / per_second
    begin: float | None = None
    latest, index = 0.0, 0
    for taken, picture in pictures:
        if begin is None:
            begin = taken
        elif taken - latest < pause * (1 - 1e-6):
            continue
        latest = taken
        yield Frame(index, taken - begin, upright_pixels(picture, aspect))
        index += 1


class _Slot(Generic[T]):
    """Holder of the newest item of a source, or of how the source ended; `condition` guards both."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.item: tuple[T] | None = None
        self.ended = False
        self.error: BaseException | None = None


def newest(items: Iterable[T]) -> Generator[T, None, None]:
    """Yield the newest item of a live source each time; skip items that were followed by a newer one before that.

    A thread reads the source while the caller works. An error of the source is raised here, after its last item.

    >>> list(newest([7]))
    [7]
    """
    slot: _Slot[T] = _Slot()
    stop = threading.Event()

    def read() -> None:
        source = iter(items)
        error: BaseException | None = None
        try:
            for item in source:
                with slot.condition:
                    slot.item = (item,)
                    slot.condition.notify()
                if stop.is_set():
                    break
        except BaseException as reason:  # raised again in the consumer's thread
            error = reason
        finally:
            if close := getattr(source, "close", None):  # in the same thread that has read it
                close()
            with slot.condition:
                slot.ended, slot.error = True, error
                slot.condition.notify()

    reader = threading.Thread(target=read, name="facespace-camera", daemon=True)
    reader.start()
    try:
        while True:
            with slot.condition:
                slot.condition.wait_for(lambda: slot.item is not None or slot.ended)
                taken, slot.item = slot.item, None
            if taken is None:
                break
            yield taken[0]
    finally:
        stop.set()
        reader.join(_PATIENCE)
    if slot.error is not None:
        raise slot.error


def _pictures(number: int) -> Iterator[tuple[float, Any]]:
    """Yield (time, picture) of everything the camera sends; times are in seconds of the monotonic clock."""
    name, device_format, options = _device(number)
    av = pyav()
    source = f"camera {number}"
    try:
        container = av.open(name, format=device_format, options=options, **metadata_options(av))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VideoError(source, f"there is no such camera ({name})") from error
    except PermissionError as error:
        raise VideoError(source, f"this user may not open {name}") from error
    except Exception as error:  # drivers raise many kinds of errors
        raise VideoError(source, f"it cannot be opened ({_cause(error)}); is another program using it?") from error
    with container:
        if not container.streams.video:
            raise VideoError(source, "it sends no pictures")
        stream = container.streams.video[0]
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                pictures = packet.decode() if packet is not None and packet.size else []
            except BlockingIOError:  # macOS has no new picture yet; the error ends its iterator
                time.sleep(_PAUSE)
                packets = container.demux(stream)
                continue
            except Exception as error:
                raise VideoError(source, f"it stopped ({_cause(error)})") from error
            if packet is None:
                return
            now = time.monotonic()
            yield from ((now, picture) for picture in pictures)


def _device(number: int) -> tuple[str, str, dict[str, str]]:
    """Return what FFmpeg needs to open a camera on this system: name, format, options."""
    if number < 0:
        raise ValueError(f"a camera's number must be 0 or more, got {number}")
    if platform == "darwin":
        # By default FFmpeg requests 29.97 frames a second, which built-in cameras do not support.
        return f"{number}:none", "avfoundation", {"framerate": "30"}
    if platform == "win32":
        return _windows_camera(number), "dshow", {"rtbufsize": "100M"}
    return f"/dev/video{number}", "v4l2", {}


def _windows_camera(number: int) -> str:
    """Return the name of a camera, by which DirectShow opens it."""
    pyav()
    try:
        from av.device import enumerate_input_devices
    except ImportError as error:
        raise RuntimeUnavailable("cameras on Windows need a newer PyAV: pip install --upgrade av") from error
    cameras = [device.name for device in enumerate_input_devices("dshow") if "video" in device.media_types]
    if number >= len(cameras):
        raise VideoError(f"camera {number}", f"there is no such camera (this machine has {len(cameras)})")
    return f"video={cameras[number]}"


def _cause(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or first_line(error))
