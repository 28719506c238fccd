"""Resizing by exact area averaging, as two small matrix products.

An output pixel is the mean of the input rectangle that it covers; pixels at the border are weighted by the covered part.
The mean over a rectangle separates into rows and columns, so `out = R · image · Cᵀ` with sparse, banded R and C. Both are
split into blocks that are dense inside the band. Equally spaced blocks are computed as one stacked product of windows on
the image.

If either side grows, "area" means a bilinear variant whose weights follow the pixel grid. This is what OpenCV's
`INTER_AREA` does, which the 2018 detector uses.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# Inputs per block: enough that a product is worth its call, with few zeros outside the band. A block of columns has at
# least the width of a processor's vectors.
_ROW_SPAN = 24
_COLUMN_SPAN = 48
# Inputs of one stacked product, unless one block has more. Its blocks are a whole number of inputs apart, and the rounding
# adds up over a run. It also bounds how much of an image is copied at a time.
_RUN = 256
_BETWEEN = 1 << 19  # numbers kept between the two products, so that they stay in the cache, unless one run has more


class _Run(NamedTuple):
    """Represents equally spaced blocks of a banded matrix.

    Block k computes `size` outputs, the first of them number output + k·size, from `span` inputs, the first of them
    number start + k·stride.
    """

    output: int
    end: int  # output + count · size
    start: int
    stride: int
    weights: npt.NDArray[np.float32]  # (count, size, span)
    transposed: npt.NDArray[np.float32]  # (count, span, size)


def _taps(n: int, m: int, shrink: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return each output's first input (m,) and the weights (m, k) of the k inputs from there, to resize n to m."""
    scale = n / m
    index = np.arange(m)
    if shrink:
        start, stop = index * scale, np.minimum((index + 1) * scale, n)
        first = np.floor(start + 1e-9).astype(np.int64)
        taps = first[:, None] + np.arange(int(np.ceil(scale)) + 1)
        covered = np.minimum(stop[:, None], taps + 1) - np.maximum(start[:, None], taps)
        weights = np.maximum(covered, 0.0) * (taps < n)
        return first, weights / weights.sum(axis=1, keepdims=True)
    # In integers: if index·n/m is a whole number, floating point may give slightly less, and so the pixel before.
    first = np.minimum(index * n // m, n - 1)
    fraction = ((index + 1) * n - (first + 1) * m) / n
    fraction = np.where(fraction <= 0, 0.0, fraction - np.floor(fraction))
    fraction = np.where(first + 1 < n, fraction, 0.0)
    return first, np.stack([1 - fraction, fraction], axis=1)


@functools.lru_cache(maxsize=4096)
def _runs(n: int, m: int, shrink: bool, span: int) -> tuple[_Run, ...]:
    """Return the (m, n) matrix that resizes n samples to m, split into blocks of about `span` inputs along its band.

    `shrink` means that neither side of the image grows; the weights are then those of area averaging, else those of the
    bilinear variant. The two differ even for a side that keeps its length.
    """
    first, taps = _taps(n, m, shrink)
    size = -(-m // max(1, round(n / span)))
    # Blocks of equal size can form one run, so a divisor of m is preferred.
    size = next((divisor for divisor in range(size, size * 3 // 2 + 1) if m % divisor == 0), size)
    runs: list[_Run] = []
    output = 0
    while output < m:
        runs.append(_run(output, min(size, m - output), n, first[output:], taps[output:]))
        output = runs[-1].end
    return tuple(runs)


def _run(output: int, size: int, n: int, first: npt.NDArray[np.int64], taps: npt.NDArray[np.float64]) -> _Run:
    """Return a run from output number `output` on, as long as possible; `first` and `taps` start at that output."""
    start = int(first[0])
    last = first + (taps.shape[1] - 1 - (taps[:, ::-1] > 0).argmax(axis=1))
    count = min(len(first) // size, max(1, np.searchsorted(last, start + _RUN) // size))
    while True:
        block = np.arange(count)
        begins, ends = first[: count * size : size] - start, last[size - 1 : count * size : size] + 1 - start
        stride = int((begins[1:] // block[1:]).min(initial=n))
        span = int((ends - stride * block).max())
        if start + stride * (count - 1) + span <= n:
            break
        count -= 1  # the last window would exceed the image
    block, row = np.divmod(np.arange(count * size), size)
    weights = np.zeros((count, size, span), np.float32)
    for k in range(taps.shape[1]):
        used = np.flatnonzero(taps[: count * size, k])
        weights[block[used], row[used], first[used] + k - start - block[used] * stride] = taps[used, k]
    transposed = np.ascontiguousarray(weights.swapaxes(1, 2))
    return _Run(output, output + count * size, start, stride, weights, transposed)


def area_resize(planes: npt.NDArray[Any], out: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Resize an image (C,H,W) with values 0 to 255 into `out` (C,h,w); the result is rounded if `out` is uint8.

    K images of one size (K,C,H,W) are resized into (K,C,h,w), with bit for bit the same result as one at a time.

    >>> area_resize(np.array([[[0, 10], [20, 30]]], np.uint8), np.empty((1, 1, 1), np.float32)).tolist()
    [[[15.0]]]
    """
    *_, depth, height, width = planes.shape
    box = (0, 0, height, width)
    if planes.ndim == 3:
        return area_crop(planes, box, out)
    at_once = max(1, _BETWEEN // (depth * out.shape[2] * width))
    for start in range(0, len(planes), at_once):
        _resize(planes[start : start + at_once], box, out[start : start + at_once])
    return out


def area_crop(planes: npt.NDArray[Any], box: tuple[int, int, int, int], out: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Resize a box (top, left, height, width) of an image into `out`, like `area_resize`.

    The image counts as black beyond its borders. A float32 image is read in place, without copying the box first,
    because copying a small box would take as long as resizing it.
    """
    depth, n_rows, n_columns = planes.shape
    top, left, height, width = box
    _, m, n = out.shape
    runs = _one_run_each(height, width, m, n)
    if runs is None or out.dtype != np.float32 or not out.flags.c_contiguous or depth * height * width > _BETWEEN:
        _resize(planes[None], box, out[None])
        return out
    inside = top >= 0 and left >= 0 and top + height <= n_rows and left + width <= n_columns
    if not inside or planes.dtype != np.float32 or not planes.flags.c_contiguous:
        planes, top, left = _cut(planes[None], box)[0], 0, 0
    # Most boxes take this short cut; `_resize` would give the same result, but more slowly.
    rows, columns = runs
    between = rows.weights @ _row_windows(rows, planes[None], top, left, width)
    _columns_into(out.reshape(1, depth * m, n), columns, between.reshape(1, depth * m, width))
    return out


@functools.lru_cache(maxsize=4096)
def _one_run_each(height: int, width: int, m: int, n: int) -> tuple[_Run, _Run] | None:
    """Return the runs of rows and of columns that resize height × width to m × n; None if either needs several runs."""
    shrink = m <= height and n <= width
    rows, columns = _runs(height, m, shrink, _ROW_SPAN), _runs(width, n, shrink, _COLUMN_SPAN)
    return (rows[0], columns[0]) if len(rows) == len(columns) == 1 else None


def _resize(images: npt.NDArray[Any], box: tuple[int, int, int, int], out: npt.NDArray[Any]) -> None:
    """Resize the box of each of K images (K,C,H,W) into `out` (K,C,h,w)."""
    n_images, depth, n_rows, n_columns = images.shape
    top, left, height, width = box
    m, n = out.shape[2:]
    shrink = m <= height and n <= width
    rows = _runs(height, m, shrink, _ROW_SPAN)
    columns = _runs(width, n, shrink, _COLUMN_SPAN)
    inside = top >= 0 and left >= 0 and top + height <= n_rows and left + width <= n_columns
    in_place = inside and images.dtype == np.float32 and images.flags.c_contiguous
    if not in_place and depth * height * width <= _BETWEEN:
        images, top, left, in_place = _cut(images, box), 0, 0, True
    for stripe in _stripes(rows, _BETWEEN // (depth * width)):
        y, y_end = stripe[0].output, stripe[-1].end
        between = np.empty((n_images, depth, y_end - y, width), np.float32)
        for run in stripe:
            count, size, span = run.weights.shape
            if in_place:
                windows = _row_windows(run, images, top, left, width)
            else:
                source = _cut(images, (top + run.start, left, run.stride * (count - 1) + span, width))
                windows = _row_windows(run, source, -run.start, 0, width)
            part = between[:, :, run.output - y : run.end - y].reshape(n_images, depth, count, size, width)
            np.matmul(run.weights, windows, out=part)
        n_lines = depth * (y_end - y)
        lines = between.reshape(n_images, n_lines, width)
        target = np.empty((n_images, n_lines, n), np.float32)
        for run in columns:
            _columns_into(target[:, :, run.output : run.end], run, lines)
        if out.dtype != np.float32:
            np.rint(target, out=target)
        out[:, :, y:y_end] = target.reshape(n_images, depth, y_end - y, n)


def _row_windows(
    run: _Run, images: npt.NDArray[np.float32], top: int, left: int, width: int
) -> npt.NDArray[np.float32]:
    """Return the input rows of each block of a run as a view (K,C,count,span,width), whose bounds NumPy checks.

    `top`, `left` and `width` give the box of the images that is resized.
    """
    top += run.start
    count, _, span = run.weights.shape
    if count == 1:
        return images[:, :, None, top : top + span, left : left + width]
    image, plane, line, _ = images.strides
    shape, strides = (*images.shape[:2], count, span, width), (image, plane, line * run.stride, line, 4)
    windows: npt.NDArray[np.float32] = np.ndarray(shape, np.float32, images, line * top + 4 * left, strides)
    return windows


def _columns_into(out: npt.NDArray[np.float32], run: _Run, lines: npt.NDArray[np.float32]) -> None:
    """Compute a run's output columns from `lines` (K, L, width), and write them to `out` (K, L, count · size)."""
    count, span, size = run.transposed.shape
    if count == 1:
        np.matmul(lines[:, :, run.start : run.start + span], run.transposed[0], out=out)
        return
    n_images, n_lines, width = lines.shape
    strides = (4 * n_lines * width, 4 * run.stride, 4 * width, 4)
    windows = np.ndarray((n_images, count, n_lines, span), np.float32, lines, 4 * run.start, strides)
    np.matmul(windows, run.transposed, out=out.reshape(n_images, n_lines, count, size).transpose(0, 2, 1, 3))


def _stripes(runs: tuple[_Run, ...], n_outputs: int) -> list[tuple[_Run, ...]]:
    """Group consecutive runs so that each group has at most `n_outputs` outputs, but at least one run."""
    if runs[-1].end <= n_outputs:
        return [runs]
    stripes: list[tuple[_Run, ...]] = []
    for run in runs:
        if stripes and run.end - stripes[-1][0].output <= n_outputs:
            stripes[-1] += (run,)
        else:
            stripes.append((run,))
    return stripes


def _cut(images: npt.NDArray[Any], box: tuple[int, int, int, int]) -> npt.NDArray[np.float32]:
    """Copy a box to float32; it may extend beyond the images."""
    n_images, depth, n_rows, n_columns = images.shape
    top, left, height, width = box
    cut = np.zeros((n_images, depth, height, width), np.float32)
    y1, y2 = max(top, 0), min(top + height, n_rows)
    x1, x2 = max(left, 0), min(left + width, n_columns)
    if y1 < y2 and x1 < x2:
        cut[:, :, y1 - top : y2 - top, x1 - left : x2 - left] = images[:, :, y1:y2, x1:x2]
    return cut
