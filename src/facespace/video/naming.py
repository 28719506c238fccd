"""The people in a video: faces found and embedded in some of its frames, followed, and named over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from facespace.detection.protocol import Detector
from facespace.embedding.embedder import Embedder
from facespace.errors import VideoError
from facespace.faces.face import Face
from facespace.pipeline.face_batches import MAX_IMAGES, find_faces, in_chunks
from facespace.video.reader import Frame
from facespace.video.tracker import Track, Tracker

# Shares of strangers that look so much alike: to be one person again after a jump, and not to be in doubt in one place.
_SAME_FMR = 0.001
_DOUBTFUL_FMR = 0.1


class Named(Protocol):
    """What a namer says of one embedding."""

    @property
    def name(self) -> str | None:
        """Who it is; None for unknown."""

    @property
    def similarity(self) -> float | None:
        """How like that person it is, or the likest where it is unknown; None where there is nobody to compare."""

    @property
    def threshold(self) -> float:
        """What `similarity` had to reach for the name."""


Namer = Callable[[npt.NDArray[np.float32]], Sequence[Named]]


@dataclass(frozen=True, slots=True)
class NamedFace:
    """One face of a frame, in its pixels: the number of its track and the name of that track up to this frame.

    `similarity` and `threshold` are the namer's for the track's mean embedding; `name` is None for unknown.
    """

    face: Face
    track: int
    name: str | None
    similarity: float | None
    threshold: float


@dataclass(frozen=True, slots=True)
class NamedFrame:
    """One frame that was looked at, its number and second in the video; `pixels` (H,W,3) when asked for."""

    index: int
    seconds: float
    faces: list[NamedFace]
    pixels: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Appearance:
    """One track from end to end: who was on screen from second `first` to `last`, seen in `n_frames` frames.

    The name is that of the mean embedding of all these frames, and so are `similarity` and `threshold`.
    """

    track: int
    name: str | None
    similarity: float | None
    threshold: float
    first: float
    last: float
    n_frames: int


class VideoNamer:
    """Names the faces of one video or camera, frame after frame.

    `namer` takes embeddings (N,D), as `Embedder.represent` makes them, and answers each with name, similarity and
    threshold: `Gallery.identify` is one. It is asked for the mean embedding of a track, so that one bad frame changes
    no name. A track ends when a face was not seen for `lost_after` seconds.
    """

    def __init__(
        self,
        detector: Detector,
        embedder: Embedder,
        namer: Namer,
        *,
        lost_after: float = 2.0,
        keep_pixels: bool = False,
    ) -> None:
        self._detector = detector
        self._embedder = embedder
        self._namer = namer
        self._keep_pixels = keep_pixels
        self._tracker = _tracker(embedder, lost_after)
        self._appearances: list[Appearance] = []
        self._times: tuple[float, float] | None = None
        self._n_frames = 0

    @property
    def interval(self) -> float:
        """Mean seconds from one frame looked at to the next; 0 before the second."""
        first, last = self._times or (0.0, 0.0)
        return max(last - first, 0.0) / max(self._n_frames - 1, 1)

    @property
    def n_frames(self) -> int:
        """How many frames were looked at."""
        return self._n_frames

    def name(self, frames: Iterable[Frame], *, chunk_frames: int = MAX_IMAGES) -> Iterator[NamedFrame]:
        """The frames with their faces named, in order; at most `chunk_frames` are in memory at once.

        `chunk_frames` is 1 for a camera, whose pictures are wanted at once. A `VideoError` of `frames` is raised
        after those before it have been named.
        """
        for chunk, error in _chunks(frames, chunk_frames):
            if error is not None:
                raise error
            found = find_faces([frame.pixels for frame in chunk], self._detector, self._embedder)
            for frame, of_frame in zip(chunk, found, strict=True):
                yield self._follow(frame, of_frame.faces, of_frame.embeddings)

    def finish(self) -> list[Appearance]:
        """Everybody who was seen, by the second they were seen first."""
        self._close(self._tracker.finish())
        return sorted(self._appearances, key=lambda appearance: (appearance.first, appearance.track))

    def _follow(self, frame: Frame, faces: list[Face], embeddings: npt.NDArray[np.float32]) -> NamedFrame:
        boxes = np.array([face.box for face in faces], np.float64).reshape(-1, 4)
        scores = np.array([face.score for face in faces], np.float64)
        tracks = self._tracker.update(frame.seconds, boxes, scores, embeddings)
        self._close(self._tracker.ended())
        self._n_frames += 1
        self._times = (frame.seconds if self._times is None else self._times[0], frame.seconds)
        named = [
            NamedFace(face, track.number, said.name, said.similarity, said.threshold)
            for face, track, said in zip(faces, tracks, self._say(tracks), strict=True)
        ]
        return NamedFrame(frame.index, frame.seconds, named, frame.pixels if self._keep_pixels else None)

    def _close(self, tracks: Sequence[Track]) -> None:
        """Of tracks that are over no embedding is kept, so that a camera may run for days."""
        self._appearances += [
            Appearance(
                track.number, said.name, said.similarity, said.threshold, track.first, track.last, track.n_frames
            )
            for track, said in zip(tracks, self._say(tracks), strict=True)
        ]

    def _say(self, tracks: Sequence[Track]) -> Sequence[Named]:
        return self._namer(np.stack([track.mean for track in tracks])) if tracks else []


def _tracker(embedder: Embedder, lost_after: float) -> Tracker:
    calibration = embedder.calibration
    if calibration is None:
        return Tracker(lost_after=lost_after)
    same, doubtful = (calibration.match_threshold(fmr) for fmr in (_SAME_FMR, _DOUBTFUL_FMR))
    return Tracker(min_similarity=same, doubtful=doubtful, lost_after=lost_after)


def _chunks(frames: Iterable[Frame], chunk_frames: int) -> Iterator[tuple[list[Frame], VideoError | None]]:
    """Frames to be looked at together; after the last of a damaged video comes its error."""
    failed: list[VideoError] = []

    def until_damaged() -> Iterator[Frame]:
        try:
            for frame in frames:  # noqa: UP028 - `yield from` would close the caller's frames
                yield frame
        except VideoError as error:
            failed.append(error)

    for chunk in in_chunks(until_damaged(), lambda frame: frame.pixels.size // 3, chunk_frames):
        yield chunk, None
    if failed:
        yield [], failed[0]
