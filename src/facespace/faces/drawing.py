"""Draws frames, landmarks and names of faces on a copy of the photo."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from facespace.faces.face import Face
from facespace.faces.fonts import installed_fonts
from facespace.faces.lettering import Lettering

KNOWN = (46, 160, 67)
UNKNOWN = (215, 58, 73)
FOUND = (31, 111, 235)
Color = tuple[int, int, int]


def annotate(
    image: npt.NDArray[np.uint8], faces: Sequence[Face], labels: Sequence[str], colors: Sequence[Color]
) -> Image.Image:
    """Return a copy of `image` (H,W,3) with every face framed, its landmarks dotted and its label next to it."""
    picture = Image.fromarray(np.ascontiguousarray(image))  # fromarray copies RGB, so the image stays unchanged
    draw = ImageDraw.Draw(picture)
    for face, color in zip(faces, colors, strict=True):
        unit = max(
            1, round(min(*picture.size, 10 * face.height) / 300)
        )  # thin for small faces, so that it does not hide them
        draw.rectangle(face.box, outline=color, width=2 * unit)
        for x, y in face.landmarks:
            draw.ellipse((x - unit, y - unit, x + unit, y + unit), fill=color)
    for face, label, color in zip(faces, labels, colors, strict=True):  # after all frames, so that labels lie on top
        if label:
            _label(picture, face, label, color)
    return picture


def numbered(texts: Sequence[str]) -> list[str]:
    """Return the labels of one photo's faces for lists and pictures: the number of each face, from 1, and its text.

    >>> numbered(["Anna", ""]), numbered([])
    (['1: Anna', '2'], [])
    """
    return [f"{number}: {text}" if text else str(number) for number, text in enumerate(texts, 1)]


def _label(picture: Image.Image, face: Face, label: str, color: Color) -> None:
    letters = _lettering().draw(label, _letter_size(face, picture.size), picture.width)
    box = face.box
    x = min(max(round(box[0]), 0), picture.width - letters.width)
    above, below = round(box[1]) - letters.height, round(box[3])
    y = min(max(above if above >= 0 else below, 0), max(picture.height - letters.height, 0))
    picture.paste(color, (x, y, x + letters.width, y + letters.height))
    picture.paste((255, 255, 255), (x, y), letters)


def _letter_size(face: Face, size: tuple[int, int]) -> int:
    """Return the height of letters in pixels: a sixth of the face's height, within limits that depend on the picture.

    It is rounded to a power of two with an exponent in steps of 1/4, so that the label of a face that moves in a video
    seldom changes size.
    """
    pixels = min(max(face.height / 6, max(size) / 140, 11), max(size) / 30 + 11)
    return round(2 ** (round(4 * math.log2(pixels)) / 4))


@functools.cache
def _lettering() -> Lettering:
    return Lettering(installed_fonts())
