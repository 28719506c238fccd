"""Tracks faces from frame to frame; a track is one person who is seen without a long break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facespace.faces.face import Array, overlaps
from facespace.metrics.unit_vectors import to_unit_length

# Subtracted from the score of dissimilar faces so that they are assigned last: more than scores can differ otherwise.
_DISSIMILAR_PENALTY = 3.0


@dataclass(slots=True, eq=False)
class Track:
    """Represents one person on screen.

    `number` counts tracks from 1. `last` is the second at which the person was last seen, in `box` (x1, y1, x2, y2).
    `total` (D,) is the sum of the embeddings of the track's faces, each times its score, and `latest` (D,) the last of
    these products. Doubtful faces (see `Sighting`) are left out of both. `n_missed` counts the frames since then.
    """

    number: int
    last: float
    box: Array
    total: Array
    latest: Array
    n_missed: int = 0


@dataclass(slots=True, eq=False)
class Sighting:
    """Represents one face in one frame and its track.

    `shot` is the number of cuts so far; `total` (D,) is the embedding times the score. A `doubtful` face overlaps its
    track but is not similar to it. The next frame decides: either the face stays doubtful, as a blurred face that does
    not change the track's mean, or it begins a new track, which becomes its `track`.
    """

    seconds: float
    shot: int
    box: Array
    total: Array
    track: Track
    doubtful: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Represents a face of a new frame that has no track yet; `total` (D,) is its embedding times its score."""

    seconds: float
    box: Array
    total: Array


