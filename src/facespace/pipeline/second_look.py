"""Searches photos without a detected face again, with a border around them, for a face that reaches beyond their edges.

Detectors look for a whole head with some background. If photos are cut 5, 10, 15 and 20 % inside the box of a face,
MTCNN finds 90, 55, 20 and 10 % of these faces; with a grey border it finds 100, 100, 95 and 90 %. A border of the mean
colour, of black or of repeated pixels gives worse results. YuNet finds nearly all of them without a border. Photos are
shrunk before the search, which finds as much in a fraction of the time. benchmarks/cut_and_turned.py measures all this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from facespace.detection.protocol import Detector, ReducedDetector
from facespace.faces.face import Face, Point
from facespace.io.resizing import resized

Pixels = npt.NDArray[np.uint8]

_BORDER = 0.5  # width, as a share of the photo's shorter side
_GREY = 127  # the value that both detectors were trained to ignore
_SIDE = 160.0  # pixels; photos are shrunk to it, since the face sought fills them
_SIDE_IN_FACES = 4.0  # least side, in multiples of the detector's smallest face
# Limits for accepted faces. In 2,400 pictures without a face the second look finds two: one of score 0.63, and a small
# one. Faces cut inside their box score at least 0.77, and their longer side is at least 1.27 of the photo's shorter
# side.
_LEAST_SCORE = 0.7
_LEAST_SIDE = 0.75


def find_with_second_look(
    images: Sequence[Pixels], detector: Detector, reductions: Sequence[int] | None = None
) -> list[list[Face]]:
    """Run `detect_many`, and repeat it with a border around the images (H,W,3) in which no face was found.

    Images may be photos read at 1/n of their size, for the `reductions` n, if the detector is a `ReducedDetector`. The
    second search accepts only faces that fill the image. Coordinates refer to the image; boxes and landmarks may lie
    beyond its border.
    """
    if reductions is not None and isinstance(detector, ReducedDetector):
        found = detector.detect_reduced(images, reductions)
    else:
        found = detector.detect_many(images)
    empty = [k for k, faces in enumerate(found) if not faces]
    again = look_again([images[k] for k in empty], detector, [reductions[k] for k in empty] if reductions else None)
    for k, faces in zip(empty, again, strict=True):
        found[k] = faces
    return found


def look_again(
    images: Sequence[Pixels], detector: Detector, reductions: Sequence[int] | None = None
) -> list[list[Face]]:
    """Add a border to each image (H,W,3), call `detect_many` once for all, and return the faces that fill each image.

    `reductions` are those of `find_with_second_look`: an image read at 1/n of its size is searched at the size that the
    full photo would be searched at.
    """
    if not images:
        return []
    side = max(_SIDE, _SIDE_IN_FACES * getattr(detector, "min_size", 0.0))
    bordered = [_with_border(image, side, n) for image, n in zip(images, reductions or [1] * len(images), strict=True)]
    found = detector.detect_many([pixels for pixels, _, _ in bordered])
    return [
        [face for face in (_moved(face, border, scale) for face in faces) if _fills(face, image)]
        for image, faces, (_, border, scale) in zip(images, found, bordered, strict=True)
    ]


def _with_border(image: Pixels, side: float, reduction: int = 1) -> tuple[Pixels, int, tuple[float, float]]:
    """Return the image shrunk to `side` with a border, the border's width, and the scale in x and y.

    `side` bounds the shorter side. An image that was read at 1/`reduction` of its size gets the size that the full-size
    photo would get.
    """
    height, width = image.shape[:2]
    factor = min(float(reduction), side / min(height, width))
    if factor != 1:
        size = max(1, round(height * factor)), max(1, round(width * factor))
        image = resized(image, size, reducing_gap=2.0)
    border = max(1, round(_BORDER * min(image.shape[:2])))
    pixels = np.full((image.shape[0] + 2 * border, image.shape[1] + 2 * border, 3), _GREY, np.uint8)
    pixels[border:-border, border:-border] = image
    return pixels, border, (image.shape[1] / width, image.shape[0] / height)


def _moved(face: Face, border: int, scale: tuple[float, float]) -> Face:
    """Return the face in coordinates of the image without the border."""
    x1, y1, x2, y2 = face.box
    sx, sy = scale
    box = ((x1 - border) / sx, (y1 - border) / sy, (x2 - border) / sx, (y2 - border) / sy)

    def moved(points: tuple[Point, ...]) -> tuple[Point, ...]:
        return tuple(((x - border) / sx, (y - border) / sy) for x, y in points)

    crop_points = None if face.crop_points is None else moved(face.crop_points)
    return dataclasses.replace(face, box=box, landmarks=moved(face.landmarks), crop_points=crop_points)


def _fills(face: Face, image: Pixels) -> bool:
    height, width = image.shape[:2]
    return face.score >= _LEAST_SCORE and max(face.width, face.height) >= _LEAST_SIDE * min(height, width)
