"""Photographs in, faces and their embeddings out, in order, whatever their number.

Reading runs ahead in threads while the networks work, so that memory stays flat: at most one chunk of photos and
those being read are in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from facespace.detection.mtcnn.detector import MTCNN
from facespace.embedding.embedder import Embedder
from facespace.errors import ImageError
from facespace.faces.alignment import align
from facespace.faces.face import Face
from facespace.io import image
from facespace.io.image import IMAGE_ENDINGS
from facespace.io.prefetch import map_ahead

_CHUNK_PHOTOS = 16
_CHUNK_PIXELS = 24_000_000
_CHUNK_FACES = 64
_READERS = 2
_READ_AHEAD = 4


@dataclass(slots=True)
class Photo:
    """What was found in one photo.

    `error` is a reason when it could not be read, else None. `embeddings` (F,D), as `Embedder.represent` makes them,
    are empty without an embedder; `crops` (F,S,S,3) and `pixels`, the photo itself, are there when asked for.
    """

    path: str
    error: str | None = None
    faces: list[Face] = field(default_factory=list)
    crops: npt.NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0, 0, 3), np.uint8))
    embeddings: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    pixels: npt.NDArray[np.uint8] | None = None


def find_images(paths: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    """Files as given; of folders, every image below them by its ending, sorted, hidden ones left out.

    A folder without any is passed on as it is, for `process` to report.
    """
    for path in paths:
        path = os.fspath(path)
        if not os.path.isdir(path):
            yield path
            continue
        found = False
        for folder, subfolders, files in os.walk(path):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(files):
                if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_ENDINGS:
                    found = True
                    yield os.path.join(folder, name)
        if not found:
            yield path


def process(
    paths: Iterable[str],
    detector: MTCNN,
    embedder: Embedder | None = None,
    *,
    largest: bool = False,
    keep_pixels: bool = False,
    keep_crops: bool = False,
) -> Iterator[Photo]:
    """Find the faces of each photo, and embed them if there is an `embedder`; one `Photo` a path, in order.

    `largest` keeps only the face with the largest box. A photo that cannot be read gives a `Photo` with `error`.
    """
    for chunk in _chunks(map_ahead(_read, paths, threads=_READERS, ahead=_READ_AHEAD)):
        readable = [photo for photo in chunk if photo.pixels is not None]
        found = detector.detect_many(photo.pixels for photo in readable if photo.pixels is not None)
        for photo, faces in zip(readable, found, strict=True):
            photo.faces = _largest(faces) if largest else faces
        if embedder is not None and readable:
            _embed(embedder, readable, keep_crops)
        for photo in chunk:
            if not keep_pixels:
                photo.pixels = None
        yield from chunk


def _embed(embedder: Embedder, photos: Sequence[Photo], keep_crops: bool) -> None:
    """Embeddings of all faces of a chunk, in batches across its photos."""
    pending = [(photo, face) for photo in photos for face in photo.faces]
    crops = np.empty((0, embedder.spec.size, embedder.spec.size, 3), np.uint8)
    embeddings = [np.empty((0, embedder.dimension), np.float32)]
    kept = [crops]
    for start in range(0, len(pending), _CHUNK_FACES):
        part = pending[start : start + _CHUNK_FACES]
        crops = np.stack([align(photo.pixels, face, embedder.spec) for photo, face in part if photo.pixels is not None])
        embeddings.append(embedder.represent(crops))
        if keep_crops:
            kept.append(crops)
    ends = np.cumsum([len(photo.faces) for photo in photos])[:-1]
    for photo, vectors in zip(photos, np.split(np.concatenate(embeddings), ends), strict=True):
        photo.embeddings = vectors
    if keep_crops:
        for photo, crops in zip(photos, np.split(np.concatenate(kept), ends), strict=True):
            photo.crops = crops


def _largest(faces: list[Face]) -> list[Face]:
    return [max(faces, key=lambda face: face.width * face.height)] if faces else []


def _read(path: str) -> Photo:
    if os.path.isdir(path):
        return Photo(path, error="no images in this folder")
    try:
        return Photo(path, pixels=image.read(path))
    except ImageError as error:
        return Photo(path, error=error.reason)


def _chunks(photos: Iterable[Photo]) -> Iterator[list[Photo]]:
    chunk: list[Photo] = []
    n_pixels = 0
    for photo in photos:
        chunk.append(photo)
        n_pixels += photo.pixels.size // 3 if photo.pixels is not None else 0
        if len(chunk) >= _CHUNK_PHOTOS or n_pixels >= _CHUNK_PIXELS:
            yield chunk
            chunk, n_pixels = [], 0
    if chunk:
        yield chunk
