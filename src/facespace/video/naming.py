"""Names the people in a video: faces are detected and embedded in some of its frames, tracked, and named by track."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from facespace.detection.protocol import Detector
from facespace.embedding.embedder import Embedder
from facespace.embedding.vectors import Embeddings
from facespace.errors import VideoError
from facespace.faces.face import Face
from facespace.metrics.unit_vectors import to_unit_length
from facespace.pipeline.face_batches import MAX_IMAGES, find_faces, in_chunks
from facespace.video.appearances import Appearance, AppearanceLog, NamedFace, NamedFrame
from facespace.video.cuts import Changes
from facespace.video.reader import Frame
from facespace.video.tracker import Sighting, Tracker


class Named(Protocol):
    """The answer of a namer for one embedding."""

    @property
    def name(self) -> str | None:
        """The person's name; None for unknown."""

    @property
    def similarity(self) -> float | None:
        """The similarity to that person, or for an unknown face to the most similar one; None without any people."""

    @property
    def threshold(self) -> float:
        """The similarity that is required for a name."""


Namer = Callable[[npt.NDArray[np.float32]], Sequence[Named]]


@dataclass(slots=True, eq=False)
class _Look:
    """Represents one analysed frame, with its faces, their embeddings (F,D) and their tracks.

    `pixels` are kept only if requested, and only until the frame is named.
    """

    index: int
    seconds: float
    cuts: tuple[float, ...]
    changes: Changes | None
    size: tuple[int, int]
    pixels: npt.NDArray[np.uint8] | None
    faces: list[Face]
    embeddings: npt.NDArray[np.float32]
    sightings: list[Sighting]


