"""Reads video files: upright frames, each with the second at which it is shown.

PyAV (FFmpeg's libraries), the extra `video`, decodes; it is imported when the first video is opened. Only the formats
listed here are opened, and a file cannot make FFmpeg open another file or an address: a playlist called party.mp4 is not
a video.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from facespace.errors import RuntimeUnavailable, VideoError
from facespace.io.image import pixel_limit
from facespace.io.text import first_line
from facespace.video.cuts import SIZE as THUMBNAIL_SIZE, Changes, CutFinder

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer

RGB = npt.NDArray[np.uint8]

FRAMES_A_SECOND = 5.0  # often enough to follow a face; a minute of video has 300 such frames
MAX_PIXELS = 100_000_000  # of a frame; a decoder keeps several of them. Cameras record up to 35 million

FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,h264,hevc,ivf,nut,mjpeg,mpjpeg"
_MAX_ASPECT = 4  # a larger ratio of a pixel's sides is an error in the file


@dataclass(frozen=True, slots=True)
class Frame:
    """Represents one frame: its number in the file, from 0; its second; its upright pixels (H,W,3) uint8 RGB.

    `cuts` are the seconds at which new shots began since the previous returned frame. `changes` record when parts of
    the picture were replaced since that frame; None if this is not known, as with cameras.
    """

    index: int
    seconds: float
    pixels: RGB
    cuts: tuple[float, ...] = ()
    changes: Changes | None = None


def read_frames(
    path: str | os.PathLike[str],
    *,
    every: int | None = None,
    per_second: float = FRAMES_A_SECOND,
    max_pixels: int | None = None,
) -> Iterator[Frame]:
    """Read every `every`-th frame of a video, or about `per_second` frames a second at any frame rate, as a stream.

    The first frame is always included. The file's rotation and mirroring are applied, and pixels that are not square are
    made square. Seconds count from the file's start, as a player shows them. Cuts are found in all frames, including those
    that are not returned.

    Raises `VideoError` if the file cannot be read or its frames have more than `max_pixels`, which is checked before
    decoding (by default 100 million, or the value of the variable FACESPACE_MAX_PIXELS). If the file is damaged, the
    readable frames are yielded before the error is raised. Raises `RuntimeUnavailable` without PyAV, and `ValueError`
    for an `every` below 1 or a `per_second` that is not above 0.
    """
    if every is not None and every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    if not per_second > 0:
        raise ValueError(f"per_second must be above 0, got {per_second}")
    limit = pixel_limit(MAX_PIXELS) if max_pixels is None else max_pixels
    return _frames(os.fspath(path), every, 1 / per_second, limit)


def video_seconds(path: str | os.PathLike[str]) -> float | None:
    """Return the length of a video in seconds that its header declares, or None. Errors are those of `read_frames`."""
    with _opened(os.fspath(path), MAX_PIXELS) as (container, stream, _):
        duration = _declared_seconds(container, stream)
        return duration if duration is not None or container.duration is None else container.duration / 1e6


def pyav() -> ModuleType:
    """Import and return the package `av`. Raises `RuntimeUnavailable`, which says how to install it."""
    try:
        import av
    except ImportError as error:
        raise RuntimeUnavailable("videos and cameras need the extra video: pip install 'facespace[video]'") from error
    return av


def metadata_options(av: ModuleType) -> dict[str, str]:
    """Return options with which `av.open` accepts titles that are not UTF-8. PyAV 19 and later always accepts them."""
    return {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


def upright_pixels(frame: VideoFrame, aspect: float = 1.0) -> RGB:
    """Return a decoded frame as (H,W,3) uint8 RGB, rotated by its display matrix.

    `aspect` is the width of a pixel divided by its height.
    """
    if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
        aspect = 1.0
    # Shrink one direction, never stretch the other: then a value in the file cannot exceed the limit of pixels.
    width = max(1, round(frame.width * min(aspect, 1)))
    height = max(1, round(frame.height / max(aspect, 1)))
    pixels: Any = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    return turned(pixels, _display_matrix(frame))


def turned(pixels: RGB, matrix: tuple[int, int, int, int]) -> RGB:
    """Rotate and mirror pixels (H,W,3) by the multiple of 90° that is nearest to the matrix (a, b, c, d).

    A point (x, y) of the coded frame is shown at (a·x + c·y, b·x + d·y), y downwards: ISO/IEC 14496-12, 6.2.2.

    >>> turned(np.array([[[1, 1, 1], [2, 2, 2]]], np.uint8), (0, 1, -1, 0))[:, 0, 0].tolist()  # a quarter clockwise
    [1, 2]
    """
    a, b, c, d = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        flip_x, flip_y = a < 0, d < 0
    else:
        pixels, flip_x, flip_y = pixels.swapaxes(0, 1), c < 0, b < 0
    return np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return (a, b, c, d) of the frame's display matrix, or the identity if it has no matrix."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None or data.buffer_size < 36:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    return a, b, c, d


class _File:
    """An open file for FFmpeg. Errors of the system become the return values that FFmpeg expects.

    FFmpeg would print raised exceptions into a program's output. `error` is the reason why reading stopped.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: str | None = None
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            self.error = _cause(error)
            return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):  # a damaged file may point to before its start
            return -errno.EINVAL


