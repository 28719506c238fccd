"""Faces of many photos grouped by person, kept in a file, so that new photos join the groups of the old."""

from __future__ import annotations

import bisect
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.clustering.algorithms import Method, cluster, handicaps_of, join_groups
from facespace.clustering.disk_graph import PairFinder, pairs_of_all_shards
from facespace.clustering.whispers import Labels
from facespace.detection.protocol import Detector
from facespace.embedding.calibration import UNKNOWN_QUALITY, Calibration
from facespace.embedding.compatibility import model_of, other_model
from facespace.embedding.embedder import Embedder
from facespace.errors import DatasetError
from facespace.faces.quality import LOW_QUALITY
from facespace.io.checksums import sha256_or_error
from facespace.io.files import place_from
from facespace.io.prefetch import map_ahead
from facespace.io.tensor_file import damaged, read_tensor_file, write_tensor_file
from facespace.io.text import plain_text
from facespace.pipeline.photos import Photo, folder_problem, process

Progress = Callable[[Iterable[Any], int, str], Iterator[Any]]

STATE = "faces.safetensors"
FINDING = ".finding"  # the folder of the parts that workers find faces in
STAGES = ".grouping"  # the folder of files that `cluster` makes of many faces
_PART = ".part-"  # and a number: what follows the name of the state in those of its parts
_KIND = "grouping"
_REMEDY = "remove it to begin anew"
_SAVE_EVERY = 1000  # photos
_THREADS, _READ_AHEAD = 2, 8


