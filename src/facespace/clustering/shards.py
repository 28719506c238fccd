"""Shards of faces on disk, each with whole buckets, and the similar pairs between two shards.

`pairs_of_shards` reads two files and writes one, so any process that sees the folder can compute it, in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facespace.clustering.buckets import Embeddings, Numbers
from facespace.errors import DatasetError
from facespace.io.tensor_file import Arrays, damaged, read_tensor_file, write_tensor_file

_KIND, _PAIRS = "cluster shard", "list of pairs"
_REMEDY = "remove the folder it is in, and start the same command again"
_TILE = 1 << 20  # similarities computed at a time, so that they fit in a core's cache
_ROWS = 1024
_COLUMNS = 8192
_MOST = 256  # pairs of a face within one bucket; there are fewer unless a person has very many photos


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """Represents all n faces that belong to the buckets `first_bucket` to `end_bucket` − 1 (see `clustering.buckets`).

    All faces are numbered in the order of their buckets. A shard's faces have the numbers from `begin` on. `vectors`
    are (n,D), `photos` and `handicaps` (n,). A row of `buckets` (n,V) lists the bucket that the face belongs to, then
    the buckets that it visits.
    """

    begin: int
    first_bucket: int
    end_bucket: int
    vectors: Embeddings
    buckets: Numbers
    photos: npt.NDArray[np.int64]
    handicaps: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Represents E pairs of faces.

    `first` and `second` (E,) are the two faces, numbered as in `Shard`; `similarity` (E,) is that of the two.
    """

    first: npt.NDArray[np.int32]
    second: npt.NDArray[np.int32]
    similarity: npt.NDArray[np.float32]


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a shard."""
    return folder / f"shard-{number:05}"


def pairs_path(folder: Path, own: int, other: int) -> Path:
    """Return the path of the file with the similar pairs of shards `own` and `other`.

    The second face of a pair, which is in `other`, belongs to the bucket of the face in `own` or visits it.
    """
    return folder / f"pairs-{own:05}-{other:05}"


def shard_bounds(own_buckets: npt.NDArray[np.int64], n_rows: int) -> list[tuple[int, int]]:
    """Return the buckets of each shard as (first, end); `own_buckets` (K,) are the numbers of faces in the buckets.

    Every shard except the last has at least `n_rows` faces.

    >>> shard_bounds(np.array([3, 3, 9, 0, 1]), 5)
    [(0, 2), (2, 3), (3, 5)]
    """
    bounds, begin, held = [], 0, 0
    for bucket, count in enumerate(own_buckets.tolist()):
        held += count
        if held >= n_rows or bucket == len(own_buckets) - 1:
            bounds.append((begin, bucket + 1))
            begin, held = bucket + 1, 0
    return bounds


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard atomically."""
    arrays = {name: getattr(shard, name) for name in ("vectors", "buckets", "photos", "handicaps")}
    record = {name: getattr(shard, name) for name in ("begin", "first_bucket", "end_bucket")}
    write_tensor_file(path, _KIND, arrays, record)


def read_shard(path: Path) -> Shard:
    """Read what `write_shard` wrote. Raises `DatasetError` if it is damaged."""
    arrays, record = read_tensor_file(path, _KIND, DatasetError, remedy=_REMEDY)
    try:
        shard = Shard(record["begin"], record["first_bucket"], record["end_bucket"], **arrays)
        _check_lengths(arrays)
    except (KeyError, TypeError, ValueError) as wrong:
        raise damaged(path, _KIND, DatasetError, wrong, remedy=_REMEDY) from None
    return shard


def read_pairs(path: Path) -> Pairs:
    """Read what `pairs_of_shards` wrote. Raises `DatasetError` if it is damaged."""
    arrays = read_tensor_file(path, _PAIRS, DatasetError, remedy=_REMEDY)[0]
    try:
        pairs = Pairs(**arrays)
        _check_lengths(arrays)
    except (TypeError, ValueError) as wrong:
        raise damaged(path, _PAIRS, DatasetError, wrong, remedy=_REMEDY) from None
    return pairs


def _check_lengths(arrays: Arrays) -> None:
    """Raise `ValueError` unless all arrays have the same number of rows."""
    if len({len(array) for array in arrays.values()}) > 1:
        raise ValueError("its arrays have different lengths")


