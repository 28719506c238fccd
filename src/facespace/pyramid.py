"""The detector's image pyramid, laid out on canvases of one fixed size.

Scanning a photo for faces of every size means one pass of P-Net per pyramid level, each of another shape.
Runtimes compile a network for each new shape, and small shapes leave cores idle. So all levels of a photo are cut
into tiles and packed onto square canvases, and one compiled shape serves every photo.

P-Net's arithmetic is kept exactly. A cell sees 12×12 pixels at stride 2, so tiles overlap by 10 pixels and start
at even offsets. At the end of a level of odd length the 2×2 pooling window is half empty; on a canvas its other
half shows a neighbour, which a mask of −10⁹ added before the pooling keeps out.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CANVAS = 264  # pixels; the whole pyramid of a 250 px photo fits on one
CELLS = CANVAS // 2 - 5  # P-Net outputs along one side of a canvas
CELL = 12  # pixels a P-Net output sees
OVERLAP = CELL - 2
_MASKED = np.float32(-1e9)


class Level(NamedTuple):
    scale: float
    height: int
    width: int


class Tile(NamedTuple):
    """Pixels [top, top+height) × [left, left+width) of a level, placed at (y, x) of a canvas."""

    level: int
    top: int
    left: int
    height: int
    width: int
    canvas: int
    y: int
    x: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the pyramid of one photo size lies on its canvases.

    `owner` (canvases, CELLS, CELLS) holds the index of the tile a P-Net cell belongs to, or −1; `masks` one
    (1, CANVAS−2, CANVAS−2) array a canvas.
    """

    levels: tuple[Level, ...]
    tiles: tuple[Tile, ...]
    owner: npt.NDArray[np.int32]
    masks: tuple[npt.NDArray[np.float32], ...]

    def on_canvas(self, canvas: int) -> list[Tile]:
        return [tile for tile in self.tiles if tile.canvas == canvas]


def pyramid(height: int, width: int, *, min_size: float, factor: float) -> list[Level]:
    """Levels of the 2018 detector: scale_k = 12/min_size · factor^k while the shorter side keeps 12 pixels.

    >>> [(level.height, level.width) for level in pyramid(40, 60, min_size=20, factor=0.709)]
    [(24, 36), (18, 26), (13, 19)]
    """
    ratio = CELL / min_size
    side = min(height, width) * ratio
    levels: list[Level] = []
    while side >= CELL:
        scale = ratio * factor ** len(levels)
        levels.append(Level(scale, math.ceil(height * scale), math.ceil(width * scale)))
        side *= factor
    return levels


@functools.lru_cache(maxsize=64)
def layout(height: int, width: int, min_size: float, factor: float) -> Layout:
    """The layout for photos of one size; kept for the next photo of that size."""
    levels = tuple(pyramid(height, width, min_size=min_size, factor=factor))
    tiles = _pack(levels)
    n_canvases = 1 + max((tile.canvas for tile in tiles), default=-1)
    owner = np.full((n_canvases, CELLS, CELLS), -1, np.int32)
    clear = np.zeros((1, CANVAS - 2, CANVAS - 2), np.float32)
    masks = [clear] * n_canvases
    for index, tile in enumerate(tiles):
        rows, columns = _n_cells(tile.height), _n_cells(tile.width)
        y, x = tile.y // 2, tile.x // 2
        owner[tile.canvas, y : y + rows, x : x + columns] = index
        if tile.height % 2 or tile.width % 2:
            mask = masks[tile.canvas]
            if mask is clear:
                mask = masks[tile.canvas] = clear.copy()
            if tile.height % 2:
                mask[0, tile.y + tile.height - 2 : tile.y + tile.height - 1, tile.x : tile.x + tile.width] = _MASKED
            if tile.width % 2:
                mask[0, tile.y : tile.y + tile.height, tile.x + tile.width - 2 : tile.x + tile.width - 1] = _MASKED
    return Layout(levels, tuple(tiles), owner, tuple(masks))


def _n_cells(length: int) -> int:
    return math.ceil((length - 2) / 2) - 4


def _cuts(length: int) -> list[tuple[int, int]]:
    """(start, length) of overlapping pieces, none longer than a canvas, together holding every cell once."""
    pieces = []
    start = 0
    while True:
        pieces.append((start, min(CANVAS, length - start)))
        if start + CANVAS >= length:
            return pieces
        start += CANVAS - OVERLAP


def _pack(levels: tuple[Level, ...]) -> list[Tile]:
    """Skyline packing, largest tiles first: each goes where its upper edge ends lowest."""
    pieces = [
        (index, top, left, height, width)
        for index, level in enumerate(levels)
        for top, height in _cuts(level.height)
        for left, width in _cuts(level.width)
    ]
    pieces.sort(key=lambda piece: (-piece[3], -piece[4]))
    skylines: list[npt.NDArray[np.int64]] = []
    tiles = []
    for index, top, left, height, width in pieces:
        for canvas in range(max(0, len(skylines) - 4), len(skylines) + 1):
            if canvas == len(skylines):
                skylines.append(np.zeros(CANVAS // 2, np.int64))
            place = _place(skylines[canvas], (height + 1) // 2, (width + 1) // 2)
            if place is not None:
                y, x = place
                tiles.append(Tile(index, top, left, height, width, canvas, 2 * y, 2 * x))
                break
    return tiles


def _place(skyline: npt.NDArray[np.int64], height: int, width: int) -> tuple[int, int] | None:
    """Lowest place for a tile, in steps of two pixels, and its mark on the skyline; None when it is full."""
    heights = np.lib.stride_tricks.sliding_window_view(skyline, width).max(axis=1)
    x = int(heights.argmin())
    y = int(heights[x])
    if y + height > len(skyline):
        return None
    skyline[x : x + width] = y + height
    return y, x