@dataclass(slots=True, eq=False)
class FaceGroups:
    """F faces of P photos. `photos` are (path, SHA-256, error or "") of each; the rest is by face, photo by photo.

    `photo` (F,) is a row of `photos`, `box` (F,4) in pixels of the upright photo, `score` and `quality` (F,), `embedding` (F,D) as
    `Embedder.represent` makes them, `group` (F,) a number that a group keeps for good, −1 before there is one; `regroup` brings it to all F.
    `places` are the absolute paths of the photos by SHA-256, as the file system has them: the names in `photos` are for people.
    `id` tells this grouping from any other: a folder that is marked with group 3 of another grouping holds other people.
    """

    dimension: int
    photos: list[tuple[str, str, str]] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    photo: list[int] = field(default_factory=list)
    box: list[tuple[float, float, float, float]] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    embedding: list[npt.NDArray[np.float32]] = field(default_factory=list)
    group: Labels = field(default_factory=lambda: np.empty(0, np.int64))
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    _whole: npt.NDArray[np.float32] | None = field(default=None, init=False)
    _n_saved: int = field(default=0, init=False)  # photos that `save` and `save_new` have written
    _n_parts: int = field(default=0, init=False)

    def embeddings(self) -> npt.NDArray[np.float32]:
        """(F,D) of all faces. The rows of `embedding` become views of it, so that memory holds vectors once."""
        if self._whole is None or len(self._whole) != len(self.embedding):
            self._whole = np.empty((len(self.embedding), self.dimension), np.float32)
            for row, vector in enumerate(self.embedding):
                self._whole[row] = vector
                self.embedding[row] = self._whole[row]
        return self._whole

    def add(self, photo: Photo, digest: str) -> range:
        """Take in a photo with its faces and embeddings; returns the rows of its faces."""
        begin = len(self.photo)
        self.photos.append((plain_text(photo.path), digest, photo.error or ""))
        self.places[digest] = os.path.abspath(photo.path)
        for face, vector in zip(photo.faces, photo.embeddings, strict=True):
            self.photo.append(len(self.photos) - 1)
            self.box.append(face.box)
            self.score.append(face.score)
            self.quality.append(UNKNOWN_QUALITY if face.quality is None else face.quality)
            self.embedding.append(vector)
        return range(begin, len(self.photo))

    def too_poor(self) -> npt.NDArray[np.bool_]:
        """Which faces (F,) are too poor to be grouped."""
        return np.array(self.quality, np.float64) < LOW_QUALITY

    def regroup(
        self,
        *,
        method: Method,
        threshold: float,
        pair_threshold: float | None = None,
        calibration: Calibration | None = None,
        repeats: bool = False,
        folder: Path | None = None,
        find_pairs: PairFinder = pairs_of_all_shards,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Put every face that has no group into an old one it belongs to, or into new ones; returns how many joined.

        `method`, thresholds, `folder` and `find_pairs` are those of `cluster`. Faces of one photo never share a group unless `repeats`. Faces that
        are too poor stay in groups of one.
        """
        vectors = self.embeddings()
        photos = np.arange(len(self.photo)) if repeats else np.array(self.photo, np.int64)
        handicaps = handicaps_of(calibration, self.quality)
        self.group = self._groups()
        before = self.group >= 0
        poor = self.too_poor() & ~before
        number = int(self.group.max(initial=-1)) + 1
        self.group[poor] = np.arange(number, number + poor.sum())
        good = ~self.too_poor()
        if before.any():
            self.group[good] = join_groups(
                vectors[good],
                self.group[good],
                threshold,
                pair_threshold=pair_threshold,
                photos=photos[good],
                handicaps=handicaps[good],
            )
        n_joined = int((self.group >= 0).sum() - before.sum() - poor.sum())
        new = np.flatnonzero(self.group < 0)
        labels = cluster(
            vectors[new],
            method=method,
            threshold=threshold,
            pair_threshold=pair_threshold,
            photos=photos[new],
            handicaps=handicaps[new],
            folder=folder,
            find_pairs=find_pairs,
            progress=progress,
        )
        self.group[new] = labels + self.group.max(initial=-1) + 1
        return n_joined

    def _groups(self) -> Labels:
        """`group` with −1 for the faces added since."""
        return np.concatenate([self.group, np.full(len(self.photo) - len(self.group), -1, np.int64)])

    def save(self, path: Path, embedder: Embedder) -> None:
        """Write all of it, whole or not at all."""
        self._write(path, embedder, 0)
        for part in _parts(path):  # all of which is in the file now
            part.unlink()
        self._n_parts = 0

    def save_new(self, path: Path, embedder: Embedder) -> None:
        """Write the photos that were added since the last time, to a file beside that of `save`.

        A collection that is read photo by photo is so written once, not again and again. `load_groups` puts the files
        together, and `save` replaces them.
        """
        if not self._n_saved:
            self.save(path, embedder)
        elif len(self.photos) > self._n_saved:
            self._n_parts += 1
            self._write(path.with_name(f"{path.name}{_PART}{self._n_parts:06}"), embedder, self._n_saved)

    def _write(self, path: Path, embedder: Embedder, begin: int) -> None:
        """Write the photos from `begin` on, with their faces."""
        rows = slice(bisect.bisect_left(self.photo, begin), None)
        arrays: dict[str, npt.NDArray[Any]] = {
            "photo": np.array(self.photo[rows], np.int64) - begin,
            "box": np.array(self.box[rows], np.float32).reshape(-1, 4),
            "score": np.array(self.score[rows], np.float32),
            "quality": np.array(self.quality[rows], np.float32),
            "embedding": np.array(self.embedding[rows], np.float32).reshape(-1, self.dimension)
            if begin
            else self.embeddings(),
            "group": self._groups()[rows],
        }
        folder = Path(os.path.abspath(path.parent))
        photos = self.photos[begin:]
        held = {digest: self.places[digest] for _, digest, _ in photos} if begin else self.places
        places = {digest: str(place_from(folder, Path(place))) for digest, place in held.items()}
        record = {"photos": photos, "places": places, "model": model_of(embedder), "id": self.id}
        write_tensor_file(path, _KIND, arrays, record)
        self._n_saved = len(self.photos)

    def _take_in(self, part: FaceGroups) -> None:
        """Add the photos of a part that `save_new` wrote."""
        begin = len(self.photos)
        self.photos += part.photos
        self.places |= part.places
        self.photo += [begin + photo for photo in part.photo]
        self.box += part.box
        self.score += part.score
        self.quality += part.quality
        self.embedding += part.embedding
        self.group = np.concatenate([self.group, part.group])


def group_record(path: Path) -> dict[str, Any]:
    """What `save` wrote beside the numbers: the photos, and the model; `DatasetError` for a damaged file."""
    return dict(read_tensor_file(path, _KIND, DatasetError, remedy=_REMEDY)[1])


def load_groups(path: Path, embedder: Embedder) -> FaceGroups:
    """Read what `save` and `save_new` wrote; `DatasetError` for what is damaged, or was made with another model."""
    groups = _read(path, embedder)
    known = {digest for _, digest, _ in groups.photos}
    for part in _parts(path):
        more = _read(part, embedder)
        # Left by a process that was stopped within `save`, or of a grouping whose file was removed.
        if more.id != groups.id or any(digest in known for _, digest, _ in more.photos):
            continue
        groups._take_in(more)
        known.update(digest for _, digest, _ in more.photos)
        groups._n_parts = int(part.name.rpartition("-")[2])
    groups._n_saved = len(groups.photos)
    return groups


def _parts(path: Path) -> list[Path]:
    """The files that `save_new` wrote beside that of `save`, in their order."""
    return sorted(path.parent.glob(f"{path.name}{_PART}[0-9]*"))


def _read(path: Path, embedder: Embedder) -> FaceGroups:
    """Read one file."""
    arrays, record = read_tensor_file(path, _KIND, DatasetError, remedy=_REMEDY)
    if reason := other_model(record.get("model"), embedder):
        raise DatasetError(f"{plain_text(str(path))}: {reason}, or group into another folder")
    try:
        photos = [(str(name), str(digest), str(error)) for name, digest, error in record["photos"]]
        named = {
            digest: os.path.abspath(name) for name, digest, _ in photos
        }  # for files of before, which have no places
        held = {**named, **record.get("places", {})}
        folder = os.path.abspath(path.parent)
        places = {digest: os.path.normpath(os.path.join(folder, place)) for digest, place in held.items()}
        n, dimension = arrays["embedding"].shape
        arrays.setdefault("quality", np.full(n, UNKNOWN_QUALITY, np.float32))  # files of before have none
        shapes = {"photo": (n,), "box": (n, 4), "score": (n,), "quality": (n,), "group": (n,)}
        shapes["embedding"] = (n, embedder.dimension)
        kinds = {"photo": "i", "box": "f", "score": "f", "quality": "f", "embedding": "f", "group": "i"}
        for name, shape in shapes.items():
            if arrays[name].shape != shape or arrays[name].dtype.kind != kinds[name]:
                raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, not {shape}")  # noqa: TRY301
        if n and not (
            arrays["photo"].min() >= 0 and arrays["photo"].max() < len(photos) and arrays["group"].min() >= -1
        ):
            raise ValueError("its faces do not belong to its photos")  # noqa: TRY301
    except (KeyError, TypeError, ValueError) as wrong:
        raise damaged(path, _KIND, DatasetError, wrong, remedy=_REMEDY) from None
    return FaceGroups(
        dimension,
        photos,
        places,
        arrays["photo"].tolist(),
        [tuple(box) for box in arrays["box"].tolist()],
        arrays["score"].tolist(),
        arrays["quality"].tolist(),
        list(arrays["embedding"].astype(np.float32)),
        arrays["group"].astype(np.int64),
        str(record.get("id", "")),  # files of before have none, nor have their folders
    )


def read_faces(
    paths: Sequence[str],
    groups: FaceGroups,
    embedder: Embedder,
    detector: Detector,
    *,
    keep: Callable[[Photo, str], None],
    checkpoint: Callable[[], None],
    progress: Progress,
    try_rotations: bool = False,
    find: Callable[[Mapping[str, str]], Iterable[Photo]] | None = None,
) -> Iterator[tuple[str, str]]:
    """Detect and embed the faces of photos whose content is not in `groups` yet; yields (path, reason) of failures.

    `keep` sees every new photo with its pixels and its digest before `groups` does: stopped there, the photo counts as
    not read. `checkpoint` is called now and then. `try_rotations` is that of `process`.
    `find` finds the faces of photos (path → digest) in place of `process`, for instance on other machines; its photos need no
    pixels unless `keep` does.
    """
    known = {digest for _, digest, _ in groups.photos}
    digests: dict[str, str] = {}
    for path, digest in zip(paths, map_ahead(sha256_or_error, paths, threads=_THREADS, ahead=_READ_AHEAD), strict=True):
        if isinstance(digest, OSError):
            yield path, folder_problem(path) if os.path.isdir(path) else digest.strerror or str(digest)
        elif digest not in known:  # a copy of a photo is the photo
            known.add(digest)
            digests[path] = digest
        elif not os.path.exists(groups.places.get(digest, path)):  # it was moved
            groups.places[digest] = os.path.abspath(path)
    photos = (
        process(digests, detector, embedder, keep_pixels=True, try_rotations=try_rotations)
        if find is None
        else find(digests)
    )
    for done, photo in enumerate(progress(photos, len(digests), "finding faces"), 1):
        if photo.error is None:
            keep(photo, digests[photo.path])
        groups.add(photo, digests[photo.path])
        if photo.error is not None:
            yield photo.path, photo.error
        if done % _SAVE_EVERY == 0:
            checkpoint()