@contextlib.contextmanager
def _opened(path: str, max_pixels: int) -> Iterator[tuple[InputContainer, VideoStream, _File]]:
    """Open a file and its video stream, ready to decode."""
    av = pyav()
    # FFmpeg's own limit applies before we know the size. It is looser, as FFmpeg counts the padding of rows too.
    limit = {"max_pixels": str(2 * max_pixels + 65_536)}
    with contextlib.ExitStack() as stack:
        try:
            status = os.stat(path)  # before opening, because opening a fifo waits for its writer
            if stat.S_ISDIR(status.st_mode):
                raise VideoError(path, "a folder, not a video")
            if not stat.S_ISREG(status.st_mode):
                raise VideoError(path, "not a regular file")
            if not status.st_size:
                raise VideoError(path, "the file is empty")
            file = _File(stack.enter_context(open(path, "rb")))
        except (OSError, ValueError) as error:  # ValueError for a name that no file can have
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            raise VideoError(path, "no such file" if missing else f"cannot be opened ({_cause(error)})") from error
        try:
            # PyAV gets an open file, never its name, which FFmpeg could take for an address.
            options = {**limit, "format_whitelist": FORMATS, "protocol_whitelist": "none"}
            container = stack.enter_context(av.open(file, options=options, **metadata_options(av)))
        except Exception as error:  # a damaged file can raise any error
            reason = f"not a video that facespace can read, or damaged at its start ({_cause(error)})"
            raise VideoError(path, reason) from error
        # FFmpeg treats the cover picture of a song as a video stream.
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            raise VideoError(path, "no video in it" + (", only sound" if container.streams.audio else ""))
        stream = streams[0]
        coding: Any = stream.codec_context  # None if FFmpeg has no decoder, which its annotation does not say
        if coding is None:
            raise VideoError(path, "FFmpeg has no decoder for its video")
        width, height = coding.width, coding.height
        if width * height > max_pixels:
            raise VideoError(path, f"frames of {width * height:,} pixels; the limit is {max_pixels:,}")
        if not width * height:  # FFmpeg drops a size beyond its limit
            raise VideoError(path, f"the size of its frames is unknown, or above {max_pixels:,} pixels")
        coding.options = limit
        stream.thread_type = "AUTO"
        yield container, stream, file


