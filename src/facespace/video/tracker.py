"""Which face of a frame is which of the frames before: tracks, each one person seen without a long break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facespace.faces.face import Array, overlaps


@dataclass(slots=True, eq=False)
class Track:
    """One person on screen.

    `number` counts tracks from 1. `first` and `last` are the seconds it was seen first and last, in `n_frames`
    frames; `box` (x1, y1, x2, y2) is its last. `total` (D,) is the sum of its embeddings, each times its score.
    """

    number: int
    first: float
    last: float
    n_frames: int
    box: Array
    total: Array
    n_missed: int = 0

    @property
    def mean(self) -> npt.NDArray[np.float32]:
        """The embedding of all its frames: their mean weighted by score, scaled to length 1, (D,) float32."""
        return np.asarray(_unit(self.total[None])[0], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """One face in one frame; `total` (D,) is its embedding times its score."""

    seconds: float
    box: Array
    total: Array


@dataclass(frozen=True, slots=True, eq=False)
class _Doubt:
    """A face in a track's place that is not like the track: a blur of the same person, or somebody else."""

    track: Track
    face: _Seen

    @property
    def box(self) -> Array:
        return self.face.box

    @property
    def total(self) -> Array:
        return self.face.total


class Tracker:
    """Follows faces by where they are and whom they look like.

    A face continues the track whose overlap and similarity with it are together the greatest, if the boxes overlap
    (IoU) by `min_overlap` or the embeddings' cosine reaches `min_similarity`; each track takes at most one face of a
    frame, each face one track. A face in a track's place with a similarity below `doubtful` waits for the next frame.
    Alone it was a blur: it counts as seen, but not for the track's mean. When the next frame has a face like it,
    somebody has taken the place, as in a cut, and a track of its own begins with the first of both.

    A track ends when it was not seen for more than `lost_after` seconds, but never before the next frame.

    >>> tracker, box, score = Tracker(), np.array([[10, 10, 50, 50]]), np.ones(1)
    >>> anna, ben = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    >>> [tracker.update(k / 5, box, score, who)[0].number for k, who in enumerate([anna, anna, ben, anna, ben, ben])]
    [1, 1, 1, 1, 1, 2]
    >>> [(track.first, track.last, track.n_frames) for track in tracker.finish()]
    [(0.0, 0.6, 4), (0.8, 1.0, 2)]
    """

    def __init__(
        self,
        *,
        min_overlap: float = 0.3,
        min_similarity: float = 0.5,
        doubtful: float = 0.2,
        lost_after: float = 2.0,
    ) -> None:
        if not 0 < min_overlap <= 1:
            raise ValueError(f"min_overlap wants a share above 0 and up to 1; got {min_overlap}")
        if not -1 <= doubtful <= min_similarity <= 1:
            raise ValueError(f"-1 <= doubtful <= min_similarity <= 1 is wanted; got {doubtful} and {min_similarity}")
        if not lost_after >= 0:
            raise ValueError(f"lost_after wants seconds from 0 on; got {lost_after}")
        self._min_overlap = min_overlap
        self._min_similarity = min_similarity
        self._doubtful = doubtful
        self._lost_after = lost_after
        self._tracks: list[Track] = []
        self._doubts: list[_Doubt] = []
        self._ended: list[Track] = []
        self._n_tracks = 0

    def update(
        self,
        seconds: float,
        boxes: npt.NDArray[np.floating],
        scores: npt.NDArray[np.floating],
        embeddings: npt.NDArray[np.floating],
    ) -> list[Track]:
        """The tracks of the faces of one frame, in their order, after the faces have been added to them.

        `boxes` (F,4) in pixels, `scores` (F,) above 0, `embeddings` (F,D) of length 1. `ValueError` for other shapes.
        """
        n = len(boxes)
        if boxes.shape != (n, 4) or scores.shape != (n,) or embeddings.ndim != 2 or len(embeddings) != n:
            shapes = f"{boxes.shape}, {scores.shape} and {embeddings.shape}"
            raise ValueError(f"boxes (F,4), scores (F,) and embeddings (F,D) are wanted; got {shapes}")
        self._end(seconds)
        faces = [
            _Seen(seconds, np.asarray(box, np.float64), np.asarray(embedding, np.float64) * float(score))
            for box, score, embedding in zip(boxes, scores, embeddings, strict=True)
        ]
        matches = self._matches(faces)
        for track in self._tracks:
            track.n_missed += 1
        newcomers = {id(owner): self._settle(owner, owner in [match for match, _ in matches]) for owner in self._doubts}
        self._doubts = []
        found = []
        for face, (owner, similarity) in zip(faces, matches, strict=True):
            if owner is None:
                track = self._begin(face)
            elif isinstance(owner, _Doubt):
                track = newcomers[id(owner)]
                _add(track, face)
            else:
                track = self._continue(owner, face, similarity)
            found.append(track)
        return found

    def ended(self) -> list[Track]:
        """Tracks that have ended since this was asked last."""
        ended, self._ended = self._ended, []
        return ended

    def finish(self) -> list[Track]:
        """End every track; returns those that `ended` has not."""
        for doubt in self._doubts:
            self._settle(doubt, False)
        self._ended += self._tracks
        self._tracks, self._doubts = [], []
        return self.ended()

    def _end(self, seconds: float) -> None:
        # The frame after a track's last is always compared with it, however far apart frames are.
        over = [track for track in self._tracks if seconds - track.last > self._lost_after and track.n_missed]
        self._ended += over
        self._tracks = [track for track in self._tracks if track not in over]

    def _matches(self, faces: Sequence[_Seen]) -> list[tuple[Track | _Doubt | None, float]]:
        """What each face continues and how similar it is to it: a track, a doubt of the frame before, or nothing."""
        matches: list[tuple[Track | _Doubt | None, float]] = [(None, 0.0)] * len(faces)
        owners: list[Track | _Doubt] = [*self._tracks, *self._doubts]
        if not owners or not faces:
            return matches
        overlap = overlaps(np.stack([owner.box for owner in owners]), np.stack([face.box for face in faces]))
        # In the frame after a doubt the track may be where it was or where the doubtful face was.
        for doubt, row in zip(self._doubts, overlap[len(self._tracks) :], strict=True):
            track_row = overlap[self._tracks.index(doubt.track)]
            np.maximum(track_row, row, out=track_row)
        similarity = (
            _unit(np.stack([owner.total for owner in owners])) @ _unit(np.stack([face.total for face in faces])).T
        )
        in_place = overlap >= self._min_overlap
        in_place[len(self._tracks) :] = False  # only likeness makes a doubt a person
        value = np.where(in_place | (similarity >= self._min_similarity), overlap + similarity, -np.inf)
        for _ in range(min(value.shape)):
            row, column = divmod(int(value.argmax()), value.shape[1])
            if value[row, column] == -np.inf:
                break
            matches[column] = owners[row], float(similarity[row, column])
            value[row], value[:, column] = -np.inf, -np.inf
        return matches

    def _begin(self, face: _Seen) -> Track:
        self._n_tracks += 1
        track = Track(self._n_tracks, face.seconds, face.seconds, 1, face.box, face.total)
        self._tracks.append(track)
        return track

    def _continue(self, track: Track, face: _Seen, similarity: float) -> Track:
        if similarity < self._doubtful:
            self._doubts.append(_Doubt(track, face))
            track.n_missed = 0  # settled in the next frame, which the track is to see
        else:
            _add(track, face)
        return track

    def _settle(self, doubt: _Doubt, seen_again: bool) -> Track:
        """The track a doubtful face belongs to: a new one when somebody like it was seen again."""
        if seen_again:
            return self._begin(doubt.face)
        track = doubt.track
        track.n_frames, track.last, track.box = track.n_frames + 1, doubt.face.seconds, doubt.face.box
        return track


def _add(track: Track, face: _Seen) -> None:
    track.last, track.box, track.n_missed = face.seconds, face.box, 0
    track.n_frames += 1
    track.total = track.total + face.total


def _unit(vectors: Array) -> Array:
    result: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return result
