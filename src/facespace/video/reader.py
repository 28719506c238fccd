"""Frames of a video file, upright and with the second each is shown at; the only reader of video files.

Decoding is PyAV's (FFmpeg's libraries), the extra `video`, imported when the first video is opened. A file decides
neither which of FFmpeg's readers opens it beyond those named here, nor that another file or an address is opened: a
playlist called party.mp4 is no video.
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

FRAMES_A_SECOND = 5.0  # a face is seen often enough to be followed, and a minute of video is 300 pictures
MAX_PIXELS = 100_000_000  # of a frame, as a decoder keeps several; cameras film up to 35 million

FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,h264,hevc,ivf,nut,mjpeg,mpjpeg"
_MAX_ASPECT = 4  # pixels wider or higher than that are a slip in the file, not a camera's


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: its number among all of the file, from 0; its second; its pixels (H,W,3) uint8 RGB, upright.

    `cuts` are the seconds at which new shots began since the frame given before; `changes` say when parts of the
    picture were replaced since then, None where nobody has looked.
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
    """Every `every`-th frame of a video, or about `per_second` of them a second whatever its frame rate; streamed.

    The first frame is always among them. Rotation and mirroring that the file asks for are applied and pixels that
    are not square made so. Seconds count from the file's start, as a player shows them. Cuts are looked for in all
    frames, including those that are not given.

    Raises `VideoError` when the file cannot be read or its frames have more than `max_pixels` (asked before they are
    decoded; by default 100 million, or what the variable FACESPACE_MAX_PIXELS says). Of a damaged file what can be decoded is given first and the error comes at the end.
    `RuntimeUnavailable` without PyAV; `ValueError` for an `every` below 1 or a `per_second` not above 0.
    """
    if every is not None and every < 1:
        raise ValueError(f"every wants a number of frames from 1 on; got {every}")
    if not per_second > 0:
        raise ValueError(f"per_second wants a number of frames above 0; got {per_second}")
    limit = pixel_limit(MAX_PIXELS) if max_pixels is None else max_pixels
    return _frames(os.fspath(path), every, 1 / per_second, limit)


def video_seconds(path: str | os.PathLike[str]) -> float | None:
    """How long a video says it is, in seconds; None where it does not say. Errors are those of `read_frames`."""
    with _opened(os.fspath(path), MAX_PIXELS) as (container, stream, _):
        duration = _declared_seconds(container, stream)
        return duration if duration is not None or container.duration is None else container.duration / 1e6


def pyav() -> ModuleType:
    """The package `av`; `RuntimeUnavailable` says how to get it."""
    try:
        import av
    except ImportError as error:
        raise RuntimeUnavailable("videos and cameras need the extra video: pip install 'facespace[video]'") from error
    return av


def titles_in_any_letters(av: ModuleType) -> dict[str, str]:
    """What makes `av.open` take files whose titles are no UTF-8; from PyAV 19 on it takes them, and no word of it."""
    return {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


def upright_pixels(frame: VideoFrame, aspect: float = 1.0) -> RGB:
    """A decoded frame as (H,W,3) uint8 RGB, turned as its display matrix says; `aspect`: width of a pixel by height."""
    if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
        aspect = 1.0
    # Shrunk in one direction, never stretched in the other: a factor from the file cannot pass the limit of pixels.
    width = max(1, round(frame.width * min(aspect, 1)))
    height = max(1, round(frame.height / max(aspect, 1)))
    pixels: Any = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    return turned(pixels, _display_matrix(frame))


def turned(pixels: RGB, matrix: tuple[int, int, int, int]) -> RGB:
    """Pixels (H,W,3) turned and mirrored by the nearest multiple of 90° to (a, b, c, d).

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
    """(a, b, c, d) of what the file asks for; that of a frame shown as it is where it asks for nothing."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None or data.buffer_size < 36:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    return a, b, c, d


class _File:
    """An open file as FFmpeg reads it. What the system refuses is answered as FFmpeg's own readers are answered.

    Raised through FFmpeg, it would be printed in the midst of a program's output. `error` is why reading stopped.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: str | None = None
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            self.error = _said(error)
            return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):  # a damaged file points to before its begin
            return -errno.EINVAL


