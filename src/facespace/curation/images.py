"""Reads a dataset of faces once into the arrays that the checks compare, and lists damaged files."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from facespace.datasets.formats.class_folders import read_class_folders
from facespace.detection.factory import create_detector
from facespace.detection.protocol import Detector
from facespace.embedding.embedder import Embedder
from facespace.errors import ImageError
from facespace.faces.alignment import central_crop
from facespace.faces.crops import fit
from facespace.io import image
from facespace.io.prefetch import map_ahead

Progress = Callable[[Iterable[Any], int, str], Iterator[Any]]

THUMBNAIL = 24
_BATCH = 64
_READ_AHEAD = 8
_THREADS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """The N readable images of P identities, in order of name and file.

    `names` are the P identities, including those without images; `paths` are the N files, with `labels` (N,) as indices
    into `names`. `embeddings` (N,D) float32 are those of `Embedder.represent`, or of `embed` if `plain` was set;
    `thumbnails` are (N,24,24) uint8 gray, `digests` are of the decoded pixels, `sizes` (N,2) are widths and heights.
    `unreadable` lists (label, path, reason) of damaged files, `faceless` (label, path) of photos without a face.
    `prepared` counts images by a description of how they were fitted to the model's size.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    embeddings: npt.NDArray[np.float32]
    thumbnails: npt.NDArray[np.uint8]
    digests: tuple[bytes, ...]
    sizes: npt.NDArray[np.int64]
    unreadable: tuple[tuple[int, str, str], ...]
    faceless: tuple[tuple[int, str], ...]
    prepared: dict[str, int]


def read_crops(root: str | os.PathLike[str], embedder: Embedder, *, progress: Progress, plain: bool = False) -> Images:
    """Read class folders of aligned crops; `fit` resizes each crop to the model's size. Raises `DatasetError`."""
    size = embedder.spec.size
    return _read(root, embedder, lambda pixels: fit(pixels, size), progress, plain)


def read_photos(
    root: str | os.PathLike[str],
    embedder: Embedder,
    *,
    detector: Detector | None = None,
    progress: Progress,
    plain: bool = False,
) -> Images:
    """Read class folders of photos; the central face of each is detected and aligned. Raises `DatasetError`."""
    finder = detector or create_detector()

    def crop(pixels: image.RGB) -> tuple[image.RGB, str] | None:
        faces = finder.detect(pixels)
        if not faces:
            return None
        return central_crop(pixels, faces, embedder.spec), "the central face of a photo, aligned"

    return _read(root, embedder, crop, progress, plain)


@dataclass(slots=True)
class _Read:
    """One decoded file, or the reason why it cannot be decoded."""

    pixels: image.RGB | None
    digest: bytes
    reason: str = ""


def _decode(path: str) -> _Read:
    try:
        pixels = image.read(path)
    except ImageError as error:
        return _Read(None, b"", error.reason)
    return _Read(pixels, hashlib.blake2b(pixels.data, digest_size=16, key=b"%d" % pixels.shape[1]).digest())


def _read(
    root: str | os.PathLike[str],
    embedder: Embedder,
    crop: Callable[[image.RGB], tuple[image.RGB, str] | None],
    progress: Progress,
    plain: bool,
) -> Images:
    embed = embedder.embed if plain else embedder.represent
    folders = read_class_folders(root)
    files = [(label, path) for label, (_, paths) in enumerate(folders) for path in paths]
    kept: list[tuple[int, str]] = []
    unreadable: list[tuple[int, str, str]] = []
    faceless: list[tuple[int, str]] = []
    embeddings = [np.empty((0, embedder.dimension), np.float32)]
    thumbnails, digests, sizes = [], [], []
    prepared: Counter[str] = Counter()
    waiting: list[image.RGB] = []
    for (label, path), read in progress(
        zip(files, map_ahead(_decode, (path for _, path in files), threads=_THREADS, ahead=_READ_AHEAD), strict=True),
        len(files),
        "reading",
    ):
        cropped = None if read.pixels is None else crop(read.pixels)
        if read.pixels is None:
            unreadable.append((label, path, read.reason))
        elif cropped is None:
            faceless.append((label, path))
        else:
            prepared[cropped[1]] += 1
            kept.append((label, path))
            digests.append(read.digest)
            sizes.append((read.pixels.shape[1], read.pixels.shape[0]))
            thumbnails.append(thumbnail(cropped[0]))
            waiting.append(cropped[0])
        read.pixels = None  # free the memory before the next image is decoded
        if len(waiting) == _BATCH:
            embeddings.append(embed(np.stack(waiting)))
            waiting.clear()
    if waiting:
        embeddings.append(embed(np.stack(waiting)))
    return Images(
        names=tuple(name for name, _ in folders),
        paths=tuple(path for _, path in kept),
        labels=np.array([label for label, _ in kept], np.int64),
        embeddings=np.concatenate(embeddings),
        thumbnails=np.array(thumbnails, np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL),
        digests=tuple(digests),
        sizes=np.array(sizes, np.int64).reshape(-1, 2),
        unreadable=tuple(unreadable),
        faceless=tuple(faceless),
        prepared=dict(prepared.most_common()),
    )


def thumbnail(crop: image.RGB) -> npt.NDArray[np.uint8]:
    """Return the crop (S,S,3) as (24,24) uint8 gray, each pixel the mean of its area."""
    return np.asarray(Image.fromarray(crop).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
