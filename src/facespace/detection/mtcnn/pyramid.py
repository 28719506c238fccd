"""The layout of the detector's image pyramid on low canvases of one width.

To find faces of every size, P-Net scans each level of the pyramid. One call per level would be slow: for small levels the
call costs more than the computation, and for large levels the intermediate values do not fit into a core's cache. So all
levels of a photo are cut into tiles and packed onto canvases, and each canvas is one call on one core.

P-Net's results stay exactly the same. A cell sees 12×12 pixels at stride 2, so tiles overlap by 10 pixels and start at
even offsets. At the end of a level of odd length the 2×2 pooling window is half empty. On a canvas its other half shows
a neighbouring tile, so a mask, the fourth plane of the canvas, excludes it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Width of a canvas in pixels. The three largest levels of a 250 px photo fit next to each other, and its whole pyramid
# takes two canvases, one for each of two cores.
CANVAS = 334
# Largest height of a canvas: P-Net's intermediate values then take at most 2 MB, which stays in a core's cache. A pixel
# takes 46 ns on canvases of 82 rows, 53 ns on 152 and 58 ns on 334; lower canvases repeat more rows in overlapping tiles.
ROWS = 96
CELL = 12  # side in pixels of the square that a P-Net output sees
OVERLAP = CELL - 2
_HEIGHTS = 8  # canvas heights are multiples of this


class Level(NamedTuple):
    """Represents one level: the photo at `scale` times its size, rounded up to whole pixels."""

    scale: float
    height: int
    width: int


class Tile(NamedTuple):
    """Represents the pixels [top, top+height) × [left, left+width) of a level, placed at (y, x) of a canvas."""

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
    """Represents the layout of the pyramid of one photo size on its canvases.

    For every canvas, `owners` has the index of the tile that each P-Net cell belongs to, or −1; `masks` (H,CANVAS) is 1
    where the pooling must ignore the first convolution's output, else 0. `origins` (T,4) has for each of T tiles: its
    level, the position y and x in that level of the canvas's top left corner, and the level's scale.
    """

    levels: tuple[Level, ...]
    tiles: tuple[Tile, ...]
    origins: npt.NDArray[np.float64]
    owners: tuple[npt.NDArray[np.int32], ...]
    masks: tuple[npt.NDArray[np.uint8], ...]

    def mirrored(self, level: int, row: int, column: int) -> tuple[int, int, int]:
        """Return (canvas, row, column) of the P-Net cell that mirrors a cell (`row`, `column`) left to right."""
        column = _n_cells(self.levels[level].width) - 1 - column
        for tile in self.tiles:
            y, x = row - tile.top // 2, column - tile.left // 2
            if tile.level == level and 0 <= y < _n_cells(tile.height) and 0 <= x < _n_cells(tile.width):
                return tile.canvas, y + tile.y // 2, x + tile.x // 2
        raise IndexError(f"level {level} has no cell ({row}, {column})")

    def on_canvas(self, canvas: int) -> list[Tile]:
        """Return the tiles of one canvas."""
        return [tile for tile in self.tiles if tile.canvas == canvas]


def pyramid(height: int, width: int, *, min_size: float, factor: float) -> list[Level]:
    """Return the levels with the scales of the 2018 detector: 12/min_size · factor^k, while no side is below 12 px.

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
    """Return the layout for photos of one size; layouts are cached."""
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
    origins = origins.reshape(-1, 4)  # the shape also holds if there are no tiles
    return Layout(levels, tuple(tiles), origins, owners, masks)


def _n_cells(length: int) -> int:
    return math.ceil((length - 2) / 2) - 4


def _cuts(length: int, longest: int) -> list[tuple[int, int]]:
    """Return (start, length) of pieces of at most `longest` pixels that overlap so that each cell is in just one."""
    pieces = []
    start = 0
    while True:
        pieces.append((start, min(longest, length - start)))
        if start + longest >= length:
            return pieces
        start += longest - OVERLAP


def _pack(levels: tuple[Level, ...]) -> tuple[list[Tile], list[int]]:
    """Pack all levels onto canvases; return the tiles and the height of every canvas.

    Skyline packing places the tallest tiles first, and each tile where it ends closest to the top of the canvas.
    """
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
    """Find a place for a tile on a canvas and return it as (y, x), or None if there is no space.

    `skyline` has the height of the used part of each column, and is updated. All lengths are in units of two pixels.
    """
    heights = np.lib.stride_tricks.sliding_window_view(skyline, width).max(axis=1)
    x = int(heights.argmin())
    y = int(heights[x])
    if y + height > ROWS // 2:
        return None
    skyline[x : x + width] = y + height
    return y, x