@contextlib.contextmanager
def _opened(path: str, max_pixels: int) -> Iterator[tuple[InputContainer, VideoStream, _File]]:
    """The file and its video stream, ready to decode."""
    av = pyav()
    # FFmpeg's own limit, before it has told us a size: looser, as it counts the rows' padding too.
    limit = {"max_pixels": str(2 * max_pixels + 65_536)}
    with contextlib.ExitStack() as stack:
        try:
            status = os.stat(path)  # before opening: opening a fifo waits for its writer
            if stat.S_ISDIR(status.st_mode):
                raise VideoError(path, "a folder, not a video")
            if not stat.S_ISREG(status.st_mode):
                raise VideoError(path, "not a regular file")
            if not status.st_size:
                raise VideoError(path, "the file is empty")
            file = _File(stack.enter_context(open(path, "rb")))
        except (OSError, ValueError) as error:  # ValueError: a name no file can have
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            raise VideoError(path, "no such file" if missing else f"cannot be opened ({_said(error)})") from error
        try:
            # PyAV is given an open file, never its name, which could be an address to FFmpeg.
            options = {**limit, "format_whitelist": FORMATS, "protocol_whitelist": "none"}
            container = stack.enter_context(av.open(file, options=options, **titles_in_any_letters(av)))
        except Exception as error:  # a damaged file raises anything
            reason = f"not a video facespace reads, or damaged at its start ({_said(error)})"
            raise VideoError(path, reason) from error
        # The cover of a song is a video stream to FFmpeg.
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            raise VideoError(path, "no video in it" + (", only sound" if container.streams.audio else ""))
        stream = streams[0]
        coding: Any = stream.codec_context  # None, whatever its annotation says, where FFmpeg knows no decoder
        if coding is None:
            raise VideoError(path, "its video is coded in a way FFmpeg does not know")
        width, height = coding.width, coding.height
        if width * height > max_pixels:
            raise VideoError(path, f"frames of {width * height:,} pixels; the limit is {max_pixels:,}")
        if not width * height:  # FFmpeg forgets a size beyond its limit
            raise VideoError(path, f"its frames have no size that can be read, or more than {max_pixels:,} pixels")
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
            # Frames without a time of their own, as raw streams have them, follow each other at the stream's rate.
            seconds = index / rate
            if frame.pts is not None and stream.time_base is not None:
                seconds = max(float(frame.pts * stream.time_base) - origin, 0.0)
            if (small := thumbnail(frame)) is not None:
                finder.add(small, seconds)
            # A damaged time may lie far ahead; those after it are not waited out.
            if index % every if every is not None else abs(seconds - taken) < interval * (1 - 1e-6):
                continue
            if frame.width * frame.height > max_pixels:  # a size may change in the midst of a stream
                damage.append(f"a frame of {frame.width * frame.height:,} pixels; the limit is {max_pixels:,}")
                continue
            try:
                pixels = upright_pixels(frame, aspect)
            except Exception as error:  # a damaged frame raises anything
                damage.append(_said(error))
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
    """A function that makes frames of a film small, upright; None of a frame that is damaged."""
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # for the whole film: a new one for each frame takes several times as long
    width, height = THUMBNAIL_SIZE

    def thumbnail(frame: VideoFrame) -> RGB | None:
        try:
            pixels: Any = reformatter.reformat(
                frame, width=width, height=height, format="rgb24", interpolation="AREA"
            ).to_ndarray()
        except Exception:  # a damaged frame raises anything; it is reported when its pixels are read
            return None
        return turned(pixels, _display_matrix(frame))

    return thumbnail


def _decoded(container: InputContainer, stream: VideoStream, damage: list[str]) -> Iterator[VideoFrame]:
    """All frames that can be decoded; what is wrong with the rest is added to `damage`."""
    packets, end = container.demux(stream), 0.0
    while True:
        packet = None
        try:
            # An empty packet would tell the decoder that nothing follows; None does so at the end.
            packet = next((packet for packet in packets if packet.size), None)
        except Exception as error:  # of the file's structure: nothing after it is found any more
            damage.append(_said(error))
        try:
            frames = stream.codec_context.decode(packet)
        except Exception as error:
            frames = []
            damage.append(_said(error))
        # The last part of a multipart stream counts as corrupt to FFmpeg, which reads on for the next boundary.
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
        # Half a second is what writers of files are wrong by, at most.
        if end - start < declared - 0.5:
            damage.append(f"it ends after {max(end - start, 0):.1f} of {declared:.1f} seconds")


def _declared_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """How long the stream says it is, in seconds: by itself, by Matroska's tag, or as the file's only stream."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    with contextlib.suppress(KeyError, ValueError):
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return container.duration / 1e6 if container.duration is not None and len(container.streams) == 1 else None


def _said(error: BaseException) -> str:
    """The cause in FFmpeg's or the system's words, without the name of the function it came up in."""
    return str(getattr(error, "strerror", None) or first_line(error))