def pairs_of_shards(folder: Path, own: int, other: int, threshold: float) -> None:
    """Write the similar pairs between shard `own` and shard `other`.

    The face of `other` must belong to the bucket of the face of `own`, or visit that bucket. The cosine, less both
    handicaps, must be at least `threshold`, and the faces must be from different photos. The calls for all shards
    together write each pair once. In one bucket, a face of `other` keeps only its most similar pairs, about 256. An
    existing file is not changed.
    """
    target = pairs_path(folder, own, other)
    if target.exists():
        return
    here = read_shard(shard_path(folder, own))
    there = here if own == other else read_shard(shard_path(folder, other))
    found = _Found(here, there, threshold)
    visitors, columns = np.nonzero((there.buckets >= here.first_bucket) & (there.buckets < here.end_bucket))
    visited = there.buckets[visitors, columns]
    order = np.argsort(visited, kind="stable")
    visitors, visited = visitors[order], visited[order]
    numbers = np.arange(here.first_bucket, here.end_bucket + 1)
    of_visitors = np.searchsorted(visited, numbers)
    of_own = np.searchsorted(here.buckets[:, 0], numbers)
    for k, bucket in enumerate(range(here.first_bucket, here.end_bucket)):
        found.in_bucket(
            bucket, slice(int(of_own[k]), int(of_own[k + 1])), visitors[of_visitors[k] : of_visitors[k + 1]]
        )
    pairs = found.pairs()
    write_tensor_file(
        target, _PAIRS, {"first": pairs.first, "second": pairs.second, "similarity": pairs.similarity}, {}
    )


@dataclass(slots=True, eq=False)
class _Found:
    """Collects the similar pairs of two shards, bucket by bucket: one face is in shard `here`, the other in `there`."""

    here: Shard
    there: Shard
    threshold: float
    _parts: list[Pairs] = field(default_factory=list)
    _tile: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def in_bucket(self, bucket: int, own: slice, visitors: npt.NDArray[np.int64]) -> None:
        """Collect the similar pairs between the faces `own` and the faces `visitors` of one bucket.

        `own` are the rows of `here` that belong to the bucket. `visitors` are the rows of `there` that belong to the
        bucket or visit it.
        """
        if own.start == own.stop:
            return
        n_tiles = math.ceil((own.stop - own.start) / _COLUMNS)
        for begin in range(own.start, own.stop, _COLUMNS):
            columns = slice(begin, min(begin + _COLUMNS, own.stop))
            n_rows = min(_ROWS, max(64, _TILE // (columns.stop - columns.start)))
            for start in range(0, len(visitors), n_rows):
                self._in_tile(bucket, columns, visitors[start : start + n_rows], max(2, _MOST // n_tiles))

    def _in_tile(self, bucket: int, columns: slice, rows: npt.NDArray[np.int64], most: int) -> None:
        width = columns.stop - columns.start
        if len(self._tile) < len(rows) * width:  # allocate only once: clearing new pages takes as long as the product
            self._tile = np.empty(max(_TILE, len(rows) * width), np.float32)
        tile = self._tile[: len(rows) * width].reshape(len(rows), width)
        np.matmul(self.there.vectors[rows], self.here.vectors[columns].T, out=tile)
        # A lower bound of what a pair must reach. The exact handicaps are subtracted only for the few pairs that reach it.
        least = self.threshold + float(self.there.handicaps.min() + self.here.handicaps[columns].min())
        flat = np.flatnonzero(tile >= np.float32(least - 1e-6))
        if not len(flat):
            return
        row, column = np.divmod(flat, width)
        visitor, face = rows[row], column + columns.start
        similarity = tile.reshape(-1)[flat] - self.there.handicaps[visitor] - self.here.handicaps[face]
        own_bucket = self.there.buckets[visitor, 0]
        # Two faces that belong to this bucket are compared twice, each as the other's visitor. Two faces that visit
        # each other's buckets are compared in both buckets. Only one of the two results is kept.
        mutual = (self.here.buckets[face] == own_bucket[:, None]).any(axis=1)
        once = np.where(own_bucket == bucket, visitor < face, ~mutual | (own_bucket > bucket))
        kept = once & (similarity >= self.threshold) & (self.there.photos[visitor] != self.here.photos[face])
        visitor, face, similarity = visitor[kept], face[kept], similarity[kept]
        chosen = _most_similar(visitor, similarity, most)
        self._parts.append(
            Pairs(
                (face[chosen] + self.here.begin).astype(np.int32),
                (visitor[chosen] + self.there.begin).astype(np.int32),
                similarity[chosen],
            )
        )

    def pairs(self) -> Pairs:
        """Return all collected pairs."""
        empty = np.empty(0, np.int32)
        return Pairs(
            np.concatenate([empty, *(part.first for part in self._parts)]),
            np.concatenate([empty, *(part.second for part in self._parts)]),
            np.concatenate([np.empty(0, np.float32), *(part.similarity for part in self._parts)]),
        )


def _most_similar(
    rows: npt.NDArray[np.int64], similarity: npt.NDArray[np.float32], most: int
) -> npt.NDArray[np.intp] | slice:
    """Return which pairs to keep: up to `most` pairs for each face, the most similar ones; a slice means all pairs.

    `rows` lists one face of each pair and must be sorted.
    """
    if len(rows) <= most:
        return slice(None)
    begins = np.flatnonzero(np.diff(rows, prepend=-1))
    counts = np.diff(begins, append=len(rows))
    if counts.max() <= most:
        return slice(None)
    order = np.lexsort((-similarity, rows))
    rank = np.arange(len(rows)) - np.repeat(begins, counts)
    return np.sort(order[rank < most])