def _frames(path: str, every: int | None, interval: float, max_pixels: int) -> Iterator[Frame]:
    with _opened(path, max_pixels) as (container, stream, file):
        origin = (container.start_time or 0) / 1e6
        aspect = float(stream.sample_aspect_ratio or 1)
        rate = float(stream.average_rate or 25)
        damage: list[str] = []
        index, taken = -1, -math.inf
        finder, thumbnail = CutFinder(), _thumbnails()
        for index, frame in enumerate(_decoded(container, stream, damage)):
            # Frames without a time, as in raw streams, follow each other at the stream's rate.
            seconds = index / rate
            if frame.pts is not None and stream.time_base is not None:
                seconds = max(float(frame.pts * stream.time_base) - origin, 0.0)
            if (small := thumbnail(frame)) is not None:
                finder.add(small, seconds)
            # `abs`, because a damaged time may be far in the future, and the frames after it should still be returned.
            if index % every if every is not None else abs(seconds - taken) < interval * (1 - 1e-6):
                continue
            if frame.width * frame.height > max_pixels:  # the size may change within a stream
                damage.append(f"a frame of {frame.width * frame.height:,} pixels; the limit is {max_pixels:,}")
                continue
            try:
                pixels = upright_pixels(frame, aspect)
            except Exception as error:  # a damaged frame can raise any error
                damage.append(_cause(error))
                continue
            taken = seconds
            yield Frame(index, seconds, pixels, *finder.take())
        if file.error is not None:
            damage.insert(0, file.error)
    n = index + 1
    if not n:
        raise VideoError(path, "no frame of it can be decoded" + (f" ({damage[0]})" if damage else ""))
    if damage:
        raise VideoError(path, f"damaged ({damage[0]}); {n} frame{'' if n == 1 else 's'} of it could be read")


def _thumbnails() -> Callable[[VideoFrame], RGB | None]:
    """Return a function that makes upright thumbnails of a film's frames; it returns None for a damaged frame."""
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # one for the whole film; a new one for each frame is several times slower
    width, height = THUMBNAIL_SIZE

    def thumbnail(frame: VideoFrame) -> RGB | None:
        try:
            pixels: Any = reformatter.reformat(
                frame, width=width, height=height, format="rgb24", interpolation="AREA"
            ).to_ndarray()
        except Exception:  # a damaged frame can raise any error; it is reported when its pixels are read
            return None
        return turned(pixels, _display_matrix(frame))

    return thumbnail


def _decoded(container: InputContainer, stream: VideoStream, damage: list[str]) -> Iterator[VideoFrame]:
    """Yield all frames that can be decoded, and add a description of each error to `damage`."""
    packets, end = container.demux(stream), 0.0
    while True:
        packet = None
        try:
            # Skip empty packets: they would end the decoding, as None does after the last packet.
            packet = next((packet for packet in packets if packet.size), None)
        except Exception as error:  # the file's structure is damaged, so nothing after it can be found
            damage.append(_cause(error))
        try:
            frames = stream.codec_context.decode(packet)
        except Exception as error:
            frames = []
            damage.append(_cause(error))
        # FFmpeg marks the last part of a multipart stream as corrupt, because it expects another boundary.
        if packet is not None and packet.is_corrupt and container.format.name != "mpjpeg":
            damage.append("a part is missing")
        yield from frames
        if packet is None:
            break
        if packet.pts is not None and packet.time_base is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    declared = _declared_seconds(container, stream)
    if declared is not None:
        start = float((stream.start_time or 0) * (stream.time_base or 0))
        # Programs that write files are wrong by at most half a second.
        if end - start < declared - 0.5:
            damage.append(f"it ends after {max(end - start, 0):.1f} of {declared:.1f} seconds")


def _declared_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the length in seconds that is declared for a stream, or None.

    It is the stream's own, or that of Matroska's tag, or that of the file if the file has only this stream.
    """
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    with contextlib.suppress(KeyError, ValueError):
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return container.duration / 1e6 if container.duration is not None and len(container.streams) == 1 else None


def _cause(error: BaseException) -> str:
    """Return the message of FFmpeg or of the system, without the name of the function that failed."""
    return str(getattr(error, "strerror", None) or first_line(error))
