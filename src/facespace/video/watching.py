"""Decides which people of a camera to report: each person once while they stay, each stranger once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from facespace.faces.quality import weakness
from facespace.video.appearances import NamedFace, NamedFrame
from facespace.video.reader import Frame

COOLDOWN = 60.0  # a person is reported again after having been away for this many seconds
MAX_PEOPLE = 10_000  # the number of people whose last sighting is remembered

_LOOKS = 2  # consecutive frames with one name before the person is reported
_UNKNOWN_LOOKS = 5  # frames without a name before a stranger is reported
_WEAK_LOOKS = 15  # frames without a name before a stranger is reported whose face is too small or too blurred
_LOST = 3.0  # seconds after which a track is given up
_REASONS = {"too small": "too_small", "too blurred or dark": "too_blurred"}

Reason = Literal["stranger", "nobody_enrolled", "too_small", "too_blurred"]


class FrameNamer(Protocol):
    """A namer of the frames of a source, like `VideoNamer`."""

    def name(self, frames: Iterable[Frame], *, chunk_frames: int) -> Iterator[NamedFrame]:
        """Yield the frames with their faces named, in order."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Represents a person to report: a face in a frame; `reason` says why it has no name, None if it has one."""

    face: NamedFace
    reason: Reason | None
    frame: NamedFrame

    @property
    def kind(self) -> str:
        """The kind of the event: `known` for a face with a name, else `unknown`."""
        return "known" if self.face.name is not None else "unknown"


@dataclass(slots=True, eq=False)
class _Followed:
    """Represents one track, as seen so far; `last` is the second at which it was last seen."""

    last: float
    name: str | None = None
    n_same: int = 0  # consecutive frames with that name
    n_unknown: int = 0
    is_done: bool = False  # whether it ever had a name, or was reported as unknown
    best: Seen | None = field(default=None)  # the best frame without a name


class Watcher:
    """A watcher that decides whom to report, from the named frames of one source.

    A person is reported after two consecutive frames with their name, and again after having been away for `cooldown`
    seconds. A track that never had a name is reported once, with its best frame. If the face is large and sharp enough in
    that frame, it is reported after five frames as a stranger; otherwise after fifteen frames, or when it is gone, as too
    small or too blurred.

    >>> from facespace.faces.face import Face
    >>> watcher, face = Watcher(), Face((0, 0, 90, 90), 0.9, ((1, 1),) * 5)
    >>> def look(second, name):
    ...     frame = NamedFrame(0, second, [NamedFace(face, 1, name, 0.6, 0.4)])
    ...     return [seen.face.name for seen in watcher.update(frame, second)]
    >>> [look(k / 5, "Anna") for k in range(4)], look(30, "Anna"), look(95, "Anna") + look(95.2, "Anna")
    ([[], ['Anna'], [], []], [], ['Anna'])
    """

    def __init__(self, *, cooldown: float = COOLDOWN) -> None:
        if not cooldown >= 0:
            raise ValueError(f"cooldown must be at least 0 seconds, got {cooldown}")
        self._cooldown = cooldown
        self._tracks: dict[int, _Followed] = {}
        self._last: dict[str, float] = {}  # the second at which each person was last seen

    def update(self, frame: NamedFrame, at: float) -> list[Seen]:
        """Return the people to report after the next frame.

        `at` is the frame's second on a clock that continues when a source is reopened.
        """
        found: list[Seen] = []
        for face in frame.faces:
            followed = self._tracks.setdefault(face.track, _Followed(at))
            followed.last = at
            seen = (
                self._named(followed, face, frame, at)
                if face.name is not None
                else self._unknown(followed, face, frame)
            )
            if seen is not None:
                found.append(seen)
        return found + self._lost(at - _LOST)

    def end(self) -> list[Seen]:
        """Return the people to report at the end of a source, and forget all tracks."""
        return self._lost(None)

    def _lost(self, before: float | None) -> list[Seen]:
        """Forget the tracks that were last seen before a second, or all tracks if it is None.

        Return the people of these tracks who must be reported.
        """
        lost = [number for number, followed in self._tracks.items() if before is None or followed.last < before]
        gone = [self._tracks.pop(number) for number in lost]
        return [one.best for one in gone if one.best is not None and one.n_unknown >= _UNKNOWN_LOOKS]

    def _named(self, followed: _Followed, face: NamedFace, frame: NamedFrame, at: float) -> Seen | None:
        name = face.name or ""
        followed.n_same = followed.n_same + 1 if followed.name == name else 1
        followed.name, followed.is_done, followed.best = name, True, None
        if followed.n_same < _LOOKS:
            return None
        before = self._last.pop(name, None)
        self._last[name] = at  # added at the end, so that the oldest sighting comes first
        if len(self._last) > MAX_PEOPLE:
            del self._last[next(iter(self._last))]
        return Seen(face, None, frame) if before is None or at - before > self._cooldown else None

    def _unknown(self, followed: _Followed, face: NamedFace, frame: NamedFrame) -> Seen | None:
        followed.n_same = 0
        if followed.is_done:
            return None
        if face.similarity is not None and face.similarity >= face.threshold:
            return None  # another face of the frame has that person's name
        followed.n_unknown += 1
        best = followed.best
        if best is None or (face.face.quality or 0.0) >= (best.face.face.quality or 0.0):
            # Only this frame, which may be reported, is kept with its pixels.
            followed.best = best = Seen(face, _reason(face), frame)
        if followed.n_unknown < (_UNKNOWN_LOOKS if best.reason in ("stranger", "nobody_enrolled") else _WEAK_LOOKS):
            return None
        followed.is_done, followed.best = True, None
        return best


def _reason(face: NamedFace) -> Reason:
    if weak := weakness(face.face):
        return _REASONS[weak]  # type: ignore[return-value]
    return "nobody_enrolled" if face.similarity is None else "stranger"


def watched(
    connections: Iterable[Iterator[Frame]],
    make_namer: Callable[[], FrameNamer],
    watcher: Watcher,
    clock: Callable[[NamedFrame], float],
    *,
    turn: threading.Lock | None = None,
) -> Iterator[Seen]:
    """Yield the people to report of a source: `connections` are its frames, an iterator for each time it is opened.

    Every connection has a namer of its own, so tracks do not continue from one connection to the next. `clock` returns
    the second of a frame. Several sources can share networks and a gallery with one lock `turn`, which is released
    while waiting for a source.
    """
    for frames in connections:
        taking = frames if turn is None else _in_turn(frames, turn)
        named = make_namer().name(taking, chunk_frames=1)
        try:
            for frame in named:
                yield from watcher.update(frame, clock(frame))
            yield from watcher.end()
        finally:
            for one in (named, taking):
                if close := getattr(one, "close", None):
                    close()


def _in_turn(frames: Iterator[Frame], turn: threading.Lock) -> Iterator[Frame]:
    """Yield the frames. The lock is held from the time a frame is yielded until the next frame is requested."""
    for frame in frames:
        with turn:
            yield frame
