"""Appearances: who was on screen and when, joined from the names in the frames of a video."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facespace.faces.face import Face
from facespace.video.cuts import Changes


@dataclass(frozen=True, slots=True)
class NamedFace:
    """Represents one face of a frame, in pixels of the frame, with the number of its track and its name in this frame.

    `name` is None for an unknown face. `similarity` and `threshold` come from the namer, for the track's mean embedding
    around this frame. If another face of the frame got the name, `name` is None even if `similarity` reaches
    `threshold`.
    """

    face: Face
    track: int
    name: str | None
    similarity: float | None
    threshold: float


@dataclass(frozen=True, slots=True)
class NamedFrame:
    """Represents one analysed frame: its number, its time in seconds, its faces, and `pixels` (H,W,3) if they are kept.

    `cuts` are the seconds at which new shots began since the previous analysed frame.
    """

    index: int
    seconds: float
    faces: list[NamedFace]
    pixels: npt.NDArray[np.uint8] | None = None
    cuts: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Appearance:
    """Represents one track under one name, seen from second `first` to `last` in `n_frames` analysed frames.

    A track has several appearances if its name changes. `similarity` and `threshold` are means over the frames. `begin`
    and `end` are the exact seconds at which the person came and went, if the picture changed abruptly between two
    analysed frames, for example at a cut; otherwise None.
    """

    track: int
    name: str | None
    similarity: float | None
    threshold: float
    first: float
    last: float
    n_frames: int
    begin: float | None = None
    end: float | None = None


@dataclass(slots=True, eq=False)
class _Stretch:
    """Represents an appearance that may continue in later frames; `face` is the face in the latest frame."""

    track: int
    name: str | None
    face: Face
    first: float
    begin: float | None
    last: float = 0.0
    end: float | None = None
    similarity: float = 0.0  # mean over `n_compared` frames
    threshold: float = 0.0
    n_frames: int = 0
    n_compared: int = 0

    def add(self, seconds: float, named: NamedFace) -> None:
        self.last, self.face = seconds, named.face
        self.n_frames += 1
        self.threshold += (named.threshold - self.threshold) / self.n_frames
        if named.similarity is not None:
            self.n_compared += 1
            self.similarity += (named.similarity - self.similarity) / self.n_compared

    def appearance(self) -> Appearance:
        return Appearance(
            track=self.track,
            name=self.name,
            similarity=self.similarity if self.n_compared else None,
            threshold=self.threshold,
            first=self.first,
            last=self.last,
            n_frames=self.n_frames,
            begin=self.begin,
            end=self.end,
        )


class AppearanceLog:
    """A log that joins the named faces of consecutive frames to appearances."""

    def __init__(self) -> None:
        self._stretches: list[_Stretch] = []
        self._latest: dict[int, _Stretch] = {}  # by track
        self._visible: list[_Stretch] = []  # those in the previous frame

    def add(self, frame: NamedFrame, size: tuple[int, int], changes: Changes | None) -> None:
        """Add the next frame. `size` is its width and height; `changes` are those since the previous frame."""
        names = {named.track: named.name for named in frame.faces}
        for stretch in self._visible:
            if stretch.track not in names or names[stretch.track] != stretch.name:
                stretch.end = _change(stretch.face, size, changes, frame.cuts[:1])
        self._visible = []
        for named in frame.faces:
            latest = self._latest.get(named.track)
            if latest is None or latest.name != named.name or latest.end is not None:
                begin = _change(named.face, size, changes, frame.cuts[-1:])
                latest = _Stretch(named.track, named.name, named.face, frame.seconds, begin)
                self._stretches.append(latest)
                self._latest[named.track] = latest
            latest.add(frame.seconds, named)
            self._visible.append(latest)

    def appearances(self) -> list[Appearance]:
        """Return all appearances so far, in the order of their first seconds."""
        found = [stretch.appearance() for stretch in self._stretches]
        return sorted(found, key=lambda appearance: (appearance.first, appearance.track))


def _change(face: Face, size: tuple[int, int], changes: Changes | None, cut: tuple[float, ...]) -> float | None:
    """Return the second at which the picture around a face changed abruptly; else the second in `cut`; else None."""
    at = changes.at(face.box, *size) if changes is not None else None
    return at if at is not None else cut[0] if cut else None
