"""Photos of 250 px, VGA, 1080p and 12 megapixels that contain one, six and fifty real faces.

Those of 250 px are unchanged photos of LFW view 1. The others are composed: photos of LFW, each of another person, are cut to
their middle 160 px (a face is about 100 px of it), scaled, and put in a grid onto a real photo without people, which is
repeated in mirror image to fill the size with texture. `LAYOUTS` has the sizes of the grid and faces.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

SIZES = {"VGA": (640, 480), "1080p": (1920, 1080), "12 MP": (4000, 3000)}
LAYOUTS = {  # faces: columns, rows
    1: (1, 1),
    6: (3, 2),
    50: (10, 5),
}
SIDES = {  # pixels of each photo put there; a face is about 0.6 of it
    ("VGA", 1): 200, ("VGA", 6): 150, ("VGA", 50): 60,
    ("1080p", 1): 400, ("1080p", 6): 300, ("1080p", 50): 150,
    ("12 MP", 1): 600, ("12 MP", 6): 500, ("12 MP", 50): 300,
}  # fmt: skip
CUT = 160
BACKGROUND = "data/photos/dogs.jpg"


class Photos(NamedTuple):
    """The photos of a row, and how many faces were put into them."""

    paths: list[str]
    n_faces: int


def lfw_photos(shared: Path, n: int) -> list[Path]:
    """One photo each of `n` people of LFW view 1, spread over the alphabet."""
    people = sorted(path for path in (shared / "data/lfw_view1/images").iterdir() if path.is_dir())
    return [min(person.iterdir()) for person in people[:: len(people) // n][:n]]


def small(shared: Path, n: int) -> Photos:
    return Photos(list(map(str, lfw_photos(shared, n))), n)


def composed(shared: Path, folder: Path, size: str, n_faces: int, n_photos: int) -> Photos:
    """The paths of composed photos, made in `folder` if they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{size.replace(' ', '')}-{n_faces}-{k}.jpg" for k in range(n_photos)]
    people = lfw_photos(shared, 300)
    for k, path in enumerate(paths):
        if path.exists():
            continue
        width, height = SIZES[size]
        columns, rows = LAYOUTS[n_faces]
        side = SIDES[size, n_faces]
        photo = _background(shared / BACKGROUND, width, height)
        for place in range(n_faces):
            with Image.open(people[(k * n_faces + place) % len(people)]) as face:
                edge = (face.width - CUT) // 2
                middle = face.convert("RGB").crop((edge, edge, edge + CUT, edge + CUT))
            column, row = place % columns, place // columns
            left = round((column + 0.5) * width / columns - side / 2)
            top = round((row + 0.5) * height / rows - side / 2)
            photo.paste(middle.resize((side, side), Image.Resampling.BICUBIC), (left, top))
        part = path.with_suffix(".part")
        photo.save(part, "JPEG", quality=95)
        part.replace(path)
    return Photos(list(map(str, paths)), n_faces * n_photos)


def _background(path: Path, width: int, height: int) -> Image.Image:
    with Image.open(path) as opened:
        tile = opened.convert("RGB")
    pixels = np.asarray(tile)
    pair = np.concatenate([pixels, np.asarray(ImageOps.mirror(tile))], axis=1)
    four = np.concatenate([pair, pair[::-1]], axis=0)
    times = (-(-height // four.shape[0]), -(-width // four.shape[1]), 1)
    return Image.fromarray(np.ascontiguousarray(np.tile(four, times)[:height, :width]))
