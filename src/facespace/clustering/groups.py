"""Faces of many photos grouped by person, and stored in a file so that new photos can join the existing groups."""

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
FINDING = ".finding"  # the folder for the parts of distributed face detection
STAGES = ".grouping"  # the folder for the intermediate files of `cluster`
_PART = ".part-"  # followed by a number; a part's name is that of the state file with this ending
_KIND = "grouping"
_REMEDY = "remove it to start again"
_SAVE_EVERY = 1000  # photos
_THREADS, _READ_AHEAD = 2, 8


@dataclass(slots=True, eq=False)
class FaceGroups:
    """F faces of P photos and their groups.

    - `photos`: (path, SHA-256, error or "") of each photo; these paths are only for display.
    - `places`: the absolute path of each photo by its SHA-256, for opening the file.
    - `photo` (F,): the row in `photos` of each face's photo; faces are in the order of photos.
    - `box` (F,4) in pixels of the upright photo, `score` and `quality` (F,), `embedding` (F,D) from `Embedder.represent`.
    - `group` (F,): the number of each face's group, which never changes; −1 for no group. Until the next `regroup`, the
      array is shorter than F, because newly added faces have no entry.
    - `id`: identifies this grouping. A folder marked with group 3 of another grouping contains other people.
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
        """Return all embeddings as one array (F,D). To save memory, `embedding` then holds views of its rows."""
        if self._whole is None or len(self._whole) != len(self.embedding):
            self._whole = np.empty((len(self.embedding), self.dimension), np.float32)
            for row, vector in enumerate(self.embedding):
                self._whole[row] = vector
                self.embedding[row] = self._whole[row]
        return self._whole

    def add(self, photo: Photo, digest: str) -> range:
        """Add a photo with its faces and embeddings. Return the rows of its faces."""
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
        """Return a mask (F,) of the faces that are too poor to be grouped."""
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
        """Put every face without a group into an existing or a new group. Return how many faces joined existing groups.

        `method`, `threshold`, `pair_threshold`, `folder`, `find_pairs` and `progress` are those of `cluster`. Faces of
        one photo never share a group unless `repeats` is set. Each face that is too poor to be grouped gets a group of
        its own.
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
        """Return `group` extended by −1 for faces added since the last `regroup`."""
        return np.concatenate([self.group, np.full(len(self.photo) - len(self.group), -1, np.int64)])

    def save(self, path: Path, embedder: Embedder) -> None:
        """Write everything to one file atomically."""
        self._write(path, embedder, 0)
        for part in _parts(path):  # the file contains them now
            part.unlink()
        self._n_parts = 0

    def save_new(self, path: Path, embedder: Embedder) -> None:
        """Write the photos that were added since the last `save` or `save_new` to an additional file next to `path`.

        Thus each photo is written only once while a collection is read. If nothing was saved before, this calls `save`.
        `load_groups` joins the files. `save` writes everything to one file and removes the additional files.
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

    def _append(self, part: FaceGroups) -> None:
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
    """Return the metadata of a saved file: photos, their paths, the model. Raises `DatasetError` if it is damaged."""
    return dict(read_tensor_file(path, _KIND, DatasetError, remedy=_REMEDY)[1])


def load_groups(path: Path, embedder: Embedder) -> FaceGroups:
    """Read what `save` and `save_new` wrote. Raises `DatasetError` if it is damaged or from another model."""
    groups = _read(path, embedder)
    known = {digest for _, digest, _ in groups.photos}
    for part in _parts(path):
        more = _read(part, embedder)
        # Skip parts left by a process that was stopped in `save`, or by a grouping whose file was removed.
        if more.id != groups.id or any(digest in known for _, digest, _ in more.photos):
            continue
        groups._append(more)
        known.update(digest for _, digest, _ in more.photos)
        groups._n_parts = int(part.name.rpartition("-")[2])
    groups._n_saved = len(groups.photos)
    return groups


def _parts(path: Path) -> list[Path]:
    """Return the additional files that `save_new` wrote, in their order."""
    return sorted(path.parent.glob(f"{path.name}{_PART}[0-9]*"))


def _read(path: Path, embedder: Embedder) -> FaceGroups:
    """Read one file of a grouping."""
    arrays, record = read_tensor_file(path, _KIND, DatasetError, remedy=_REMEDY)
    if reason := other_model(record.get("model"), embedder):
        raise DatasetError(f"{plain_text(str(path))}: {reason}, or give another folder")
    try:
        photos = [(str(name), str(digest), str(error)) for name, digest, error in record["photos"]]
        named = {digest: os.path.abspath(name) for name, digest, _ in photos}  # older files have no places
        held = {**named, **record.get("places", {})}
        folder = os.path.abspath(path.parent)
        places = {digest: os.path.normpath(os.path.join(folder, place)) for digest, place in held.items()}
        n, dimension = arrays["embedding"].shape
        arrays.setdefault("quality", np.full(n, UNKNOWN_QUALITY, np.float32))  # older files have no qualities
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
        str(record.get("id", "")),  # older files and their folders have no id
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
    """Add the faces of photos whose content is not in `groups` yet. Yields (path, reason) of photos that failed.

    `keep(photo, digest)` is called with every new readable photo, including its pixels, before the photo is added to
    `groups`. So if the program stops during `keep`, a later run reads the photo again. `checkpoint` is called after
    every 1,000 photos. `try_rotations` is that of `process`. `find` replaces `process`, for instance to find faces on
    other machines: it gets the digest of each photo by path. The photos that it returns need pixels only if `keep` uses
    them.
    """
    known = {digest for _, digest, _ in groups.photos}
    digests: dict[str, str] = {}
    for path, digest in zip(paths, map_ahead(sha256_or_error, paths, threads=_THREADS, ahead=_READ_AHEAD), strict=True):
        if isinstance(digest, OSError):
            yield path, folder_problem(path) if os.path.isdir(path) else digest.strerror or str(digest)
        elif digest not in known:  # copies of a photo count once
            known.add(digest)
            digests[path] = digest
        elif not os.path.exists(groups.places.get(digest, path)):  # the photo was moved
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
