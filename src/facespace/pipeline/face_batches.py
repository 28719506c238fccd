"""Finds, crops and embeds the faces of a few images at once, in batches across the images."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from facespace.detection.protocol import Detector
from facespace.embedding.embedder import Embedder
from facespace.embedding.vectors import Embeddings
from facespace.faces.face import Face
from facespace.faces.input_spec import ARCFACE_SIZE, INPUT_SPECS
from facespace.faces.quality import face_quality
from facespace.pipeline.reduced_photos import ReducedPhoto, full_size
from facespace.pipeline.rotations import find_as_they_are, find_upright

MAX_IMAGES = 16
IMAGES_IN_PART = 4 * MAX_IMAGES  # chunks end at multiples of it, see `in_chunks`
_MAX_PIXELS = 24_000_000
_MAX_FACES = 64

T = TypeVar("T")


@dataclass(slots=True)
class FoundFaces:
    """The faces of one image; `crops` (F,S,S,3) and `embeddings` (F,D) are empty without an embedder.

    Coordinates refer to the image after turning it clockwise by `turned` degrees.
    """

    faces: list[Face]
    crops: npt.NDArray[np.uint8]
    embeddings: npt.NDArray[np.float32]
    turned: int = 0


def find_faces(
    images: Sequence[npt.NDArray[np.uint8] | ReducedPhoto],
    detector: Detector,
    embedder: Embedder | None,
    *,
    largest: bool = False,
    keep_crops: bool = False,
    try_rotations: bool = False,
) -> list[FoundFaces]:
    """Find the faces of each image (H,W,3), rate their quality, and embed them if there is an `embedder`.

    `largest` keeps only the face with the largest box. Crops are empty unless `keep_crops`. An image without a face is
    searched again for a face that fills it (see `second_look`). `try_rotations` searches every image in four turns (see
    `rotations`); images must then be given in full size.
    """
    if not images:
        return []
    photos = [image if isinstance(image, ReducedPhoto) else ReducedPhoto(image) for image in images]
    pixels = [photo.pixels for photo in photos]
    if try_rotations:
        turned = find_upright(pixels, detector)
        photos = [ReducedPhoto(one.pixels) for one in turned]
    else:
        turned = find_as_they_are(pixels, detector, [photo.reduction for photo in photos])
    found = [
        [full_size(face, photo.reduction) for face in one.faces] for photo, one in zip(photos, turned, strict=True)
    ]
    if largest:
        found = [_largest(faces) for faces in found]
    if embedder is None:
        no_crops, vectors = np.empty((0, 0, 0, 3), np.uint8), np.empty((0, 0), np.float32)
        return [
            FoundFaces(_all_rated(photo, faces), no_crops, vectors, one.degrees)
            for photo, faces, one in zip(photos, found, turned, strict=True)
        ]
    pending = [(photo, face) for photo, faces in zip(photos, found, strict=True) for face in faces]
    spec = embedder.spec
    kept = [np.empty((0, spec.size, spec.size, 3), np.uint8)]
    embeddings: list[npt.NDArray[np.float32]] = []
    rated: list[Face] = []
    for start in range(0, len(pending), _MAX_FACES):
        part = pending[start : start + _MAX_FACES]
        crops = np.empty((len(part), spec.size, spec.size, 3), np.uint8)
        by_points = spec.template == "arcface" and spec.size == ARCFACE_SIZE  # the crop that quality is computed from
        for k, (photo, face) in enumerate(part):
            crops[k] = photo.crop(face, spec)
            rated.append(_rated(photo, face, crops[k] if by_points else None))
            if k + 1 == len(part) or part[k + 1][0] is not photo:
                photo.forget()
        embeddings.append(embedder.represent(crops))
        if keep_crops:
            kept.append(crops)
    bounds = np.cumsum([0, *(len(faces) for faces in found)])
    all_vectors = np.concatenate(embeddings) if embeddings else embedder.represent(kept[0])
    all_crops = np.concatenate(kept)
    return [
        FoundFaces(
            rated[begin:end],
            all_crops[begin:end] if keep_crops else kept[0],
            _with_quality(all_vectors[begin:end], rated[begin:end]),
            one.degrees,
        )
        for (begin, end), one in zip(itertools.pairwise(bounds.tolist()), turned, strict=True)
    ]


def _all_rated(photo: ReducedPhoto, faces: Sequence[Face]) -> list[Face]:
    rated = [_rated(photo, face) for face in faces]
    photo.forget()
    return rated


def _rated(photo: ReducedPhoto, face: Face, crop: npt.NDArray[np.uint8] | None = None) -> Face:
    can_be_cut = len(set(face.crop_points or face.landmarks)) > 1
    if crop is None and photo.reduction > 1 and can_be_cut:
        crop = photo.crop(face, INPUT_SPECS["sface"])
    return dataclasses.replace(face, quality=face_quality(photo.pixels, face, crop))


def _with_quality(vectors: npt.NDArray[np.float32], faces: Sequence[Face]) -> npt.NDArray[np.float32]:
    if not isinstance(vectors, Embeddings):
        return vectors
    return Embeddings(
        vectors.view(np.ndarray),
        made_by=vectors.made_by,
        model=vectors.model,
        quality=np.array([face.quality for face in faces], np.float32),
    )


def in_chunks(items: Iterable[T], n_pixels: Callable[[T], int], max_images: int = MAX_IMAGES) -> Iterator[list[T]]:
    """Split items into chunks that are worth one batch, bounded in number and in pixels.

    A chunk also ends after every `IMAGES_IN_PART` items. So a part of a long list gives the same results wherever it is
    computed, although the last bits of a network's output may depend on its batch.

    >>> [len(chunk) for chunk in in_chunks(range(5), lambda item: 12_000_000)]
    [2, 2, 1]
    """
    chunk: list[T] = []
    total = 0
    for n_items, item in enumerate(items, start=1):
        chunk.append(item)
        total += n_pixels(item)
        if len(chunk) >= max_images or total >= _MAX_PIXELS or n_items % IMAGES_IN_PART == 0:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


def _largest(faces: list[Face]) -> list[Face]:
    return [max(faces, key=lambda face: face.width * face.height)] if faces else []
