"""Cuts small pictures of single faces for viewing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from facespace.faces.face import Box

_BORDER = 0.4  # share of the box's longer side, added on every side


def portrait(image: npt.NDArray[np.uint8], box: Box, side: int) -> Image.Image:
    """Cut a face out of an image (H,W,3) with a border around its box, shrunk to at most `side` pixels.

    Parts beyond the image are cut off; a box entirely outside the image gives one pixel of it.

    >>> portrait(np.zeros((300, 400, 3), np.uint8), (100.0, 100.0, 200.0, 200.0), 90).size
    (90, 90)
    """
    height, width = image.shape[:2]
    border = _BORDER * max(box[2] - box[0], box[3] - box[1])
    x1, y1 = max(int(box[0] - border), 0), max(int(box[1] - border), 0)
    x2, y2 = min(int(box[2] + border) + 1, width), min(int(box[3] + border) + 1, height)
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    picture = Image.fromarray(np.ascontiguousarray(image[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]))
    picture.thumbnail((side, side))
    return picture
