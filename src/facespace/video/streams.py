"""Pictures of a camera in the network: an address at rtsp:// or http://, read as it comes.

The address is the caller's own, as it is typed on a command line; what it sends is not trusted. FFmpeg is told which
protocols and formats it may use, so that a stream opens neither files of this machine nor playlists of other addresses.
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
from facespace.video.reader import FORMATS, MAX_PIXELS, Frame, pyav, titles_in_any_letters

SCHEMES = ("rtsp", "rtsps", "http", "https")
MAX_DAMAGED = 100  # packets in a row that cannot be decoded, after which a stream is given up

_PATIENCE = 10.0  # seconds to connect, and to wait for a picture
_PROTOCOLS = "http,https,tcp,tls,rtsp,rtsps,rtp,srtp,udp,crypto"
_AHEAD = 1.0  # seconds that pictures of a film are held back at most, so that it runs at its own speed


def read_stream(
    address: str, *, per_second: float | None = None, patience: float = _PATIENCE
) -> Generator[Frame, None, bool]:
    """The pictures of a stream, upright, until it ends or the caller stops: each the newest when it is asked for.

    `index` and `seconds` are those of `read_camera`; so is `per_second`. A film, which says how long it is, is played at its
    own speed and must not end before; a stream without a length ends whenever its sender stops. The connection is closed
    when the iterator is. The generator returns whether it was a film.

    Raises `VideoError` where the stream cannot be opened, sends nothing for `patience` seconds, is no video or has frames of
    too many pixels; `ValueError` for another address, `RuntimeUnavailable` without PyAV.
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
    """An address for messages and events: without user, password and query, which may hold secrets.

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
    """What a stream says of itself: the width of a pixel by its height, and for how many seconds it plays."""

    aspect: float = 1.0
    seconds: float | None = None


def _pictures(address: str, patience: float, about: _About) -> Iterator[tuple[float, Any]]:
    """(when, picture) of everything the stream sends; `when` in seconds of the monotonic clock."""
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
        container = av.open(address, options=options, timeout=(patience, patience), **titles_in_any_letters(av))
    except Exception as error:  # FFmpeg fails in all ways
        raise VideoError(source, f"it cannot be opened ({_said(error)})") from None
    with container:
        if not container.streams.video:
            raise VideoError(source, "it sends no pictures")
        stream = container.streams.video[0]
        coding: Any = stream.codec_context
        if coding is None:
            raise VideoError(source, "its video is coded in a way FFmpeg does not know")
        if coding.width * coding.height > most:
            raise VideoError(source, f"frames of {coding.width * coding.height:,} pixels; the limit is {most:,}")
        if not coding.width * coding.height:  # FFmpeg forgets a size beyond its own limit
            raise VideoError(source, f"its frames have no size that can be read, or more than {most:,} pixels")
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
                raise VideoError(source, f"it broke off ({_said(error)})") from None
            try:
                pictures = packet.decode() if packet is not None else []
                n_damaged = 0
            except Exception as error:  # a part that came damaged; the next key frame mends it
                pictures, n_damaged = [], n_damaged + 1
                if n_damaged >= MAX_DAMAGED:
                    raise VideoError(source, f"it cannot be decoded ({_said(error)})") from None
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
    """Holds the pictures of a film back until their time has come: a server sends them as fast as it can."""

    def __init__(self) -> None:
        self._offset: float | None = None

    def wait(self, seconds: float) -> None:
        """Until the picture of that second is due."""
        now = time.monotonic()
        if self._offset is None:
            self._offset = now - seconds
        ahead = self._offset + seconds - now
        if ahead > _AHEAD or ahead < -_AHEAD:  # a jump in the film's times, or a slow connection
            self._offset = now - seconds
            ahead = 0.0
        if ahead > 0:
            time.sleep(ahead)


def _said(error: BaseException) -> str:
    return one_line(str(getattr(error, "strerror", None) or first_line(error)))
