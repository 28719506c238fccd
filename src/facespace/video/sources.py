"""Sources to watch: a camera of this machine, a network stream, or a film; cameras and streams are reopened after failures."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from facespace.errors import VideoError
from facespace.io.text import one_line
from facespace.video.camera import read_camera
from facespace.video.reader import FRAMES_A_SECOND, Frame, read_frames
from facespace.video.streams import SCHEMES, read_stream, shown

FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0  # seconds before a source is reopened; the pause doubles each time
_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9 ._-]{0,63})=(.+)", re.DOTALL)

Opener = Callable[["Source", float], Iterable[Frame]]


@dataclass(frozen=True, slots=True)
class Source:
    """Represents something to watch; events contain its `name`. A film ends; cameras and streams are reopened."""

    name: str
    kind: Literal["camera", "stream", "film"]
    address: str


def parsed_source(text: str) -> Source:
    """Parse a source: a camera's number, an address, or a film's path; a prefix `NAME=` gives the source a name.

    Raises `ValueError` for an address whose scheme is not one of `SCHEMES`.

    >>> parsed_source("0"), parsed_source("door=rtsp://10.0.0.7/live").name
    (Source(name='camera 0', kind='camera', address='0'), 'door')
    >>> parsed_source("films/party.mp4").name
    'party.mp4'
    """
    name = None
    if not os.path.exists(text) and (found := _NAME.fullmatch(text)):
        name, text = found[1].strip(), found[2]
    if text.isascii() and text.isdigit() and len(text) <= 3:
        return Source(name or f"camera {int(text)}", "camera", str(int(text)))
    if "://" in text:
        if urlsplit(text).scheme not in SCHEMES:
            raise ValueError(f"the address of a camera must begin with {'://, '.join(SCHEMES)}://, got {shown(text)!r}")
        return Source(name or shown(text), "stream", text)
    return Source(name or one_line(os.path.basename(text)), "film", text)


def open_source(source: Source, per_second: float = FRAMES_A_SECOND) -> Iterable[Frame]:
    """Read the frames of a source; errors are those of `read_camera`, `read_stream` and `read_frames`."""
    if source.kind == "camera":
        return read_camera(int(source.address), per_second=per_second)
    if source.kind == "stream":
        return read_stream(source.address, per_second=per_second)
    return read_frames(source.address, per_second=per_second)


def connections(
    source: Source,
    stop: threading.Event,
    *,
    per_second: float = FRAMES_A_SECOND,
    trouble: Callable[[str], object] = lambda line: None,  # noqa: ARG005
    first_pause: float = FIRST_PAUSE,
    last_pause: float = LAST_PAUSE,
    opener: Opener = open_source,
) -> Iterator[Iterator[Frame]]:
    """Yield an iterator of frames for each time that a source is opened, until `stop` or the end of a film.

    A camera or stream that cannot be opened, or stops, is reopened after a pause that doubles from `first_pause` to
    `last_pause` seconds. The pause is reset when the source has sent pictures for longer than the pause. Before each
    pause `trouble` is called with a line that says why. A film is not reopened: its `VideoError` is raised.

    Each iterator must be exhausted before the next one is requested.
    """
    pause = first_pause
    while not stop.is_set():
        connection = _Connection(source, stop, opener, per_second)
        with contextlib.closing(connection.frames()) as frames:
            yield frames
        if connection.is_over or stop.is_set():
            return
        if connection.seconds > pause:
            pause = first_pause
        trouble(f"{source.name}: {connection.reason}; opening it again in {pause:g} s")
        stop.wait(pause)
        pause = min(2 * pause, last_pause)


class _Connection:
    """One opening of a source. `reason` says why it ended; `is_over` is True if the source must not be reopened."""

    def __init__(self, source: Source, stop: threading.Event, opener: Opener, per_second: float) -> None:
        self._source = source
        self._stop = stop
        self._opener = opener
        self._per_second = per_second
        self._begun: float | None = None
        self._ended = 0.0
        self.reason = "it ended"
        self.is_over = source.kind == "film"

    @property
    def seconds(self) -> float:
        """The seconds for which pictures arrived."""
        return 0.0 if self._begun is None else self._ended - self._begun

    def frames(self) -> Generator[Frame, None, None]:
        """Yield the frames until the source ends or `stop` is set."""
        try:
            frames = iter(self._opener(self._source, self._per_second))
            try:
                while not self._stop.is_set():
                    frame = next(frames)
                    self._begun = time.monotonic() if self._begun is None else self._begun
                    yield frame
            except StopIteration as end:
                self.is_over = self.is_over or end.value is True  # a film that was played to its end
            finally:
                if close := getattr(frames, "close", None):
                    close()
        except VideoError as error:
            if self._source.kind == "film":
                raise
            self.reason = error.reason
        finally:
            self._ended = time.monotonic()
