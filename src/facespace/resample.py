"""Resizing by exact area averaging, as two small matrix products.

An output pixel is the mean of the input rectangle it covers, cut pixels counted by the part covered. The mean
over a rectangle separates into rows and columns, so `out = R · image · Cᵀ` with sparse, banded R and C; they
are applied in blocks, dense inside the band.

Where either side grows, "area" means a bilinear variant whose weights follow the pixel grid (what OpenCV's
`INTER_AREA` does then, on which the 2018 detector was built).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_SPAN = 48  # inputs per block: enough work for one product, little of it outside the band
_DENSE = 72  # samples up to which one dense product is quicker than several


class _Block(NamedTuple):
    outputs: slice
    inputs: slice
    weights: npt.NDArray[np.float32]  # (outputs, inputs)


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
    first = np.minimum(np.floor(index * scale).astype(np.int64), n - 1)
    fraction = (index + 1) - (first + 1) / scale
    fraction = np.where(fraction <= 0, 0.0, fraction - np.floor(fraction))
    fraction = np.where(first + 1 < n, fraction, 0.0)
    return first, np.stack([1 - fraction, fraction], axis=1)


def _dense(
    n: int, first: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]
) -> tuple[slice, npt.NDArray[np.float32]]:
    """The inputs a run of outputs needs, and the matrix from those to these."""
    low = int(first[0])
    high = min(int(first[-1]) + weights.shape[1], n)
    matrix = np.zeros((len(first), high - low), np.float32)
    rows = np.arange(len(first))
    for k in range(weights.shape[1]):
        columns = first - low + k
        inside = columns < high - low
        matrix[rows[inside], columns[inside]] = weights[inside, k]
    return slice(low, high), matrix


@functools.lru_cache(maxsize=4096)
def _blocks(n: int, m: int, shrink: bool) -> tuple[_Block, ...]:
    """The (m, n) matrix that resizes n samples to m, cut into dense pieces along its band.

    `shrink` says that neither side of the image grows; the two kinds of weights differ even where a side
    keeps its length beside one that grows.
    """
    first, taps = _taps(n, m, shrink)
    step = m if n <= _DENSE else max(2, min(m, round(_SPAN * m / n)))
    blocks = []
    for start in range(0, m, step):
        outputs = slice(start, min(start + step, m))
        blocks.append(_Block(outputs, *_dense(n, first[outputs], taps[outputs])))
    return tuple(blocks)


def area_resize(rows: npt.NDArray[Any], out: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An image (H,C,W), values 0 to 255, resized into `out` (h,C,w) and, where that is uint8, rounded.

    With the channels between the sides both products are plain matrix products over memory as it lies.

    >>> area_resize(np.array([[[0, 10]], [[20, 30]]], np.uint8), np.empty((1, 1, 1), np.float32)).tolist()
    [[[15.0]]]
    """
    n_rows, channels, n_columns = rows.shape
    height, _, width = out.shape
    shrink = height <= n_rows and width <= n_columns
    for block in _blocks(n_rows, height, shrink):
        source = rows[block.inputs].reshape(block.weights.shape[1], -1).astype(np.float32, copy=False)
        stripe = (block.weights @ source).reshape(-1, n_columns)
        pieces = _blocks(n_columns, width, shrink)
        if len(pieces) == 1:
            values = stripe[:, pieces[0].inputs] @ pieces[0].weights.T
        else:
            values = np.empty((len(stripe), width), np.float32)
            for columns in pieces:
                np.matmul(stripe[:, columns.inputs], columns.weights.T, out=values[:, columns.outputs])
        if out.dtype == np.uint8:
            np.rint(values, out=values)
        out[block.outputs] = values.reshape(-1, channels, width)
    return out
