"""`embed` in parts: each part of the photos becomes an `.npz`, and all parts become one archive."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.distribution.archives import as_archive, damaged, read_archives
from facespace.distribution.network_work import NetworkWork
from facespace.distribution.plan import Plan, read_part, variables
from facespace.distribution.storage import Folder, StoredPhoto, is_url, shown
from facespace.io.image import Source
from facespace.io.text import plain_text
from facespace.pipeline.face_batches import IMAGES_IN_PART
from facespace.pipeline.photos import Photo, process

PER_PART = IMAGES_IN_PART  # photos
_COLUMNS = ("path", "box", "score", "turned", "embedding")  # of a `FaceTable`


class FaceTable:
    """A table with one row per face, as `facespace embed` writes it: `path`, `box`, `score`, `turned`, `embedding`.

    `failures` are (path, reason) of photos that could not be read.

    >>> table = FaceTable(dimension=4)
    >>> table.add(Photo("a.jpg", error="the file is empty"))
    >>> table.failures, table.arrays()["embedding"].shape
    ([('a.jpg', 'the file is empty')], (0, 4))
    """

    def __init__(self, dimension: int) -> None:
        self.failures: list[tuple[str, str]] = []
        self.n_photos = 0
        self._names: list[str] = []
        self._boxes: list[tuple[float, float, float, float]] = []
        self._scores: list[float] = []
        self._turned: list[int] = []
        self._embeddings = [np.empty((0, dimension), np.float32)]

    def __len__(self) -> int:
        return len(self._names)

    def add(self, photo: Photo) -> None:
        """Add the faces of a photo, or its failure."""
        self.n_photos += 1
        if photo.error is not None:
            self.failures.append((plain_text(photo.path), plain_text(photo.error)))
            return
        self._names += [plain_text(photo.path)] * len(photo.faces)
        self._boxes += [face.box for face in photo.faces]
        self._turned += [photo.turned] * len(photo.faces)
        self._scores += [face.score for face in photo.faces]
        self._embeddings.append(photo.embeddings)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns (N,…) by name."""
        return {
            "path": np.array(self._names, dtype=np.str_),
            "box": np.array(self._boxes, np.float32).reshape(-1, 4),
            "score": np.array(self._scores, np.float32),
            "turned": np.array(self._turned, np.int64),
            "embedding": np.concatenate(self._embeddings),
        }


def model_array(model: Any) -> npt.NDArray[np.str_]:
    """Return the text that identifies an `Embedder` or `OpenedModel` in archives: its name and fingerprint."""
    return np.array(f"{model.name} {model.fingerprint}")


@dataclass(frozen=True)
class EmbeddingWork(NetworkWork):
    """Represents the `parts.Work` of embedding the faces in photos.

    Relative paths of photos are relative to `base`, which is empty if all paths are absolute or URLs.
    """

    folder: Folder
    base: str
    largest: bool
    try_rotations: bool
    min_size: float

    def settings(self) -> dict[str, Any]:
        """Return everything except the photos that the results depend on."""
        return {
            "command": "embed",
            "photos_in": self.base,
            "model": self.fingerprint,
            "device": self.device,
            "largest": self.largest,
            "try_rotations": self.try_rotations,
            "min_size": self.min_size,
            **variables(),
        }

    def compute(self, number: int) -> None:
        """Embed the faces of a part's photos; photos that cannot be read become rows of `failed` (K,2): path and reason."""
        photos = read_part(self.folder, number)
        embedder, detector = self.networks(self.min_size)
        table = FaceTable(embedder.dimension)
        sources = (self._source(photo) for photo in photos)
        found = process(sources, detector, embedder, largest=self.largest, try_rotations=self.try_rotations)
        for photo, of_photo in zip(photos, found, strict=True):
            of_photo.path = shown(photo)
            table.add(of_photo)
        failed = np.array(table.failures, dtype=np.str_).reshape(-1, 2)
        arrays: dict[str, Any] = table.arrays()
        archive = as_archive(**arrays, model=model_array(embedder), failed=failed)
        self.folder.create(self.result(number), archive)

    def _source(self, photo: str) -> Source:
        return StoredPhoto(photo) if is_url(photo) else os.path.join(self.base, photo)  # type: ignore[return-value]


def read_parts(work: EmbeddingWork, plan: Plan) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield the arrays of every part, in order. Raises `DatasetError` for a damaged part."""
    for number, part in enumerate(read_archives(work, plan, (*_COLUMNS, "model", "failed"))):
        lengths = {part[column].shape[:1] for column in _COLUMNS}
        if len(lengths) > 1 or lengths == {()} or part["failed"].shape[1:] != (2,):
            raise damaged(work.folder, work.result(number))
        yield part


def join_parts(parts: list[dict[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    """Join the arrays of several parts, column by column.

    The result has no `failed`, the list of photos that could not be read. Its `model` is that of the first part.
    """
    columns = [column for column in parts[0] if column not in ("model", "failed")]
    joined = {column: np.concatenate([part[column] for part in parts]) for column in columns}
    return {**joined, "model": parts[0]["model"]}
