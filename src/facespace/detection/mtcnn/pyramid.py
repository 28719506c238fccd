"""The detector's image pyramid, laid out on low canvases of one width.

Scanning a photo for faces of every size means one pass of P-Net per pyramid level, each of another shape: calls on small
levels cost more than what they compute, and what P-Net makes of a large level does not stay in a core's cache. So all levels
of a photo are cut into tiles and packed onto canvases, each a call of its own on a core of its own.

P-Net's arithmetic is kept exactly. A cell sees 12×12 pixels at stride 2, so tiles overlap by 10 pixels and start
at even offsets. At the end of a level of odd length the 2×2 pooling window is half empty; on a canvas its other
half shows a neighbour, which a mask, the fourth plane of a canvas, keeps out.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Pixels. The three largest levels of a 250 px photo lie side by side on this width, and its whole pyramid takes two
# canvases, one for each of two cores.
CANVAS = 334
# Greatest height of a canvas: what P-Net makes of it takes 2 MB at its largest, which stays in a core's cache. A pixel takes
# 46 ns on canvases of 82 rows, 53 ns of 152 and 58 ns of 334; on lower ones more rows are repeated where tiles overlap.
ROWS = 96
CELL = 12  # pixels a P-Net output sees
OVERLAP = CELL - 2
_HEIGHTS = 8  # canvas heights are multiples of this


class Level(NamedTuple):
    """One size of the photo: `scale` of the original, rounded up to whole pixels."""

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

    For every canvas, `owners` holds the index of the tile each P-Net cell belongs to, or −1, and `masks` (H,CANVAS)
    is 1 where the first convolution's output of that index must stay out of the pooling, else 0. `origins` (T,4) are
    each tile's level, the pixel of that level at the canvas's corner (y, x), and the level's scale.
    """

    levels: tuple[Level, ...]
    tiles: tuple[Tile, ...]
    origins: npt.NDArray[np.float64]
    owners: tuple[npt.NDArray[np.int32], ...]
    masks: tuple[npt.NDArray[np.uint8], ...]

    def mirrored(self, level: int, row: int, column: int) -> tuple[int, int, int]:
        """Canvas, row and column there of the cell that mirrors a level's cell from left to right."""
        column = _n_cells(self.levels[level].width) - 1 - column
        for tile in self.tiles:
            y, x = row - tile.top // 2, column - tile.left // 2
            if tile.level == level and 0 <= y < _n_cells(tile.height) and 0 <= x < _n_cells(tile.width):
                return tile.canvas, y + tile.y // 2, x + tile.x // 2
        raise IndexError(f"level {level} has no cell ({row}, {column})")

    def on_canvas(self, canvas: int) -> list[Tile]:
        """The tiles to draw on one canvas."""
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
    tiles, heights = _pack(levels)
    owners = tuple(np.full((high // 2 - 5, CANVAS // 2 - 5), -1, np.int32) for high in heights)
    masks = tuple(np.zeros((high, CANVAS), np.uint8) for high in heights)
    for index, tile in enumerate(tiles):
        y, x = tile.y // 2, tile.x // 2
        owners[tile.canvas][y : y + _n_cells(tile.height), x : x + _n_cells(tile.width)] = index
        bottom, right = tile.y + tile.height, tile.x + tile.width
        if tile.height % 2:
            masks[tile.canvas][bottom - 2, tile.x : right] = 1
        if tile.width % 2:
            masks[tile.canvas][tile.y : bottom, right - 2] = 1
    origins = np.array([(t.level, t.top - t.y, t.left - t.x, levels[t.level].scale) for t in tiles], np.float64)
    origins = origins.reshape(-1, 4)  # of a photo without a level too
    return Layout(levels, tuple(tiles), origins, owners, masks)


def _n_cells(length: int) -> int:
    return math.ceil((length - 2) / 2) - 4


def _cuts(length: int, longest: int) -> list[tuple[int, int]]:
    """(start, length) of overlapping pieces, none longer than `longest`, together holding every cell once."""
    pieces = []
    start = 0
    while True:
        pieces.append((start, min(longest, length - start)))
        if start + longest >= length:
            return pieces
        start += longest - OVERLAP


def _pack(levels: tuple[Level, ...]) -> tuple[list[Tile], list[int]]:
    """Tiles and the height of every canvas. Skyline packing, largest first: a tile goes where it ends highest up."""
    pieces = [
        (index, top, left, height, width)
        for index, level in enumerate(levels)
        for top, height in _cuts(level.height, ROWS)
        for left, width in _cuts(level.width, CANVAS)
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
    return tiles, [math.ceil(2 * int(skyline.max()) / _HEIGHTS) * _HEIGHTS for skyline in skylines]


def _place(skyline: npt.NDArray[np.int64], height: int, width: int) -> tuple[int, int] | None:
    """First place for a tile, in steps of two pixels, and its mark on the skyline; None when it is full."""
    heights = np.lib.stride_tricks.sliding_window_view(skyline, width).max(axis=1)
    x = int(heights.argmin())
    y = int(heights[x])
    if y + height > ROWS // 2:
        return None
    skyline[x : x + width] = y + height
    return y, x
