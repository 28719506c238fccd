"""Shrinks photos without a second copy of the photo in memory.

With a `reducing_gap`, Pillow shrinks in two steps: blocks of pixels are averaged, then the result is resampled. For this it
copies the photo with four bytes per pixel. The blocks are independent of each other, so here they are averaged strip by
strip.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

_STRIP = 2**20  # pixels copied at once


def resized(
    pixels: npt.NDArray[np.uint8],
    size: tuple[int, int],
    *,
    box: tuple[float, float, float, float] | None = None,
    reducing_gap: float,
) -> npt.NDArray[np.uint8]:
    """Resize the `box` (x1 y1 x2 y2) of an image (H,W,3) to `size` (height, width), equal to Pillow's bilinear `resize`.

    >>> resized(np.zeros((40, 60, 3), np.uint8), (4, 6), reducing_gap=2.0).shape
    (4, 6, 3)
    """
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = box = box or (0.0, 0.0, float(width), float(height))
    across, down = (max(1, int(side / to / reducing_gap)) for side, to in ((x2 - x1, size[1]), (y2 - y1, size[0])))
    whole = x1 == y1 == 0 and x2 > width - 1 and y2 > height - 1  # else Pillow's blocks begin inside the image
    if not whole or across == down == 1 or height * width <= _STRIP:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR, box=box, reducing_gap=reducing_gap))
    rows = down * max(1, _STRIP // (down * width))
    strips = (Image.fromarray(np.ascontiguousarray(pixels[top : top + rows])) for top in range(0, height, rows))
    image = Image.fromarray(np.concatenate([np.asarray(strip.reduce((across, down))) for strip in strips]))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR, box=(0, 0, x2 / across, y2 / down)))
