"""Streams photos to faces and their embeddings, in order, for any number of photos.

Threads read ahead while the networks compute. Memory stays flat: it contains at most one chunk of photos and those
being read.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from facespace.detection.protocol import Detector
from facespace.embedding.embedder import Embedder
from facespace.errors import ImageError
from facespace.faces.face import Face
from facespace.io import image
from facespace.io.image import Source, are_several
from facespace.io.photo_files import PhotoFiles
from facespace.io.prefetch import map_ahead
from facespace.pipeline.face_batches import find_faces, in_chunks
from facespace.pipeline.reduced_photos import ReducedPhoto, read_reduced
from facespace.pipeline.rotations import turn

_READERS = 2
_READ_AHEAD = 4


@dataclass(slots=True)
class Photo:
    """The result for one photo. `path` is the photo's path, or a word such as `<array>` if the photo is not a file.

    `error` is the reason if the photo could not be read, else None. `embeddings` (F,D) come from `Embedder.represent`
    and are empty without an embedder; `crops` (F,S,S,3) and `pixels`, the photo itself, are present on request.
    `turned` says by how many degrees the photo was turned clockwise to make it upright; `pixels` and all coordinates
    then refer to the upright photo.
    """

    path: str
    error: str | None = None
    faces: list[Face] = field(default_factory=list)
    crops: npt.NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0, 0, 3), np.uint8))
    embeddings: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    pixels: npt.NDArray[np.uint8] | None = None
    turned: int = 0


def find_images(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, without: str | os.PathLike[str] | None = None
) -> Iterator[str]:
    """Yield files as given, and all photos below folders, sorted; skip the folder `without` and all below it.

    A file is a photo if its name says so or its content is an image (`io.file_kinds`). Hidden files are skipped. Other
    files in folders are left out, and a `LeftOutWarning` reports their number at the end. A folder without photos, or a
    folder that cannot be entered, is yielded itself, so that `process` reports it.
    """
    photos = PhotoFiles()
    apart = None if without is None else os.path.realpath(without)
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        path = os.fspath(path)
        if apart is not None and f"{os.path.realpath(path)}{os.sep}".startswith(f"{apart}{os.sep}"):
            continue
        if not os.path.isdir(path):
            yield path
            continue
        found = False
        closed: list[OSError] = []
        for folder, subfolders, files in os.walk(path, onerror=closed.append):
            subfolders[:] = sorted(
                name
                for name in subfolders
                if not name.startswith(".") and (apart is None or os.path.realpath(os.path.join(folder, name)) != apart)
            )
            for name in sorted(files):
                file = os.path.join(folder, name)
                if not name.startswith(".") and photos.takes(file):
                    found = True
                    yield file
        yield from (error.filename for error in closed)
        if not found and not closed:
            yield path
    photos.warn()


def folder_problem(folder: str) -> str:
    """Return why `find_images` yielded a folder instead of images.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     folder_problem(folder)
    'no images in this folder'
    """
    try:
        with os.scandir(folder):
            pass
    except OSError as error:
        return f"this folder cannot be entered ({error.strerror})"
    empty = next(find_images([folder])) == folder
    return "no images in this folder" if empty else "this is a folder; list its images with find_images"


def process(
    images: Iterable[Source],
    detector: Detector,
    embedder: Embedder | None = None,
    *,
    largest: bool = False,
    keep_pixels: bool = False,
    keep_crops: bool = False,
    try_rotations: bool = False,
) -> Iterator[Photo]:
    """Find the faces of each image, and embed them if there is an `embedder`; yield one `Photo` per image, in order.

    An image is a path, an array, a PIL image, or anything else that `facespace.read` takes. `largest` keeps only the face
    with the largest box. An image that cannot be read gives a `Photo` with `error`.

    `try_rotations` is for photos that are not upright and do not record it in the file: each is searched in four turns,
    which takes four times as long, and the turn with the most certain faces is used. `Photo.turned` says which.
    """
    if not are_several(images):
        raise TypeError(f"process takes several images, got one {type(images).__name__}")
    if not hasattr(detector, "detect_many"):
        raise TypeError(f"detector must be a Detector, got {type(detector).__name__}")
    # Photos are read in full size if the caller gets their pixels, or if they may be turned: reducing starts at the top
    # left corner, which is another one after turning.
    reads = functools.partial(_read, detector=None if keep_pixels or try_rotations else detector)
    for chunk in in_chunks(map_ahead(reads, images, threads=_READERS, ahead=_READ_AHEAD), _n_pixels):
        photos = [photo for photo, _ in chunk]
        readable = [photo for photo, pixels in chunk if pixels is not None]
        found = find_faces(
            [pixels for _, pixels in chunk if pixels is not None],
            detector,
            embedder,
            largest=largest,
            keep_crops=keep_crops,
            try_rotations=try_rotations,
        )
        if keep_pixels:
            for photo, pixels in chunk:
                photo.pixels = None if pixels is None else pixels.pixels
        del chunk
        for photo, of_photo in zip(readable, found, strict=True):
            photo.faces, photo.embeddings, photo.turned = of_photo.faces, of_photo.embeddings, of_photo.turned
            if keep_crops:
                photo.crops = of_photo.crops
            if photo.pixels is not None:
                photo.pixels = turn(photo.pixels, photo.turned)
        yield from photos


def source_name(source: Source) -> str:
    """Return the name of an image in errors and results: its path, or its type in angle brackets.

    >>> source_name("party.jpg"), source_name(np.zeros((2, 2, 3), np.uint8))
    ('party.jpg', '<array>')
    """
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    kinds = ((np.ndarray, "<array>"), (Image.Image, "<PIL image>"), ((bytes, bytearray, memoryview), "<bytes>"))
    return next((name for kind, name in kinds if isinstance(source, kind)), "<file>")


def _read(source: Source, detector: Detector | None) -> tuple[Photo, ReducedPhoto | None]:
    """Read a photo, as small as the detector accepts it, or in full size if `detector` is None."""
    name = source_name(source)
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        return Photo(name, error=folder_problem(name)), None
    try:
        if detector is not None:
            return Photo(name), read_reduced(source, detector)
        return Photo(name), ReducedPhoto(image.as_rgb(source))
    except ImageError as error:
        return Photo(name, error=error.reason), None


def _n_pixels(read: tuple[Photo, ReducedPhoto | None]) -> int:
    return 0 if read[1] is None else read[1].pixels.size // 3
