"""Augmentation of stored crops for training: rotation, cropping, flipping, and optional degradations."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance

from facespace.faces.crops import resize

RGB = npt.NDArray[np.uint8]

# The outline of a mask over nose, mouth and chin of a face that fills the crop, as fractions of the crop's side.
_MASK = ((0.14, 0.55), (0.50, 0.47), (0.86, 0.55), (0.80, 0.82), (0.62, 0.97), (0.38, 0.97), (0.20, 0.82))


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Represents the augmentation of crops. The order is: rotate, cut, flip, colour, low resolution, occlusion, mask.

    - `size`: side in pixels of the network's input.
    - `crop_size`: side of the square cut from the stored crop; None means `size`. It is resized to `size` if it differs.
    - `crop`: cut from the middle (`center`) or at a random position (`random`). A stored crop that is too small gets a
      black border, as in the programs of 2018.
    - `rotate`: the largest angle in degrees, to either side; bicubic.
    - `flip`: mirror half of the crops.
    - `color`: multiply brightness, contrast and saturation each by a factor from 1 − color to 1 + color.
    - `low_resolution`: probability that a crop is made small, compressed as JPEG and enlarged again.
    - `occlusion`: probability of a rectangle of one colour over up to a fifth of the crop.
    - `mask`: probability of a painted mask over nose and mouth.
    """

    size: int
    crop_size: int | None = None
    crop: Literal["center", "random"] = "center"
    rotate: float = 0.0
    flip: bool = False
    color: float = 0.0
    low_resolution: float = 0.0
    occlusion: float = 0.0
    mask: float = 0.0

    def __post_init__(self) -> None:
        if self.crop not in ("center", "random"):
            raise ValueError(f"crop must be center or random, got {self.crop!r}")
        bounds = {"rotate": 180.0, "color": 1.0, "low_resolution": 1.0, "occlusion": 1.0, "mask": 1.0}
        for name, most in bounds.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be 0 to {most:g}, got {getattr(self, name)}")
        for name in ("size", "crop_size"):
            if getattr(self, name) is not None and not 1 <= getattr(self, name) <= 4096:
                raise ValueError(f"{name} must be 1 to 4096 pixels, got {getattr(self, name)}")

    def apply(self, stored: RGB, random: np.random.Generator) -> RGB:
        """Return an augmented crop (size,size,3) uint8 of a stored crop (H,W,3) uint8, drawing from `random`.

        >>> Augmentation(2).apply(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), np.random.default_rng(0))[0, 0].tolist()
        [15, 16, 17]
        """
        pixels = stored
        if self.rotate:
            angle = random.uniform(-self.rotate, self.rotate)
            pixels = np.asarray(Image.fromarray(pixels).rotate(angle, Image.Resampling.BICUBIC))
        pixels = self._cut(pixels, random)
        if self.flip and random.random() < 0.5:
            pixels = pixels[:, ::-1]
        if self.color:
            pixels = _colored(pixels, [random.uniform(1 - self.color, 1 + self.color) for _ in range(3)])
        if self.low_resolution and random.random() < self.low_resolution:
            pixels = _blurred(pixels, random)
        if self.occlusion and random.random() < self.occlusion:
            pixels = _occluded(pixels, random)
        if self.mask and random.random() < self.mask:
            pixels = _masked(pixels, random)
        return np.ascontiguousarray(pixels)

    def _cut(self, pixels: RGB, random: np.random.Generator) -> RGB:
        side = self.crop_size or self.size
        height, width = pixels.shape[:2]
        if height < side or width < side:
            bordered = np.zeros((max(height, side), max(width, side), 3), np.uint8)
            top, left = (bordered.shape[0] - height) // 2, (bordered.shape[1] - width) // 2
            bordered[top : top + height, left : left + width] = pixels
            pixels, height, width = bordered, max(height, side), max(width, side)
        if self.crop == "random":
            top, left = int(random.integers(height - side + 1)), int(random.integers(width - side + 1))
        else:
            top, left = (height - side) // 2, (width - side) // 2
        cut = pixels[top : top + side, left : left + side]
        return resize(cut, self.size)


def _colored(pixels: RGB, factors: list[float]) -> RGB:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
    ):
        image = enhance(image).enhance(factor)
    return np.asarray(image)


def _blurred(pixels: RGB, random: np.random.Generator) -> RGB:
    """Shrink the image to 25 to 75 % of its side, compress it as JPEG of quality 30 to 90, and enlarge it again."""
    side = pixels.shape[0]
    small = Image.fromarray(resize(pixels, max(1, int(side * random.uniform(0.25, 0.75)))))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=int(random.integers(30, 91)))
    return resize(np.asarray(Image.open(file)), side)


def _occluded(pixels: RGB, random: np.random.Generator) -> RGB:
    side = pixels.shape[0]
    area, ratio = random.uniform(0.02, 0.2), random.uniform(0.3, 1 / 0.3)
    height, width = (min(side, max(1, round(side * math.sqrt(area * factor)))) for factor in (ratio, 1 / ratio))
    top, left = int(random.integers(side - height + 1)), int(random.integers(side - width + 1))
    pixels = pixels.copy()
    pixels[top : top + height, left : left + width] = random.integers(0, 256, 3)
    return pixels


def _masked(pixels: RGB, random: np.random.Generator) -> RGB:
    side = pixels.shape[0]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    shift = random.uniform(-0.03, 0.03, (len(_MASK), 2))
    outline: Any = [((x + dx) * side, (y + dy) * side) for (x, y), (dx, dy) in zip(_MASK, shift, strict=True)]
    ImageDraw.Draw(image).polygon(outline, fill=tuple(int(value) for value in random.integers(0, 256, 3)))
    return np.asarray(image)