class VideoNamer:
    """Namer of the faces in one video or camera, frame by frame.

    `namer` takes embeddings (N,D) from `Embedder.represent` and returns name, similarity and threshold for each, like
    `Gallery.identify`. For each face it gets the mean of the track's embeddings in the `window` seconds around the frame,
    within the same shot, weighted by the detector's score and by their distance in time. So one bad frame does not
    change a name, but if a track continues with another person's face, the name soon changes. Frames of a video are
    returned half a window late, because the mean also needs the frames after them.

    A name is given at most once per frame, to the face most similar to that person; the other faces are unknown. With
    `repeats` it may be given several times. A track ends at a cut to another person, or when its face was not seen for
    `lost_after` seconds.

    Appearances are kept in memory; set `keep_appearances` to False to name a camera for days.
    """

    def __init__(
        self,
        detector: Detector,
        embedder: Embedder,
        namer: Namer,
        *,
        window: float = 2.0,
        lost_after: float = 2.0,
        repeats: bool = False,
        keep_pixels: bool = False,
        keep_appearances: bool = True,
    ) -> None:
        if not window >= 0:
            raise ValueError(f"window must be at least 0 seconds, got {window}")
        self._detector = detector
        self._embedder = embedder
        self._namer = namer
        self._window = window
        self._repeats = repeats
        self._keep_pixels = keep_pixels
        self._tracker = tracker_for(embedder, lost_after=lost_after)
        self._looks: deque[_Look] = deque()  # frames that are not named yet, and those in a window with them
        self._n_named = 0  # the number of named frames at the left of `_looks`
        self._log = AppearanceLog() if keep_appearances else None
        self._times: tuple[float, float] | None = None
        self._n_frames = 0

    @property
    def interval(self) -> float:
        """Mean seconds between analysed frames; 0 before the second frame."""
        first, last = self._times or (0.0, 0.0)
        return max(last - first, 0.0) / max(self._n_frames - 1, 1)

    @property
    def n_frames(self) -> int:
        """The number of analysed frames."""
        return self._n_frames

    def name(self, frames: Iterable[Frame], *, chunk_frames: int = MAX_IMAGES) -> Iterator[NamedFrame]:
        """Yield the frames with their faces named, in order.

        `chunk_frames` frames go through the networks together. Use 1 for cameras: each frame is then yielded at once,
        and the window of its mean embeddings is before it. If `frames` raises a `VideoError`, the frames before it are
        named and yielded first, and then the error is raised.
        """
        live = chunk_frames == 1
        for chunk, error in _chunks(frames, chunk_frames):
            if error is not None:
                yield from self._name_until(None, live=live)
                raise error
            found = find_faces([frame.pixels for frame in chunk], self._detector, self._embedder)
            for frame, of_frame in zip(chunk, found, strict=True):
                self._look(frame, of_frame.faces, of_frame.embeddings)
                yield from self._name_until(None if live else frame.seconds - self._window / 2, live=live)
        yield from self._name_until(None, live=live)

    def finish(self) -> list[Appearance]:
        """Return all appearances, in the order of their first seconds."""
        for _ in self._name_until(None, live=False):  # the caller may not have consumed the last frames
            pass
        return [] if self._log is None else self._log.appearances()

    def _look(self, frame: Frame, faces: list[Face], embeddings: npt.NDArray[np.float32]) -> None:
        boxes = np.array([face.box for face in faces], np.float64).reshape(-1, 4)
        scores = np.array([face.score for face in faces], np.float64)
        sightings = self._tracker.update(frame.seconds, boxes, scores, embeddings, cut=bool(frame.cuts))
        self._n_frames += 1
        self._times = (frame.seconds if self._times is None else self._times[0], frame.seconds)
        height, width = frame.pixels.shape[:2]
        look = _Look(
            index=frame.index,
            seconds=frame.seconds,
            cuts=frame.cuts,
            changes=frame.changes,
            size=(width, height),
            pixels=frame.pixels if self._keep_pixels else None,
            faces=faces,
            embeddings=embeddings,
            sightings=sightings,
        )
        self._looks.append(look)

    def _name_until(self, seconds: float | None, *, live: bool) -> Iterator[NamedFrame]:
        """Name the frames up to a second that are not named yet, or all such frames if `seconds` is None."""
        while self._n_named < len(self._looks):
            look = self._looks[self._n_named]
            if seconds is not None and look.seconds > seconds:
                break
            self._n_named += 1
            yield self._named(look, live=live)
            while self._looks[0].seconds < look.seconds - self._window and self._looks[0] is not look:
                self._looks.popleft()
                self._n_named -= 1

    def _named(self, look: _Look, *, live: bool) -> NamedFrame:
        answers = self._namer(self._means(look, live=live)) if look.faces else []
        names = [answer.name for answer in answers] if self._repeats else _unique_names(answers)
        faces = [
            NamedFace(face, sighting.track.number, name, answer.similarity, answer.threshold)
            for face, sighting, name, answer in zip(look.faces, look.sightings, names, answers, strict=True)
        ]
        named = NamedFrame(look.index, look.seconds, faces, look.pixels, look.cuts)
        if self._log is not None:
            self._log.add(named, look.size, look.changes)
        look.pixels = None
        return named

    def _means(self, look: _Look, *, live: bool) -> npt.NDArray[np.float32]:
        """Return for each face of a frame the mean embedding of its track around the frame, (F,D), with its quality.

        A live frame is the newest one, so the whole window is before it.
        """
        half = self._window if live else self._window / 2
        around = [
            (1 - abs(other.seconds - look.seconds) / half, face, sighting)
            for other in self._looks
            if abs(other.seconds - look.seconds) < half
            for face, sighting in zip(other.faces, other.sightings, strict=True)
            if not sighting.doubtful
        ]
        means, qualities = np.empty((len(look.faces), self._embedder.dimension), np.float32), []
        for k, (face, sighting) in enumerate(zip(look.faces, look.sightings, strict=True)):
            own = [entry for entry in around if entry[2].track is sighting.track and entry[2].shot == sighting.shot]
            own = own or [(1.0, face, sighting)]
            total = np.sum([weight * other.total for weight, _, other in own], axis=0)
            means[k] = to_unit_length(total)
            known = [(weight, seen.quality) for weight, seen, _ in own if seen.quality is not None]
            if known:
                qualities.append(
                    sum(weight * quality for weight, quality in known) / sum(weight for weight, _ in known)
                )
        of = look.embeddings
        if not isinstance(of, Embeddings) or len(qualities) < len(means):
            return means
        return Embeddings(means, made_by=of.made_by, model=of.model, quality=qualities)


def _unique_names(answers: Sequence[Named]) -> list[str | None]:
    """Return the names of one frame's faces. If several faces get one name, only the most similar face keeps it."""
    best: dict[str, int] = {}
    for k, answer in enumerate(answers):
        if answer.name is not None:
            before = best.get(answer.name)
            if before is None or (answer.similarity or 0.0) > (answers[before].similarity or 0.0):
                best[answer.name] = k
    return [
        answer.name if answer.name is not None and best[answer.name] == k else None for k, answer in enumerate(answers)
    ]


def tracker_for(embedder: Embedder, *, lost_after: float = 2.0) -> Tracker:
    """Return a tracker with the model's threshold for two photos, or the default threshold if it has no calibration.

    In a video this threshold is easily reached: faces of one person a fifth of a second apart are far more similar than
    two photos of the person, even if the faces are blurred or small; see `benchmarks/film.py --limits`.
    """
    if embedder.calibration is None:
        return Tracker(lost_after=lost_after)
    return Tracker(min_similarity=embedder.threshold(), lost_after=lost_after)


def _chunks(frames: Iterable[Frame], chunk_frames: int) -> Iterator[tuple[list[Frame], VideoError | None]]:
    """Yield (frames to be analysed together, None). If the video is damaged, the last item has the error instead."""
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
