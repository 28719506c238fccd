"""Resizing by exact area averaging, as two small matrix products.

An output pixel is the mean of the input rectangle it covers, cut pixels counted by the part covered. The mean
over a rectangle separates into rows and columns, so `out = R · image · Cᵀ` with sparse, banded R and C; they
are applied in blocks, dense inside the band.

Where either side grows, "area" means a bilinear variant whose weights follow the pixel grid (what OpenCV's
`INTER_AREA` does then, on which the 2018 detector was built).
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# Inputs per block: enough work for one product, little of it outside the band. Columns come second, when fewer
# rows are left.
_ROW_SPAN = 64
_COLUMN_SPAN = 128


class _Block(NamedTuple):
    outputs: slice
    start: int  # inputs start … stop − 1
    stop: int
    weights: npt.NDArray[np.float32]  # (outputs, inputs)
    transposed: npt.NDArray[np.float32]  # (inputs, outputs)


def _taps(n: int, m: int, shrink: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """First input and weights (m, k) of every output when n samples become m."""
    scale = n / m
    index = np.arange(m)
    if shrink:
        start, stop = index * scale, np.minimum((index + 1) * scale, n)
        first = np.floor(start + 1e-9).astype(np.int64)
        taps = first[:, None] + np.arange(int(np.ceil(scale)) + 1)
        covered = np.minimum(stop[:, None], taps + 1) - np.maximum(start[:, None], taps)
        weights = np.maximum(covered, 0.0) * (taps < n)
        return first, weights / weights.sum(axis=1, keepdims=True)
    # In whole numbers: where index·n/m is one, floating point may fall a hair short of it, and a pixel back.
    first = np.minimum(index * n // m, n - 1)
    fraction = ((index + 1) * n - (first + 1) * m) / n
    fraction = np.where(fraction <= 0, 0.0, fraction - np.floor(fraction))
    fraction = np.where(first + 1 < n, fraction, 0.0)
    return first, np.stack([1 - fraction, fraction], axis=1)


def _block(n: int, outputs: slice, first: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> _Block:
    """The inputs a run of outputs needs, and the matrix from those to these."""
    low = int(first[0])
    high = min(int(first[-1]) + weights.shape[1], n)
    matrix = np.zeros((len(first), high - low), np.float32)
    rows = np.arange(len(first))
    for k in range(weights.shape[1]):
        columns = first - low + k
        inside = columns < high - low
        matrix[rows[inside], columns[inside]] = weights[inside, k]
    return _Block(outputs, low, high, matrix, np.ascontiguousarray(matrix.T))


@functools.lru_cache(maxsize=4096)
def _blocks(n: int, m: int, shrink: bool, span: int) -> tuple[_Block, ...]:
    """The (m, n) matrix that resizes n samples to m, cut into dense pieces along its band.

    `shrink` says that neither side of the image grows; the two kinds of weights differ even where a side
    keeps its length beside one that grows.
    """
    first, taps = _taps(n, m, shrink)
    pieces = max(1, min(m // 2, round(n / span)))
    cuts = [m * k // pieces for k in range(pieces + 1)]
    return tuple(_block(n, slice(a, b), first[a:b], taps[a:b]) for a, b in itertools.pairwise(cuts))


def area_resize(planes: npt.NDArray[Any], out: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An image (C,H,W), values 0 to 255, resized into `out` (C,h,w) and, where that is uint8, rounded.

    >>> area_resize(np.array([[[0, 10], [20, 30]]], np.uint8), np.empty((1, 1, 1), np.float32)).tolist()
    [[[15.0]]]
    """
    _, height, width = planes.shape
    return area_crop(planes, (0, 0, height, width), out)


def area_crop(planes: npt.NDArray[Any], box: tuple[int, int, int, int], out: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`area_resize` of the box (top, left, height, width) of an image, which is black beyond its borders.

    What lies beyond adds nothing, so the products leave it out. They take the image as it lies in memory: many
    boxes are small, and copying one would take as long as resizing it.
    """
    _, n_rows, n_columns = planes.shape
    top, left, height, width = box
    shrink = out.shape[1] <= height and out.shape[2] <= width
    row_blocks = _blocks(height, out.shape[1], shrink, _ROW_SPAN)
    column_blocks = _blocks(width, out.shape[2], shrink, _COLUMN_SPAN)
    within = top >= 0 and left >= 0 and top + height <= n_rows and left + width <= n_columns
    if within and len(row_blocks) == len(column_blocks) == 1 and planes.dtype == out.dtype == np.float32:
        # Most boxes; what follows would do the same in twice the time.
        source = planes[:, top : top + row_blocks[0].stop, left : left + column_blocks[0].stop]
        return np.matmul(row_blocks[0].weights @ source, column_blocks[0].transposed, out=out)
    x1 = max(left, 0)
    x2 = max(min(left + width, n_columns), x1)
    columns = [(block, *_inside(block, left - x1, x2 - x1)) for block in column_blocks]
    for rows in row_blocks:
        inputs, weights = _inside(rows, top, n_rows)
        source = planes[:, inputs, x1:x2].astype(np.float32, copy=False)
        stripe = rows.weights[:, weights] @ source
        target = out[:, rows.outputs]
        values = target if out.dtype == np.float32 else np.empty(target.shape, np.float32)
        for block, inputs, weights in columns:
            np.matmul(stripe[:, :, inputs], block.transposed[weights], out=values[:, :, block.outputs])
        if values is not target:
            np.rint(values, out=values)
            target[...] = values
    return out


def _inside(block: _Block, offset: int, length: int) -> tuple[slice, slice]:
    """Those of a block's inputs, counted from `offset`, that lie in [0, length), and where their weights are."""
    start = max(block.start, -offset)
    stop = max(min(block.stop, length - offset), start)
    return slice(offset + start, offset + stop), slice(start - block.start, stop - block.start)
