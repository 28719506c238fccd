"""Reads large photos at a fraction of their size, and cuts out crops of their faces.

A detector that shrinks a large photo before it searches it does not need it in full size. A JPEG is decoded at a half,
a quarter or an eighth of its size in half of the time. Large faces are also cropped from the smaller photo: from 1.2 of
its pixels per pixel of the crop, embeddings of both crops have a mean cosine of 0.99. They differ because the crop of
the full photo skips pixels where the smaller photo has averages (benchmarks/large_jpegs.py). For smaller faces the
photo is read again in full size.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from facespace.detection.protocol import Detector, ReducedDetector
from facespace.errors import ImageError
from facespace.faces.alignment import ARCFACE_TEMPLATE, align, similarity_transform
from facespace.faces.face import Face, Point
from facespace.faces.input_spec import ARCFACE_SIZE, InputSpec
from facespace.io import image
from facespace.io.image import Source

Pixels = npt.NDArray[np.uint8]

_LEAST_SOURCE_PIXELS = 1.2  # pixels of the smaller photo per pixel of the crop


class ReducedPhoto:
    """A photo read at 1/n of its size, where n is its `reduction`, and a function that reads it in full size.

    `pixels` (H,W,3) are the pixels as read; for n = 1 they are the photo itself, and `read` is not called.
    """

    def __init__(self, pixels: Pixels, reduction: int = 1, read: Callable[[], Pixels] | None = None) -> None:
        self.pixels = pixels
        self.reduction = reduction
        self._read = read
        self._full: Pixels | None = None

    def crop(self, face: Face, spec: InputSpec) -> Pixels:
        """Return `align` of a face that is given in coordinates of the full photo.

        Whether the reduced or the full photo is used depends on the face alone, not on earlier calls.
        """
        n = self.reduction
        if n > 1 and source_pixels(face, spec) >= _LEAST_SOURCE_PIXELS * n:
            return align(self.pixels, *_at_reduction(face, spec, n))
        if n > 1 and self._full is None:
            self._full = self._read_full()
        if n > 1 and self._full is self.pixels:
            return align(self.pixels, *_at_reduction(face, spec, n))
        return align(self.pixels if self._full is None else self._full, face, spec)

    def forget(self) -> None:
        """Drop the full-size photo; the next small face reads it again."""
        self._full = None

    def _read_full(self) -> Pixels:
        """Return the photo in full size, or the smaller photo if the file is gone or was replaced."""
        try:
            full = self.pixels if self._read is None else self._read()
        except ImageError:
            return self.pixels
        n = self.reduction
        same = tuple(-(-side // n) for side in full.shape[:2]) == self.pixels.shape[:2]
        return full if same else self.pixels


def read_reduced(source: Source, detector: Detector, *, max_pixels: int | None = None) -> ReducedPhoto:
    """Read a photo as small as the detector accepts it; only JPEGs given as path or bytes are reduced.

    Raises `ImageError` and `TypeError` as `facespace.read` does.
    """
    if not isinstance(detector, ReducedDetector) or not isinstance(source, (str, os.PathLike, bytes)):
        return ReducedPhoto(image.as_rgb(source) if max_pixels is None else image.read(source, max_pixels=max_pixels))
    path_or_data: str | os.PathLike[str] | os.PathLike[bytes] | bytes = source
    pixels, n = image.read_reduced(path_or_data, detector.least_scale, max_pixels=max_pixels)
    return ReducedPhoto(pixels, n, lambda: image.read(path_or_data, max_pixels=max_pixels))


def full_size(face: Face, reduction: int) -> Face:
    """Return a face in coordinates of the full photo; it was found in the photo at 1/`reduction` of its size."""
    return face if reduction == 1 else _moved(face, reduction, 0.0)


def source_pixels(face: Face, spec: InputSpec) -> float:
    """Return how many image pixels correspond to one pixel of a face's crop, along one axis.

    >>> from facespace.faces.input_spec import INPUT_SPECS
    >>> points = tuple((2 * x, 2 * y) for x, y in ARCFACE_TEMPLATE)
    >>> round(source_pixels(Face((0, 0, 224, 224), 0.9, points), INPUT_SPECS["arcface-112"]), 3)
    2.0
    """
    if spec.template == "box":
        return min(face.width, face.height) / spec.size
    template = np.asarray(ARCFACE_TEMPLATE) * (spec.size / ARCFACE_SIZE)
    points = np.asarray(face.crop_points or face.landmarks)
    return 1 / float(np.hypot(*similarity_transform(points, template)[0, :2]))


def _at_reduction(face: Face, spec: InputSpec, n: int) -> tuple[Face, InputSpec]:
    """Return the face and spec for `align` on a photo read at 1/n of its size.

    A pixel's centre has whole coordinates in `align`, so points are shifted by half a pixel as well as scaled. The crop
    margin is in pixels of the full photo. It is made a part of the box, because `InputSpec.crop_margin` must be a whole
    number and 1/n of the margin may not be one.
    """
    x1, y1, x2, y2 = face.box
    half = spec.crop_margin / 2
    face = dataclasses.replace(face, box=(x1 - half, y1 - half, x2 + half, y2 + half))
    return _moved(face, 1 / n, 0.5 / n - 0.5), dataclasses.replace(spec, crop_margin=0)


def _moved(face: Face, scale: float, shift: float) -> Face:
    """Return a face with its box multiplied by `scale`, and its points multiplied by `scale` and shifted."""

    def moved(points: tuple[Point, ...]) -> tuple[Point, ...]:
        return tuple((x * scale + shift, y * scale + shift) for x, y in points)

    x1, y1, x2, y2 = face.box
    return dataclasses.replace(
        face,
        box=(x1 * scale, y1 * scale, x2 * scale, y2 * scale),
        landmarks=moved(face.landmarks),
        crop_points=None if face.crop_points is None else moved(face.crop_points),
    )
