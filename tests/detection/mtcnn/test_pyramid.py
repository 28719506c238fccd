"""Pyramid and layout: every P-Net cell of every level appears exactly once, at the right position."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from facespace.detection.mtcnn.pyramid import CANVAS, CELL, ROWS, Layout, layout, pyramid

SIZES = [
    (1, 1),
    (11, 500),
    (19, 19),
    (20, 20),
    (21, 20),
    (20, 3001),
    (250, 250),
    (251, 250),
    (375, 500),
    (511, 333),
    (601, 1203),
    (1545, 1986),
]


def n_cells(length: int) -> int:
    """Return the length of P-Net's output: conv 3, pool 2/2 that rounds up, conv 3, conv 3."""
    length = length - 2
    length = (length + 1) // 2
    return length - 2 - 2


def levels_of_2018(height: int, width: int, min_size: float, factor: float) -> list[tuple[float, int, int]]:
    m = 12 / min_size
    side, found = min(height, width) * m, []
    while side >= 12:
        scale = m * factor ** len(found)
        found.append((scale, math.ceil(height * scale), math.ceil(width * scale)))
        side = side * factor
    return found


def check(plan: Layout) -> None:
    n_canvases = len(plan.masks)
    assert len(plan.owners) == n_canvases
    for owner, mask in zip(plan.owners, plan.masks, strict=True):
        high, wide = mask.shape
        assert (high <= ROWS, wide) == (True, CANVAS)
        assert high % 2 == 0
        assert owner.shape == (n_cells(high), n_cells(wide))
    assert {tile.canvas for tile in plan.tiles} == set(range(n_canvases))
    assert sum(len(plan.on_canvas(canvas)) for canvas in range(n_canvases)) == len(plan.tiles)
    taken = np.zeros((n_canvases, CANVAS, CANVAS), np.uint8)
    for tile in plan.tiles:
        level = plan.levels[tile.level]
        assert tile.top % 2 == tile.left % 2 == tile.y % 2 == tile.x % 2 == 0
        assert min(tile.top, tile.left, tile.y, tile.x) >= 0
        assert tile.top + tile.height <= level.height
        assert tile.left + tile.width <= level.width
        assert tile.y + tile.height <= len(plan.masks[tile.canvas])
        assert tile.x + tile.width <= CANVAS
        taken[tile.canvas, tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] += 1
    assert taken.max(initial=0) <= 1

    owned = [np.zeros((n_cells(level.height), n_cells(level.width)), np.uint8) for level in plan.levels]
    places = [np.argwhere(owner >= 0) for owner in plan.owners]
    places = np.vstack(
        [np.insert(place, 0, canvas, axis=1) for canvas, place in enumerate(places)] or [np.empty((0, 3))]
    )
    owner = np.concatenate([owner[owner >= 0] for owner in plan.owners] or [np.empty(0)])
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(plan.tiles) + 1))
    for index, tile in enumerate(plan.tiles):
        canvas, row, column = places[order[starts[index] : starts[index + 1]]].T
        assert (canvas == tile.canvas).all()
        y, x = 2 * row - tile.y, 2 * column - tile.x  # where the cell's view starts in the tile
        assert y.min() >= 0
        assert x.min() >= 0
        # A view ends inside its tile, or one pixel beyond where an odd level ends: the half-empty pooling window.
        level = plan.levels[tile.level]
        assert y.max() + CELL <= tile.height + (tile.height % 2 if tile.top + tile.height == level.height else 0)
        assert x.max() + CELL <= tile.width + (tile.width % 2 if tile.left + tile.width == level.width else 0)
        np.add.at(owned[tile.level], ((tile.top + y) // 2, (tile.left + x) // 2), 1)
    for counts in owned:
        assert (counts == 1).all()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_cell_once(height, width):
    check(layout(height, width, 20, 0.709))


@pytest.mark.parametrize(("height", "width", "min_size"), [(3000, 4000, 60), (50, 9000, 20), (6001, 8001, 200)])
def test_every_cell_once_of_huge_photos(height, width, min_size):
    check(layout(height, width, min_size, 0.709))


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    min_size=st.sampled_from([12, 13.7, 20, 33, 100]),
    factor=st.sampled_from([0.5, 0.709, 0.79]),
)
def test_every_cell_once_of_any_size(height, width, min_size, factor):
    check(layout(height, width, min_size, factor))


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 9000),
    width=st.integers(1, 9000),
    min_size=st.floats(10, 200),
    factor=st.floats(0.1, 0.9),
)
def test_levels_are_those_of_2018(height, width, min_size, factor):
    found = [tuple(level) for level in pyramid(height, width, min_size=min_size, factor=factor)]
    assert found == levels_of_2018(height, width, min_size, factor)
    for _, rows, columns in found:
        assert min(rows, columns) >= CELL


def test_number_of_levels():
    """L = 12/20 · 250 = 150 shrinks by 0.709 while it is at least 12: 150 · 0.709^k ≥ 12 up to k = 7."""
    assert len(pyramid(250, 400, min_size=20, factor=0.709)) == 8
    assert len(pyramid(20, 20, min_size=20, factor=0.709)) == 1
    assert pyramid(19, 500, min_size=20, factor=0.709) == []


def test_a_photo_too_small_has_no_canvas():
    plan = layout(11, 500, 12, 0.709)
    assert (plan.levels, plan.tiles, plan.masks, plan.owners) == ((), (), (), ())


def test_the_pyramid_of_an_lfw_photo_takes_two_canvases():
    """One for each of two cores, with little more area than the pyramid's own pixels."""
    plan = layout(250, 250, 20, 0.709)
    assert len(plan.masks) == 2
    pixels = sum(level.height * level.width for level in plan.levels)
    assert pixels / sum(mask.size for mask in plan.masks) >= 0.84


def test_canvases_are_used_well():
    """Packing that wastes most of the canvases would be correct, but slow."""
    plan = layout(1500, 2000, 20, 0.709)
    pixels = sum(level.height * level.width for level in plan.levels)
    assert pixels / sum(mask.size for mask in plan.masks) >= 0.75


def test_masks_touch_nothing_but_the_pooling_windows_of_odd_ends():
    """Zero over every pixel that P-Net's first convolution computes from inside a tile."""
    for size in SIZES:
        plan = layout(*size, 20, 0.709)
        for tile in plan.tiles:
            inside = plan.masks[tile.canvas][tile.y : tile.y + tile.height - 2, tile.x : tile.x + tile.width - 2]
            assert not inside.any()
        for mask in plan.masks:
            assert mask.dtype == np.uint8
            assert mask.max() <= 1


@pytest.mark.parametrize("size", [(60, 83), (300, 640)])
def test_mirrored_cells_are_those_of_the_same_level_and_row(size):
    plan = layout(*size, 20.0, 0.709)
    for level, (_, height, width) in enumerate(plan.levels):
        rows, columns = n_cells(height), n_cells(width)
        for row, column in {(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3)}:
            canvas, y, x = plan.mirrored(level, row, column)
            tile = plan.tiles[plan.owners[canvas][y, x]]
            assert tile.level == level
            assert (tile.top - tile.y) // 2 + y == row
            assert (tile.left - tile.x) // 2 + x == columns - 1 - column
    with pytest.raises(IndexError):
        plan.mirrored(0, n_cells(plan.levels[0].height), 0)
