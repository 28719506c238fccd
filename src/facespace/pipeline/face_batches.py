"""The faces of a few images at once: found, cut out and embedded in batches across the images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from facespace.detection.protocol import Detector
from facespace.embedding.embedder import Embedder
from facespace.faces.alignment import align
from facespace.faces.face import Face

MAX_IMAGES = 16
_MAX_PIXELS = 24_000_000
_MAX_FACES = 64

T = TypeVar("T")


@dataclass(slots=True)
class FoundFaces:
    """The faces of one image; `crops` (F,S,S,3) and `embeddings` (F,D) are empty without an embedder."""

    faces: list[Face]
    crops: npt.NDArray[np.uint8]
    embeddings: npt.NDArray[np.float32]


def find_faces(
    images: Sequence[npt.NDArray[np.uint8]],
    detector: Detector,
    embedder: Embedder | None,
    *,
    largest: bool = False,
    keep_crops: bool = False,
) -> list[FoundFaces]:
    """The faces of each image (H,W,3), embedded by `represent` if there is an `embedder`.

    `largest` keeps only the face with the largest box. Crops are empty unless `keep_crops`.
    """
    if not images:
        return []
    found = detector.detect_many(images)
    if largest:
        found = [_largest(faces) for faces in found]
    if embedder is None:
        none, vectors = np.empty((0, 0, 0, 3), np.uint8), np.empty((0, 0), np.float32)
        return [FoundFaces(faces, none, vectors) for faces in found]
    pending = [(image, face) for image, faces in zip(images, found, strict=True) for face in faces]
    size = embedder.spec.size
    kept = [np.empty((0, size, size, 3), np.uint8)]
    embeddings: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(pending), _MAX_FACES):
        part = pending[start : start + _MAX_FACES]
        crops = np.stack([align(image, face, embedder.spec) for image, face in part])
        embeddings.append(embedder.represent(crops))
        if keep_crops:
            kept.append(crops)
    ends = np.cumsum([len(faces) for faces in found])[:-1]
    all_vectors = np.split(
        np.concatenate(embeddings) if embeddings else np.empty((0, embedder.dimension), np.float32), ends
    )
    all_crops = np.split(np.concatenate(kept), ends) if keep_crops else [kept[0]] * len(found)
    return [FoundFaces(*parts) for parts in zip(found, all_crops, all_vectors, strict=True)]


def in_chunks(items: Iterable[T], n_pixels: Callable[[T], int], max_images: int = MAX_IMAGES) -> Iterator[list[T]]:
    """Groups of items that are worth one batch, bounded in number and in pixels.

    >>> [len(chunk) for chunk in in_chunks(range(5), lambda item: 12_000_000)]
    [2, 2, 1]
    """
    chunk: list[T] = []
    total = 0
    for item in items:
        chunk.append(item)
        total += n_pixels(item)
        if len(chunk) >= max_images or total >= _MAX_PIXELS:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


def _largest(faces: list[Face]) -> list[Face]:
    return [max(faces, key=lambda face: face.width * face.height)] if faces else []
