"""Reads network cameras and other streams at rtsp:// or http:// addresses, live.

The address comes from the user and is trusted; the data that it sends is not. FFmpeg may use only the protocols and
formats listed here, so that a stream can open neither files of this machine nor playlists with other addresses.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from facespace.errors import VideoError
from facespace.io.image import pixel_limit
from facespace.io.text import first_line, one_line
from facespace.video.camera import frames_of, newest
from facespace.video.reader import FORMATS, MAX_PIXELS, Frame, metadata_options, pyav

SCHEMES = ("rtsp", "rtsps", "http", "https")
MAX_DAMAGED = 100  # consecutive packets that cannot be decoded before a stream is given up

_PATIENCE = 10.0  # seconds to connect, and to wait for a picture
_PROTOCOLS = "http,https,tcp,tls,rtsp,rtsps,rtp,srtp,udp,crypto"
_AHEAD = 1.0  # the longest time in seconds to hold back a picture of a film so that it plays at its own speed


def read_stream(
    address: str, *, per_second: float | None = None, patience: float = _PATIENCE
) -> Generator[Frame, None, bool]:
    """Yield the pictures of a stream, upright, until it ends or the caller stops. Each request gets the newest picture.

    `index`, `seconds` and `per_second` are as in `read_camera`. A film, which declares its length, is played at its own
    speed, and it is an error if it ends early; a stream without a length ends when its sender stops. Closing the iterator
    closes the connection. The generator returns whether the stream was a film.

    Raises `VideoError` if the stream cannot be opened, sends nothing for `patience` seconds, is not a video, or has frames
    of too many pixels. Raises `ValueError` for an address with another scheme, `RuntimeUnavailable` without PyAV.
    """
    if urlsplit(address).scheme not in SCHEMES:
        raise ValueError(f"a stream's address must begin with one of {', '.join(SCHEMES)}, got {shown(address)!r}")
    about = _About()
    with contextlib.closing(newest(_pictures(address, patience, about))) as pictures:
        first = next(pictures, None)
        if first is None:
            raise VideoError(shown(address), "it sends no pictures")

        def all_of() -> Iterator[tuple[float, Any]]:
            yield first
            yield from pictures

        yield from frames_of(all_of(), per_second=per_second, aspect=about.aspect)
    return about.seconds is not None


def shown(address: str) -> str:
    """Return an address for messages and events, without user, password and query, which may contain secrets.

    >>> shown("rtsp://admin:secret@192.168.1.20:554/live?token=1")
    'rtsp://192.168.1.20:554/live'
    """
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return "<address>"
    host = parts.hostname or ""
    return one_line(f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path}")


@dataclass(slots=True)
class _About:
    """Represents the properties that a stream declares.

    `aspect` is the width of a pixel divided by its height; `seconds` is the length of a film, or None.
    """

    aspect: float = 1.0
    seconds: float | None = None


def _pictures(address: str, patience: float, about: _About) -> Iterator[tuple[float, Any]]:
    """Yield (time, picture) of everything the stream sends; times are in seconds of the monotonic clock."""
    av = pyav()
    source = shown(address)
    most = pixel_limit(MAX_PIXELS)
    options = {
        "format_whitelist": f"{FORMATS},rtsp",
        "protocol_whitelist": _PROTOCOLS,
        "max_pixels": str(2 * most + 65_536),
        "rtsp_transport": "tcp",
        "analyzeduration": "1000000",
    }
    try:
        container = av.open(address, options=options, timeout=(patience, patience), **metadata_options(av))
    except Exception as error:  # FFmpeg raises many kinds of errors
        raise VideoError(source, f"it cannot be opened ({_cause(error)})") from None
    with container:
        if not container.streams.video:
            raise VideoError(source, "it sends no pictures")
        stream = container.streams.video[0]
        coding: Any = stream.codec_context
        if coding is None:
            raise VideoError(source, "FFmpeg has no decoder for its video")
        if coding.width * coding.height > most:
            raise VideoError(source, f"frames of {coding.width * coding.height:,} pixels; the limit is {most:,}")
        if not coding.width * coding.height:  # FFmpeg drops a size beyond its own limit
            raise VideoError(source, f"the size of its frames is unknown, or above {most:,} pixels")
        coding.options = {"max_pixels": options["max_pixels"]}
        about.aspect = float(stream.sample_aspect_ratio or 1)
        about.seconds = seconds = container.duration / 1e6 if container.duration and container.duration > 0 else None
        pace = _Pace() if seconds is not None else None
        end = 0.0
        packets = container.demux(stream)
        n_damaged = 0
        while True:
            try:
                packet = next(packets, None)
            except Exception as error:
                raise VideoError(source, f"it broke off ({_cause(error)})") from None
            try:
                pictures = packet.decode() if packet is not None else []
                n_damaged = 0
            except Exception as error:  # a damaged packet; decoding recovers at the next key frame
                pictures, n_damaged = [], n_damaged + 1
                if n_damaged >= MAX_DAMAGED:
                    raise VideoError(source, f"it cannot be decoded ({_cause(error)})") from None
            if packet is None:
                break
            for picture in pictures:
                if picture.width * picture.height > most:
                    raise VideoError(
                        source, f"a frame of {picture.width * picture.height:,} pixels; the limit is {most:,}"
                    )
                if picture.time is not None:
                    end = max(end, picture.time)
                    if pace is not None:
                        pace.wait(picture.time)
                yield time.monotonic(), picture
        if seconds is not None and end < seconds - 1.0:
            raise VideoError(source, f"it broke off after {end:.1f} of {seconds:.1f} seconds")


class _Pace:
    """Delays the pictures of a film until they are due, because a server sends them as fast as it can."""

    def __init__(self) -> None:
        self._offset: float | None = None

    def wait(self, seconds: float) -> None:
        """Wait until the picture of a second is due."""
        now = time.monotonic()
        if self._offset is None:
            self._offset = now - seconds
        ahead = self._offset + seconds - now
        if ahead > _AHEAD or ahead < -_AHEAD:  # a jump in the film's times, or a slow connection: start a new clock
            self._offset = now - seconds
            ahead = 0.0
        if ahead > 0:
            time.sleep(ahead)


def _cause(error: BaseException) -> str:
    return one_line(str(getattr(error, "strerror", None) or first_line(error)))
