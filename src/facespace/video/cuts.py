"""Finds sudden changes in a film: hard cuts, and parts of the picture that are replaced at once.

Both are found in small thumbnails of all frames, without using faces. Slow fades are not found here; the tracker notices
them by the faces.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.faces.face import Box

SIZE = (32, 18)  # width and height of a thumbnail
Picture = npt.NDArray[np.int16]

_DARK = 24  # of 255; cells that are darker than this in both pictures are not counted
_FLAT = 6  # of 255; the largest colour difference within a bar
_LEAST_COUNTED = 0.2  # smallest fraction of cells to decide on a cut; a few bright letters on black are not enough
_DIFFERENT = 20  # of 255; a cell with a larger difference has changed
# Fraction of changed cells that makes a cut. With `benchmarks/film.py --limits` at least 0.82 changed at each of 59 cuts,
# and at most 0.04 between cuts.
_CHANGED = 0.6
_ABOVE_MOTION = 2.0  # a cut changes at least this many times as many cells as the median of the frames before it
# A frame that resembles any of the last few frames is not a cut, so the end of a flash is not a cut.
_MEMORY, _MEMORY_SECONDS = 4, 0.2
_AT_ONCE = 0.5  # fraction of a box's changed cells that must have changed in the same frame


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Represents the changes of a film since some frame.

    `strength` (H,W) is the largest change of each cell of the thumbnail from one frame to the next; `when` (H,W) is the
    second of the latter frame.
    """

    strength: npt.NDArray[np.int16]
    when: npt.NDArray[np.float64]

    def at(self, box: Box, width: int, height: int) -> float | None:
        """Return the second at which most of a box was replaced, or None; the frame has `width` × `height` pixels."""
        rows, columns = self.strength.shape
        left, right = _cells(box[0], box[2], columns / width, columns)
        top, bottom = _cells(box[1], box[3], rows / height, rows)
        strong = self.strength[top:bottom, left:right] > _DIFFERENT
        times, counts = np.unique(self.when[top:bottom, left:right][strong], return_counts=True)
        if not len(times) or counts.max() < _AT_ONCE * strong.size:
            return None
        return float(times[counts.argmax()])


class CutFinder:
    """A finder of cuts and changes in the frames of one film, which are added one after the other.

    >>> finder, rng = CutFinder(), np.random.default_rng(0)
    >>> first, second = rng.integers(0, 256, (2, 18, 32, 3), np.uint8)
    >>> for k, picture in enumerate([first, first, second, second]):
    ...     finder.add(picture, k / 25)
    >>> cuts, changes = finder.take()
    >>> cuts, changes.at((100, 50, 200, 150), 640, 360)
    ((0.08,), 0.08)
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[float, Picture]] = deque(maxlen=_MEMORY)
        self._motion: deque[float] = deque(maxlen=_MEMORY)
        self._cuts: list[float] = []
        self._changes: Changes | None = None

    def add(self, thumbnail: npt.NDArray[np.uint8], seconds: float) -> None:
        """Add the next frame: `thumbnail` (H,W,3) RGB is the whole frame made small, `seconds` its time."""
        picture = thumbnail.astype(np.int16)
        while len(self._recent) > 1 and seconds - self._recent[0][0] > _MEMORY_SECONDS:
            self._recent.popleft()
        change = min((changed_share(picture, earlier) for _, earlier in self._recent), default=0.0)
        motion = sorted(self._motion)[(len(self._motion) - 1) // 2] if self._motion else 0.0
        if change >= max(_CHANGED, _ABOVE_MOTION * motion):
            self._cuts.append(seconds)
        self._motion.append(change)
        if self._changes is None:
            shape = picture.shape[:2]
            self._changes = Changes(np.zeros(shape, np.int16), np.zeros(shape))
        if self._recent:
            difference = _difference(picture, self._recent[-1][1])
            stronger = difference > self._changes.strength
            self._changes.strength[stronger] = difference[stronger]
            self._changes.when[stronger] = seconds
        self._recent.append((seconds, picture))

    def take(self) -> tuple[tuple[float, ...], Changes | None]:
        """Return (cuts, changes) since the last call: the seconds of the cuts, and how the cells changed.

        `changes` is None if no frame was added since the last call.
        """
        cuts, changes = tuple(self._cuts), self._changes
        self._cuts, self._changes = [], None
        return cuts, changes


def _cells(low: float, high: float, scale: float, n: int) -> tuple[int, int]:
    """Return the range (first, end) of the cells that a box's side from `low` to `high` covers, at least one cell."""
    first = min(max(int(low * scale), 0), n - 1)
    return first, min(max(round(high * scale), first + 1), n)


def _difference(picture: Picture, earlier: Picture) -> Picture:
    result: Picture = np.abs(picture - earlier).max(axis=2)
    return result


def changed_share(picture: Picture, earlier: Picture) -> float:
    """Return the fraction of cells that changed, not counting bars and cells that are dark in both pictures."""
    difference = _difference(picture, earlier)
    inside = tuple(_inside_bars(picture, difference, axis) for axis in (0, 1))
    lit: Any = np.maximum(picture, earlier).max(axis=2) >= _DARK
    counted = lit[inside]
    if counted.sum() < _LEAST_COUNTED * lit.size:
        return 0.0
    return float((difference[inside][counted] > _DIFFERENT).mean())


def _inside_bars(picture: Picture, difference: Picture, axis: int) -> slice:
    """Return the rows (axis 0) or columns (axis 1) between the bars: unchanged lines of one colour at the edges."""
    across = 1 - axis
    bar = (np.ptp(picture, axis=across).max(axis=1) <= _FLAT) & (difference.max(axis=across) <= _FLAT)
    inside = np.flatnonzero(~bar)
    return slice(inside[0], inside[-1] + 1) if len(inside) else slice(0)
