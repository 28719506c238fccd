"""Computes distances between pairs of embeddings in blocks, so that a million pairs need little memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Distance = Literal["euclidean", "angle"]
Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.integer[Any]]

_BLOCK = 1 << 17  # numbers per block: a megabyte of float64, which fits a core's cache


def pair_distances(
    embeddings: npt.NDArray[np.floating[Any]],
    first: Integers,
    second: Integers,
    *,
    distance: Distance = "euclidean",
    mean: npt.NDArray[np.floating[Any]] | None = None,
) -> Floats:
    """Return distances (P,) between the rows `first` (P,) and `second` (P,) of `embeddings` (N,D) minus `mean` (D,).

    `euclidean` is the squared Euclidean distance |x − y|²; `angle` is arccos(x·y / |x||y|) / π, from 0 to 1. Rows need
    not be of unit length. Errors are those of `PairDistances`.

    >>> embeddings = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    >>> pair_distances(embeddings, np.array([0, 0]), np.array([1, 2])).tolist()
    [5.0, 0.0]
    >>> pair_distances(embeddings, np.array([0, 0]), np.array([1, 2]), distance="angle").round(12).tolist()
    [0.5, 0.0]
    """
    return PairDistances(embeddings, first, second, distance=distance).at(mean)


class PairDistances:
    """The distances of fixed pairs, cheap to recompute when another mean is subtracted.

    For a pair of embeddings x and y, d² = |x − y|² is computed once, because it does not depend on the mean m. With
    a = x − m and b = y − m, a new mean needs only |a|² = |x|² − 2 x·m + |m|² for each row. The angle θ follows from
    sin²(θ/2) = (d² − (|a| − |b|)²) / 4|a||b|, which, unlike the arccosine, is exactly 0 for equal rows.

    `embeddings` (N,D) are float32 or float64; all arithmetic is float64. `detected` (N,) is false for photos without a
    detected face: their rows may contain anything, and their pairs have infinite distance. Rows in no pair may contain
    anything too. Raises `ValueError` for shapes and lengths that do not fit, for no pairs, for an index out of range,
    and for a row that is not finite or, for angles, has length zero.
    """

    def __init__(
        self,
        embeddings: npt.NDArray[np.floating[Any]],
        first: Integers,
        second: Integers,
        *,
        distance: Distance = "euclidean",
        detected: Booleans | None = None,
    ) -> None:
        self._embeddings = np.asarray(embeddings)
        if self._embeddings.ndim != 2 or self._embeddings.dtype.kind != "f":
            raise ValueError(
                f"embeddings must be floats of shape (N,D), got {self._embeddings.dtype} {self._embeddings.shape}"
            )
        if distance not in get_args(Distance):
            raise ValueError(f"distance must be {' or '.join(get_args(Distance))}, got {distance!r}")
        n_rows = len(self._embeddings)
        self._first, self._second = _indices(first, "first", n_rows), _indices(second, "second", n_rows)
        if len(self._first) != len(self._second):
            raise ValueError(
                f"first and second must have the same length, got {len(self._first)} and {len(self._second)}"
            )
        if not len(self._first):
            raise ValueError("there are no pairs to measure")
        self._detected = np.ones(n_rows, np.bool_) if detected is None else np.asarray(detected)
        if self._detected.shape != (n_rows,) or self._detected.dtype != np.bool_:
            raise ValueError(
                f"detected must be ({n_rows},) booleans, got {self._detected.dtype} {self._detected.shape}"
            )
        self._distance = distance
        self.found: Booleans = self._detected[self._first] & self._detected[self._second]
        used = np.zeros(n_rows, np.bool_)
        used[self._first] = used[self._second] = True
        self._rows = np.flatnonzero(used & self._detected)
        self._squared_lengths = self._per_row_squares()
        self._squared_distances = self._pair_squares()

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._first)

    def at(self, mean: npt.NDArray[np.floating[Any]] | None = None) -> Floats:
        """Return distances (P,) after subtracting `mean` (D,), infinite where no face was detected."""
        return next(self.at_each(None if mean is None else np.asarray(mean)[None]))

    def at_each(self, means: npt.NDArray[np.floating[Any]] | None) -> Iterator[Floats]:
        """Yield for each of `means` (F,D) the distances (P,) after subtracting it.

        If `means` is None, the distances are yielded once, without subtracting a mean.
        """
        width = self._embeddings.shape[1]
        moved: Floats | None = None if means is None else np.asarray(means, np.float64)
        if moved is not None and (moved.ndim != 2 or moved.shape[1] != width or not np.isfinite(moved).all()):
            raise ValueError(f"a mean to subtract must be {width} finite numbers, got shape {moved.shape[1:]}")
        if self._distance == "euclidean":  # subtracting a mean does not change differences
            for _ in range(1 if moved is None else len(moved)):
                yield self._squared_distances.copy()
            return
        if moved is None:
            yield self._angles(self._squared_lengths)
            return
        for products, square in zip(self._products(moved), np.square(moved).sum(axis=1), strict=True):
            yield self._angles(self._squared_lengths - 2 * products + square)

    def means(self, chosen: Booleans) -> Floats:
        """Return, for each row of `chosen` (F,P), the mean (D,) of its pairs' embeddings, as (F,D).

        A photo counts once for each of these pairs that it is in; photos without a detected face do not count. Raises
        `ValueError` if a row has no photo that counts.
        """
        n_rows = len(self._embeddings)
        counts = np.empty((len(chosen), len(self._rows)))
        for count, pairs in zip(counts, chosen, strict=True):
            times = np.bincount(self._first[pairs], minlength=n_rows)
            times += np.bincount(self._second[pairs], minlength=n_rows)
            count[:] = times[self._rows]
        totals = counts.sum(axis=1, keepdims=True)
        if not totals.all():
            raise ValueError("there are no embeddings to average: no face was detected in any photo of these pairs")
        sums = np.zeros((len(chosen), self._embeddings.shape[1]))
        for part, block in self._blocks():
            sums += counts[:, part] @ block
        means: Floats = sums / totals
        return means

    def _blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Yield the rows that pairs use, a float64 block at a time, with their slice of `_rows`."""
        step = max(1, _BLOCK // max(1, self._embeddings.shape[1]))
        for start in range(0, len(self._rows), step):
            part = slice(start, min(start + step, len(self._rows)))
            yield part, self._embeddings[self._rows[part]].astype(np.float64)

    def _per_row_squares(self) -> Floats:
        """Return |x|² of the rows that pairs use; it is finite only if the whole row is."""
        squares = np.empty(len(self._rows))
        for part, block in self._blocks():
            with np.errstate(over="ignore", invalid="ignore"):
                np.einsum("ij,ij->i", block, block, out=squares[part])
        broken = np.flatnonzero(~np.isfinite(squares))
        if len(broken):
            raise ValueError(
                f"embedding {self._rows[broken[0]]} contains NaN, infinity or a number too large to square"
            )
        return squares

    def _pair_squares(self) -> Floats:
        """Return |x − y|² of every pair, infinite where no face was detected."""
        squares = np.full(len(self), np.inf)
        pairs = np.flatnonzero(self.found)
        width = self._embeddings.shape[1]
        step = max(1, _BLOCK // max(1, width))
        x, y = np.empty((2, step, width), self._embeddings.dtype)
        difference = np.empty((step, width))
        for start in range(0, len(pairs), step):
            part = pairs[start : start + step]
            n = len(part)
            # Indices were checked; "clip" only avoids a copy in NumPy.
            np.take(self._embeddings, self._first[part], axis=0, out=x[:n], mode="clip")
            np.take(self._embeddings, self._second[part], axis=0, out=y[:n], mode="clip")
            np.subtract(x[:n], y[:n], out=difference[:n], dtype=np.float64)
            squares[part] = np.einsum("ij,ij->i", difference[:n], difference[:n])
        return squares

    def _products(self, means: Floats) -> Floats:
        """Return m·x of every mean (F,D) with every row that pairs use (R), as (F,R)."""
        products = np.empty((len(means), len(self._rows)))
        for part, block in self._blocks():
            products[:, part] = means @ block.T
        return products

    def _angles(self, squared_lengths: Floats) -> Floats:
        """Return θ/π of every pair from |a|² of the rows that pairs use."""
        # If the mean equals the row, the square is a rounding error of |x|² instead of a length.
        zero = np.flatnonzero(squared_lengths <= 1e-14 * self._squared_lengths)
        if len(zero):
            raise ValueError(f"embedding {self._rows[zero[0]]} is zero, or equals the mean, so it has no direction")
        lengths = np.empty(len(self._embeddings))
        lengths[self._rows] = np.sqrt(squared_lengths)
        pairs: Any = slice(None) if self.found.all() else self.found
        a, b = lengths[self._first[pairs]], lengths[self._second[pairs]]
        half = self._squared_distances[pairs] - np.square(a - b)
        half /= 4 * a * b
        np.clip(half, 0, 1, out=half)  # rounding may leave the range [0, 1]
        angles = np.full(len(self), np.inf)
        angles[pairs] = np.arcsin(np.sqrt(half)) * (2 / np.pi)
        return angles


def _indices(values: Integers, name: str, n_rows: int) -> npt.NDArray[np.intp]:
    """Return the row numbers (P,) in the type that NumPy indexes fastest."""
    indices = np.asarray(values)
    if indices.ndim != 1 or (indices.dtype.kind not in "iu" and indices.size):
        raise ValueError(f"{name} must be (P,) row numbers, got {indices.dtype} {indices.shape}")
    outside = np.flatnonzero((indices < 0) | (indices >= n_rows))
    if len(outside):
        raise ValueError(
            f"{name} names row {indices[outside[0]]} in pair {outside[0]}; there are embeddings 0 to {n_rows - 1}"
        )
    return indices.astype(np.intp)