class Tracker:
    """A tracker that follows faces by their positions and their embeddings.

    A face is similar to a track if its cosine to the track's mean embedding or to its latest one, whichever is larger,
    reaches `min_similarity`. It can continue the track if it is similar or if their boxes overlap (IoU) by `min_overlap`.
    Faces and tracks are paired greedily by the largest sum of overlap and similarity, and faces that only overlap come
    last. Each track gets at most one face of a frame, and each face one track.

    A face that only overlaps is doubtful until the next frame. If no similar face follows there, it was a blurred face of
    the track: it updates the track's position, but not its mean. If a similar face follows, another person has taken the
    position: a new track begins with the doubtful face, and the old one ends unless it is seen elsewhere in that frame.

    After a cut positions are ignored: a track continues with a similar face, or ends. Without a cut it ends when it was
    not seen for more than `lost_after` seconds, but not before the next frame.

    >>> tracker, box, score = Tracker(), np.array([[10, 10, 50, 50]]), np.ones(1)
    >>> anna, ben = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    >>> people = [anna, anna, ben, anna, ben, ben]
    >>> sightings = [tracker.update(k / 5, box, score, who)[0] for k, who in enumerate(people)]
    >>> [(sighting.track.number, sighting.doubtful) for sighting in sightings]
    [(1, False), (1, False), (1, True), (1, False), (2, False), (2, False)]
    """

    def __init__(
        self,
        *,
        min_overlap: float = 0.3,
        min_similarity: float = 0.4,
        lost_after: float = 2.0,
    ) -> None:
        if not 0 < min_overlap <= 1:
            raise ValueError(f"min_overlap must be above 0 and at most 1, got {min_overlap}")
        if not -1 <= min_similarity <= 1:
            raise ValueError(f"min_similarity must be between -1 and 1, got {min_similarity}")
        if not lost_after >= 0:
            raise ValueError(f"lost_after must be at least 0 seconds, got {lost_after}")
        self._min_overlap = min_overlap
        self.min_similarity = min_similarity
        self._lost_after = lost_after
        self._tracks: list[Track] = []
        self._doubts: list[Sighting] = []
        self._n_tracks = 0
        self._shot = 0

    def update(
        self,
        seconds: float,
        boxes: npt.NDArray[np.floating],
        scores: npt.NDArray[np.floating],
        embeddings: npt.NDArray[np.floating],
        *,
        cut: bool = False,
    ) -> list[Sighting]:
        """Add the faces of the next frame to tracks, and return a `Sighting` for each face, in the same order.

        `boxes` (F,4) in pixels, `scores` (F,) above 0, `embeddings` (F,D) of length 1. `cut`: whether a new shot began
        since the previous frame. Raises `ValueError` for other shapes.
        """
        n = len(boxes)
        if boxes.shape != (n, 4) or scores.shape != (n,) or embeddings.ndim != 2 or len(embeddings) != n:
            shapes = f"{boxes.shape}, {scores.shape} and {embeddings.shape}"
            raise ValueError(f"boxes (F,4), scores (F,) and embeddings (F,D) are needed, got {shapes}")
        self._shot += cut
        self._end([track for track in self._tracks if seconds - track.last > self._lost_after and track.n_missed])
        faces = [
            _Seen(seconds, np.asarray(box, np.float64), np.asarray(embedding, np.float64) * float(score))
            for box, score, embedding in zip(boxes, scores, embeddings, strict=True)
        ]
        matches = self._matches(faces, cut=cut)
        owners = [owner for owner, _ in matches]
        for track in self._tracks:
            track.n_missed += 1
        for doubt in self._doubts:
            self._settle(doubt, seen_again=doubt in owners, seen_elsewhere=doubt.track in owners)
        self._doubts = []
        # A doubtful face of the previous frame that is continued has got a track of its own now.
        continued = [
            (owner.track if isinstance(owner, Sighting) else owner, similarity) for owner, similarity in matches
        ]
        if cut:
            here = [track for track, _ in continued]
            self._end([track for track in self._tracks if track not in here])
        return [self._sighting(face, *match) for face, match in zip(faces, continued, strict=True)]

    def _end(self, over: Sequence[Track]) -> None:
        self._tracks = [track for track in self._tracks if track not in over]

    def _matches(self, faces: Sequence[_Seen], *, cut: bool) -> list[tuple[Track | Sighting | None, float]]:
        """Return, for each face, the track or the previous doubtful face that it continues, and the similarity.

        Doubtful faces are those of the previous frame. A face that continues neither gets (None, 0). After a
        `cut`, overlapping boxes do not count.
        """
        matches: list[tuple[Track | Sighting | None, float]] = [(None, 0.0)] * len(faces)
        owners: list[Track | Sighting] = [*self._tracks, *self._doubts]
        if not owners or not faces:
            return matches
        n_tracks, seen = len(self._tracks), to_unit_length(np.stack([face.total for face in faces])).T
        overlap = overlaps(np.stack([owner.box for owner in owners]), np.stack([face.box for face in faces]))
        if cut:
            overlap[:] = 0
        # After a doubtful face the track may be at its old position or at that of the doubtful face.
        for doubt, row in zip(self._doubts, overlap[n_tracks:], strict=True):
            track_row = overlap[self._tracks.index(doubt.track)]
            np.maximum(track_row, row, out=track_row)
        similarity = to_unit_length(np.stack([owner.total for owner in owners])) @ seen
        if n_tracks:  # a turning head stays similar to the latest embedding for longer than to the mean
            latest = to_unit_length(np.stack([track.latest for track in self._tracks])) @ seen
            similarity[:n_tracks] = np.maximum(similarity[:n_tracks], latest)
        in_place = overlap >= self._min_overlap
        in_place[n_tracks:] = False  # a doubtful face is only continued by a similar one
        alike = similarity >= self.min_similarity
        value = np.where(in_place | alike, overlap + similarity - np.where(alike, 0, _DISSIMILAR_PENALTY), -np.inf)
        for _ in range(min(value.shape)):
            row, column = divmod(int(value.argmax()), value.shape[1])
            if value[row, column] == -np.inf:
                break
            matches[column] = owners[row], float(similarity[row, column])
            value[row], value[:, column] = -np.inf, -np.inf
        return matches

    def _sighting(self, face: _Seen, track: Track | None, similarity: float) -> Sighting:
        """Add a face to `track`, or begin a new track if `track` is None; return the face's sighting.

        A face below `min_similarity` is not added to the track: its sighting is doubtful until the next frame.
        """
        if track is None:
            track = self._begin(face)
        elif similarity < self.min_similarity:
            sighting = Sighting(face.seconds, self._shot, face.box, face.total, track, doubtful=True)
            self._doubts.append(sighting)
            track.n_missed = 0  # keep the track until the next frame, which settles the doubt
            return sighting
        else:
            _add(track, face)
        return Sighting(face.seconds, self._shot, face.box, face.total, track)

    def _begin(self, face: _Seen | Sighting) -> Track:
        self._n_tracks += 1
        track = Track(self._n_tracks, face.seconds, face.box, face.total, face.total)
        self._tracks.append(track)
        return track

    def _settle(self, doubt: Sighting, *, seen_again: bool, seen_elsewhere: bool) -> None:
        """Leave a doubtful face to its track, or begin a new track with it if a similar face was seen again."""
        track = doubt.track
        if not seen_again:
            track.last, track.box = doubt.seconds, doubt.box
            return
        doubt.track, doubt.doubtful = self._begin(doubt), False
        if not seen_elsewhere:
            self._end([track])


def _add(track: Track, face: _Seen) -> None:
    track.last, track.box, track.n_missed = face.seconds, face.box, 0
    track.total, track.latest = track.total + face.total, face.total
