"""Who was on screen and when: the names of the frames of a video joined to appearances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facespace.faces.face import Face
from facespace.video.cuts import Changes


@dataclass(frozen=True, slots=True)
class NamedFace:
    """One face of a frame, in its pixels: the number of its track and its name in this frame.

    `similarity` and `threshold` are the namer's for the track's embeddings around this frame; `name` is None for
    unknown. Where the name stands at another face of the frame, it is None although `similarity` reaches `threshold`.
    """

    face: Face
    track: int
    name: str | None
    similarity: float | None
    threshold: float


@dataclass(frozen=True, slots=True)
class NamedFrame:
    """One frame that was looked at, its number and second in the video; `pixels` (H,W,3) when asked for.

    `cuts` are the seconds at which new shots began since the frame looked at before.
    """

    index: int
    seconds: float
    faces: list[NamedFace]
    pixels: npt.NDArray[np.uint8] | None = None
    cuts: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Appearance:
    """One track under one name: who was on screen, seen from second `first` to `last` in `n_frames` frames.

    A track has several appearances where its name changes. `similarity` and `threshold` are means over the frames.
    `begin` and `end` are the seconds at which the picture shows it coming and going, at a cut for instance, between the
    frames that were looked at; None where the picture does not show that.
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
    """An appearance that may go on; `face` is its latest."""

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
    """Joins the named faces of one frame after the other to appearances."""

    def __init__(self) -> None:
        self._stretches: list[_Stretch] = []
        self._latest: dict[int, _Stretch] = {}  # by track
        self._visible: list[_Stretch] = []  # those in the frame before

    def add(self, frame: NamedFrame, size: tuple[int, int], changes: Changes | None) -> None:
        """Add the next frame, of that width and height; `changes` are those since the frame before."""
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
        """All appearances so far, by the second they were seen first."""
        found = [stretch.appearance() for stretch in self._stretches]
        return sorted(found, key=lambda appearance: (appearance.first, appearance.track))


def _change(face: Face, size: tuple[int, int], changes: Changes | None, cut: tuple[float, ...]) -> float | None:
    """When the picture at a face was replaced, or else the second of the cut, if there is one."""
    at = changes.at(face.box, *size) if changes is not None else None
    return at if at is not None else cut[0] if cut else None
