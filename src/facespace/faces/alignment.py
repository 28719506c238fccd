"""Aligns a face in an image to the crop that a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from facespace.faces.face import Box, Face, Point, central_face
from facespace.faces.input_spec import ARCFACE_SIZE, InputSpec
from facespace.io.image import Source, as_rgb

# Left eye, right eye, nose, left mouth, right mouth in a crop of 112 px: the ArcFace papers' template.
ARCFACE_TEMPLATE: tuple[Point, ...] = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


def align(image: Source, face: Face, spec: InputSpec) -> npt.NDArray[np.uint8]:
    """Return the crop (S,S,3) uint8 of one face for a network with this `spec`.

    `image` is (H,W,3) uint8 RGB, or anything else that `facespace.read` takes. Parts outside the image are black under
    `arcface` and cut off under `box`.

    >>> from facespace.faces.input_spec import INPUT_SPECS
    >>> image = np.zeros((100, 100, 3), np.uint8)
    >>> face = Face((10, 20, 50, 70), 0.99, ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60)))
    >>> align(image, face, INPUT_SPECS["arcface-112"]).shape
    (112, 112, 3)
    """
    if not hasattr(face, "landmarks"):
        raise TypeError(f"face must be one Face, got {type(face).__name__}; align each detected face")
    if not isinstance(spec, InputSpec):
        raise TypeError(f"spec must be an InputSpec, such as embedder.spec, got {type(spec).__name__}")
    pixels = as_rgb(image)
    if spec.template == "box":
        height, width = pixels.shape[:2]
        x1, y1, x2, y2 = crop_box(face.box, width, height, spec.crop_margin)
        crop = Image.fromarray(np.ascontiguousarray(pixels[y1:y2, x1:x2]))
        return np.asarray(crop.resize((spec.size, spec.size), Image.Resampling.BILINEAR))
    template = np.asarray(ARCFACE_TEMPLATE) * (spec.size / ARCFACE_SIZE)
    return _warp(pixels, similarity_transform(np.asarray(face.crop_points or face.landmarks), template), spec.size)


def central_crop(pixels: npt.NDArray[np.uint8], faces: Sequence[Face], spec: InputSpec) -> npt.NDArray[np.uint8]:
    """Return the crop (S,S,3) of the face that `central_face` chooses among the `faces` of a photo (H,W,3).

    There must be at least one face.

    >>> photo = np.zeros((100, 100, 3), np.uint8)
    >>> photo[40:60, 40:60] = 255
    >>> points = ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60))
    >>> corner, middle = Face((0, 0, 20, 20), 1.0, points), Face((44, 44, 56, 56), 0.9, points)
    >>> int(central_crop(photo, [corner, middle], InputSpec(160, "box", 0)).min())
    255
    """
    height, width = pixels.shape[:2]
    return align(pixels, central_face(faces, width, height), spec)


def crop_box(box: Box, width: int, height: int, crop_margin: int) -> tuple[int, int, int, int]:
    """Return the crop of the 2018 aligner: the box plus half the margin on every side, clipped to the image.

    Coordinates are truncated to whole pixels. A box entirely outside the image gives the nearest pixel.

    >>> crop_box((10.6, 5.2, 90.9, 99.0), 100, 100, 32)
    (0, 0, 100, 100)
    """
    half = crop_margin / 2
    x1, y1 = int(max(box[0] - half, 0)), int(max(box[1] - half, 0))
    x2, y2 = int(min(box[2] + half, width)), int(min(box[3] + half, height))
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def similarity_transform(source: npt.NDArray[Any], target: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the (2,3) matrix of rotation, scale and shift that moves `source` (N,2) onto `target` in least squares.

    Umeyama 1991, equations 40–43, without reflection. Raises `ValueError` if all source points coincide.

    >>> corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    >>> np.allclose(similarity_transform(corners, 2 * corners + 5), [[2, 0, 5], [0, 2, 5]])
    True
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    centre_s, centre_t = source.mean(axis=0), target.mean(axis=0)
    s, t = source - centre_s, target - centre_t
    variance = (s**2).sum() / len(s)
    if variance == 0:
        raise ValueError("a similarity transform needs at least two distinct points")
    u, singular, vt = np.linalg.svd(t.T @ s / len(s))
    sign = np.array([1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    rotation = (u * sign) @ vt
    scale = (singular * sign).sum() / variance
    shift = centre_t - scale * rotation @ centre_s
    return np.column_stack([scale * rotation, shift])


def _warp(image: npt.NDArray[np.uint8], matrix: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.uint8]:
    """Return the crop (size,size,3) that `matrix` maps `image` to, sampled bilinearly; black outside the image."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    # Pass only the part of the image that the crop shows, because Pillow copies its input.
    corners = inverse @ np.array([[0, size, 0, size], [0, 0, size, size], [1, 1, 1, 1]])
    bounds = np.array([image.shape[1], image.shape[0]])
    low = np.clip(np.floor(corners.min(axis=1)) - 2, 0, bounds - 1).astype(int)
    high = np.clip(np.ceil(corners.max(axis=1)) + 3, low + 1, bounds).astype(int)
    part = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
    inverse[:, 2] -= low
    # Pillow samples at pixel centres (x + ½); landmarks count pixel centres from 0.
    inverse[:, 2] += 0.5 - 0.5 * (inverse[:, 0] + inverse[:, 1])
    crop = Image.fromarray(part).transform(
        (size, size), Image.Transform.AFFINE, tuple(inverse.ravel()), Image.Resampling.BILINEAR
    )
    return np.asarray(crop)
