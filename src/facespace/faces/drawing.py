"""Pictures to look at: faces framed and named on a copy of the photo."""

from __future__ import annotations

import contextlib
import functools
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from facespace.faces.face import Face

KNOWN = (46, 160, 67)
UNKNOWN = (215, 58, 73)
FOUND = (31, 111, 235)
Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Where the usual systems keep a font with Chinese, Japanese and Korean letters.
_CJK_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "/System/Library/Fonts/PingFang.ttc",
    "/System/Library/Fonts/Hiragino Sans GB.ttc",
    "msyh.ttc",
    "simsun.ttc",
)


def annotate(
    image: npt.NDArray[np.uint8], faces: Sequence[Face], labels: Sequence[str], colors: Sequence[Color]
) -> Image.Image:
    """A copy of `image` (H,W,3) with every face framed, its landmarks dotted and its label beside it."""
    picture = Image.fromarray(np.ascontiguousarray(image)).copy()
    draw = ImageDraw.Draw(picture)
    unit = max(1, round(min(picture.size) / 300))
    for face, color in zip(faces, colors, strict=True):
        draw.rectangle(face.box, outline=color, width=2 * unit)
        for x, y in face.landmarks:
            draw.ellipse((x - unit, y - unit, x + unit, y + unit), fill=color)
    for face, label, color in zip(faces, labels, colors, strict=True):  # over every frame
        if label:
            _label(draw, picture.size, face, label, color)
    return picture


def _label(draw: ImageDraw.ImageDraw, size: tuple[int, int], face: Face, label: str, color: Color) -> None:
    font = _font(int(min(max(face.height / 6, 11), max(size) / 20 + 11)), _wide(label))
    left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
    width, height = right - left + 6, bottom - top + 6
    x = min(max(face.box[0], 0), max(size[0] - width, 0))
    above, below = face.box[1] - height, face.box[3]
    y = min(max(above if above >= 0 else below, 0), max(size[1] - height, 0))
    draw.rectangle((x, y, x + width, y + height), fill=color)
    draw.text((x + 3 - left, y + 3 - top), label, font=font, fill=(255, 255, 255))


def _wide(text: str) -> bool:
    return any(unicodedata.east_asian_width(letter) in "WF" for letter in text)


@functools.lru_cache(maxsize=64)
def _font(size: int, wide: bool) -> Font:
    for name in _CJK_FONTS if wide else ():
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)
