"""Names frames by a service: it returns faces and names for each frame, and the faces are tracked here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facespace.faces.face import Face
from facespace.video.appearances import NamedFace, NamedFrame
from facespace.video.reader import Frame
from facespace.video.tracker import Tracker


@dataclass(frozen=True, slots=True, eq=False)
class RemoteFace:
    """Represents one face in the answer of a service; `embedding` (D,) has length 1."""

    face: Face
    name: str | None
    similarity: float | None
    threshold: float
    embedding: npt.NDArray[np.float64]


Identify = Callable[[npt.NDArray[np.uint8]], list[RemoteFace]]


class RemoteNamer:
    """Namer of frames like `VideoNamer`; it calls `identify` with each picture (H,W,3) for the faces and their names.

    The service names each frame by itself, so one frame's name may be wrong; `watching.Watcher` requires two in a row.
    """

    def __init__(self, identify: Identify, *, keep_pixels: bool = False, lost_after: float = 2.0) -> None:
        self._identify = identify
        self._keep_pixels = keep_pixels
        self._tracker = Tracker(lost_after=lost_after)

    def name(self, frames: Iterable[Frame], *, chunk_frames: int = 1) -> Iterator[NamedFrame]:
        """Yield the frames with their faces named, in order; `chunk_frames` must be 1."""
        if chunk_frames != 1:
            raise ValueError(f"chunk_frames must be 1 for frames that a service names, got {chunk_frames}")
        for frame in frames:
            found = self._identify(frame.pixels)
            boxes = np.array([one.face.box for one in found], np.float64).reshape(-1, 4)
            scores = np.array([one.face.score for one in found], np.float64)
            embeddings = np.array([one.embedding for one in found], np.float64)
            embeddings = embeddings if len(found) else np.empty((0, 1))
            sightings = self._tracker.update(frame.seconds, boxes, scores, embeddings, cut=bool(frame.cuts))
            faces = [
                NamedFace(one.face, sighting.track.number, one.name, one.similarity, one.threshold)
                for one, sighting in zip(found, sightings, strict=True)
            ]
            yield NamedFrame(frame.index, frame.seconds, faces, frame.pixels if self._keep_pixels else None, frame.cuts)
