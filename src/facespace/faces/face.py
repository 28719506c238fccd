"""One detected face: box, score and landmarks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_FAR_LARGER = 2.5  # ratio of longer sides

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Face:
    """One face of an image; coordinates are pixels of that image.

    `box` is (x1, y1, x2, y2) and may reach beyond the border. `landmarks` are left eye, right eye, nose, left mouth
    corner, right mouth corner as seen in the image. `score` is the detector's probability. `quality`, from 0 to 1,
    comes from `faces.quality.face_quality`, or is None if it was not computed. `crop_points` are the same five points,
    located more steadily, or None if the detector cannot do that. Crops are aligned by `crop_points` if there are any,
    else by `landmarks`. Raises `ValueError` if the box is empty, a number is not finite, or there are not five points.

    >>> face = Face((10, 20, 50, 70), 0.99, ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60)))
    >>> face.width, face.height
    (40, 50)
    """

    box: Box
    score: float
    landmarks: tuple[Point, ...]
    quality: float | None = field(default=None, kw_only=True)
    crop_points: tuple[Point, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        points = (*self.landmarks, *(self.crop_points or ()))
        n_points = 5 if self.crop_points is None else 10
        if len(self.box) != 4 or len(points) != n_points or any(len(point) != 2 for point in points):
            raise ValueError(
                f"a face must have a box of 4 numbers and 5 landmarks of 2, got {len(self.box)} and {len(self.landmarks)}"
                + ("" if self.crop_points is None else f", and {len(self.crop_points)} crop_points")
            )
        numbers = [*self.box, self.score, *(value for point in points for value in point)]
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"a face's numbers must be finite, got {numbers}")
        if self.box[2] <= self.box[0] or self.box[3] <= self.box[1]:
            raise ValueError(f"a face's box must have x1 < x2 and y1 < y2, got {self.box}")

    @property
    def width(self) -> float:
        """The width of the box in pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        """The height of the box in pixels."""
        return self.box[3] - self.box[1]

    def as_dict(self) -> dict[str, Any]:
        """Return the face as JSON values, with coordinates rounded to a thousandth of a pixel."""
        entry: dict[str, Any] = {
            "box": [round(float(value), 3) for value in self.box],
            "score": round(float(self.score), 6),
            "landmarks": [[round(float(x), 3), round(float(y), 3)] for x, y in self.landmarks],
        }
        if self.quality is not None:
            entry["quality"] = round(self.quality, 3)
        return entry


def clear_face(faces: Sequence[Face]) -> Face | None:
    """Return the face of a portrait: the only face, or the one that is far larger than all others; else None.

    The other detections in a portrait are far smaller: people in the background, a picture on the wall, a collar.

    >>> points = ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60))
    >>> portrait, collar = Face((0, 0, 100, 120), 0.9, points), Face((40, 150, 60, 170), 0.94, points)
    >>> clear_face([collar, portrait]) is portrait, clear_face([portrait, portrait])
    (True, None)
    """
    if not faces:
        return None
    largest, *others = sorted(faces, key=lambda face: -face.width * face.height)
    side = max(largest.width, largest.height)
    return largest if all(max(face.width, face.height) * _FAR_LARGER <= side for face in others) else None


def central_face(faces: Sequence[Face], width: int, height: int) -> Face:
    """Return the face that the 2018 aligner keeps: the one with the largest value of area − 2·d².

    d is the distance in pixels from the centre of the face's box to the centre of the photo, whose size is `width` and
    `height`. If several faces have the largest value, the first is returned. There must be at least one face.

    >>> points = ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60))
    >>> corner, middle = Face((0, 0, 20, 20), 1.0, points), Face((40, 40, 55, 55), 0.9, points)
    >>> central_face([corner, middle], 100, 100) is middle
    True
    """

    def value(face: Face) -> float:
        x, y = (face.box[0] + face.box[2] - width) / 2, (face.box[1] + face.box[3] - height) / 2
        return face.width * face.height - 2 * (x * x + y * y)

    return max(faces, key=value)


def overlaps(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> Array:
    """Return the intersection over union (N,M) of boxes (N,4) and (M,4).

    A box is (x1, y1, x2, y2) with x1 < x2 and y1 < y2.

    >>> overlaps(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.maximum(high - low, 0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    result: Array = common / (areas[0][:, None] + areas[1][None] - common)
    return result
