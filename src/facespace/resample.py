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

_BLOCK = 64  # outputs per block: large enough for BLAS, small enough to stay near the band


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


def _dense(n: int, m: int, shrink: bool, outputs: slice) -> tuple[slice, npt.NDArray[np.float32]]:
    first, weights = _taps(n, m, shrink)
    first, weights = first[outputs], weights[outputs]
    low = int(first[0])
    high = min(int(first[-1]) + weights.shape[1], n)
    matrix = np.zeros((len(first), high - low), np.float32)
    rows = np.arange(len(first))
    for k in range(weights.shape[1]):
        columns = first - low + k
        inside = columns < high - low
        matrix[rows[inside], columns[inside]] = weights[inside, k]
    return slice(low, high), matrix


@functools.lru_cache(maxsize=256)
def _blocks(n: int, m: int, shrink: bool) -> tuple[_Block, ...]:
    blocks = []
    for start in range(0, m, _BLOCK):
        outputs = slice(start, min(start + _BLOCK, m))
        inputs, weights = _dense(n, m, shrink, outputs)
        blocks.append(_Block(outputs, inputs, weights))
    return tuple(blocks)


@functools.lru_cache(maxsize=4096)
def area_matrix(n: int, m: int, shrink: bool) -> npt.NDArray[np.float32]:
    """The (m, n) matrix that resizes n samples to m.

    `shrink` says that neither side of the image grows; the two kinds of weights differ even where a side
    keeps its length beside one that grows.

    >>> area_matrix(3, 2, True).round(3).tolist()
    [[0.6669999957084656, 0.3330000042915344, 0.0], [0.0, 0.3330000042915344, 0.6669999957084656]]
    """
    inputs, weights = _dense(n, m, shrink, slice(0, m))
    matrix = np.zeros((m, n), np.float32)
    matrix[:, inputs] = weights
    return matrix


def area_resize(planes: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[np.uint8]:
    """`planes` (C,H,W), values 0 to 255, resized to (C, height, width) and rounded to whole levels.

    >>> area_resize(np.array([[[0, 10], [20, 30]]], np.uint8), 1, 1).tolist()
    [[[15]]]
    """
    channels, n_rows, n_columns = planes.shape
    shrink = height <= n_rows and width <= n_columns
    result = np.empty((channels, height, width), np.uint8)
    for rows in _blocks(n_rows, height, shrink):
        source = planes[:, rows.inputs].astype(np.float32, copy=False)
        stripe = np.matmul(rows.weights, source)
        for columns in _blocks(n_columns, width, shrink):
            values = np.matmul(stripe[:, :, columns.inputs], columns.weights.T)
            np.rint(values, out=values)
            result[:, rows.outputs, columns.outputs] = np.clip(values, 0, 255, out=values)
    return result
