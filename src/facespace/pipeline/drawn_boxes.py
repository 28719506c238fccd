"""Finds the face in a box that a user drew, for photos in which the detector found none."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from facespace.faces.face import Box, Face, overlaps

# Average positions of eyes, nose and mouth in a box from forehead to chin, as shares of its width and height.
_PROPORTIONS = ((0.32, 0.40), (0.68, 0.40), (0.50, 0.60), (0.36, 0.78), (0.64, 0.78))
_ASSUMED_SCORE = 0.5
_MARGIN = 0.75  # share of the box's longer side, added on each side
_SIDE = (320, 1024)  # limits of a region's longer side in pixels
_SAME = 0.3  # least intersection over union
MIN_SIDE = 8  # least side of a box in pixels


class Region(NamedTuple):
    """The surroundings of a box: `pixels` (h,w,3), resized by the factor `scale`, with the top left corner at `x`, `y` of the
    photo.
    """

    pixels: npt.NDArray[np.uint8]
    x: int
    y: int
    scale: float


def checked_box(numbers: Sequence[float], width: int, height: int) -> Box:
    """Return a box (x1, y1, x2, y2) clipped to a photo of that size.

    Raises `ValueError` if the box is malformed or too small.

    >>> checked_box([-5, 0, 50, 60], 100, 100)
    (0.0, 0.0, 50.0, 60.0)
    """
    if len(numbers) != 4 or not all(math.isfinite(one) for one in numbers):
        raise ValueError("a box must be four numbers: x1,y1,x2,y2")
    x1, y1, x2, y2 = (float(one) for one in numbers)
    box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if box[2] - box[0] < MIN_SIDE or box[3] - box[1] < MIN_SIDE:
        raise ValueError(f"a box must be at least {MIN_SIDE} pixels wide and high within the photo of {width}x{height}")
    return box


def region_around(image: npt.NDArray[np.uint8], box: Box) -> Region:
    """Cut a box and its surroundings out of an image (H,W,3), and scale them to a size that suits a detector.

    A small region is enlarged so that the detector finds a small face, and a very large one is made smaller.
    """
    height, width = image.shape[:2]
    more = _MARGIN * max(box[2] - box[0], box[3] - box[1])
    x1, y1 = max(int(box[0] - more), 0), max(int(box[1] - more), 0)
    x2, y2 = min(math.ceil(box[2] + more), width), min(math.ceil(box[3] + more), height)
    longer = max(x2 - x1, y2 - y1)
    scale = min(max(longer, _SIDE[0]), _SIDE[1]) / longer
    size = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    part = Image.fromarray(np.ascontiguousarray(image[y1:y2, x1:x2]))
    return Region(np.asarray(part.resize(size, Image.Resampling.BICUBIC)), x1, y1, scale)


def face_in_box(faces: Sequence[Face], box: Box) -> Face | None:
    """Return the face that overlaps the box most, or None if no face overlaps it enough.

    >>> points = ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60))
    >>> face = Face((10, 20, 50, 70), 0.99, points)
    >>> face_in_box([face], (12, 18, 55, 70)) is face, face_in_box([face], (50, 60, 90, 99))
    (True, None)
    """
    if not faces:
        return None
    shares = overlaps(np.array([face.box for face in faces], np.float64), np.array([box], np.float64))[:, 0]
    best = int(shares.argmax())
    return faces[best] if shares[best] >= _SAME else None


def in_photo(face: Face, region: Region) -> Face:
    """Return a face of a region in the coordinates of the photo."""

    def moved(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
        return tuple((x / region.scale + region.x, y / region.scale + region.y) for x, y in points)

    (x1, y1), (x2, y2) = moved((face.box[:2], face.box[2:]))
    points = None if face.crop_points is None else moved(face.crop_points)
    return dataclasses.replace(
        face, box=(x1, y1, x2, y2), landmarks=moved(face.landmarks), crop_points=points, quality=None
    )


def assumed_face(box: Box) -> Face:
    """Return an upright face that fills the box, with eyes, nose and mouth at their average positions.

    >>> assumed_face((0, 0, 100, 100)).landmarks[0]
    (32.0, 40.0)
    """
    width, height = box[2] - box[0], box[3] - box[1]
    landmarks = tuple((box[0] + x * width, box[1] + y * height) for x, y in _PROPORTIONS)
    return Face(box, _ASSUMED_SCORE, landmarks)
