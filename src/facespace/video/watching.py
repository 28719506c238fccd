"""What is reported of the people whom a camera sees: each person once while they stay, each stranger once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from facespace.faces.quality import weakness
from facespace.video.appearances import NamedFace, NamedFrame
from facespace.video.reader import Frame

COOLDOWN = 60.0  # seconds that somebody must have been away to be reported again
MAX_PEOPLE = 10_000  # whose last sight is remembered

_LOOKS = 2  # at a face in a row under one name, before the person is reported
_UNKNOWN_LOOKS = 5  # at a face that has had no name, before a stranger is reported
_WEAK_LOOKS = 15  # the same where every look was too small or too blurred
_LOST = 3.0  # seconds after which a track is not waited for any more
_REASONS = {"too small": "too_small", "too blurred or dark": "too_blurred"}

Reason = Literal["stranger", "nobody_enrolled", "too_small", "too_blurred"]


class FrameNamer(Protocol):
    """What names the frames of a source, as `VideoNamer` does."""

    def name(self, frames: Iterable[Frame], *, chunk_frames: int) -> Iterator[NamedFrame]:
        """The frames with their faces named, in order."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Somebody to report: a face as it was seen in a frame, named or with the reason why it is unknown."""

    face: NamedFace
    reason: Reason | None
    frame: NamedFrame

    @property
    def kind(self) -> str:
        """The kind of the event."""
        return "known" if self.face.name is not None else "unknown"


@dataclass(slots=True, eq=False)
class _Followed:
    """What was seen of one track."""

    last: float
    name: str | None = None
    n_same: int = 0  # looks in a row with that name
    n_unknown: int = 0
    is_done: bool = False  # it had a name once, or was reported as unknown
    best: Seen | None = field(default=None)  # the best look without a name


class Watcher:
    """Decides what to report of the named frames of one source, given one after the other.

    A person is reported after two looks in a row, and again when they have been away for `cooldown` seconds. A face
    without a name is reported once a track, after five looks of which none had a name, with its best look: as a stranger if
    that is good enough to tell, else after fifteen looks or when it is gone, as too small or too blurred.

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
        self._last: dict[str, float] = {}  # when each person was seen last

    def update(self, frame: NamedFrame, at: float) -> list[Seen]:
        """Whom to report of the next frame; `at` is its second on a clock that goes on when the source is opened again."""
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
        """Whom to report at the end of a source; if it is opened again, its tracks begin anew."""
        return self._lost(None)

    def _lost(self, before: float | None) -> list[Seen]:
        """Forget tracks that were not seen since that second, or all; whom to report of them."""
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
        self._last[name] = at  # the latest stands last
        if len(self._last) > MAX_PEOPLE:
            del self._last[next(iter(self._last))]
        return Seen(face, None, frame) if before is None or at - before > self._cooldown else None

    def _unknown(self, followed: _Followed, face: NamedFace, frame: NamedFrame) -> Seen | None:
        followed.n_same = 0
        if followed.is_done:
            return None
        if face.similarity is not None and face.similarity >= face.threshold:
            return None  # that person's name stands at another face of the frame
        followed.n_unknown += 1
        best = followed.best
        if best is None or (face.face.quality or 0.0) >= (best.face.face.quality or 0.0):
            # Pixels are kept of the one look that may be reported.
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
    """Whom to report of a source: `connections` are its frames, one iterator for each time it was opened.

    Every connection has a namer of its own, whose tracks begin anew. `clock` tells the second of a frame. Several sources
    share networks and a gallery in turns, with one lock `turn`, which is not held while a source is waited for.
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
    """The frames, each while the lock is held until the next one is asked for."""
    for frame in frames:
        with turn:
            yield frame
