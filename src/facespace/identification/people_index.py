"""Everyone of a gallery in memory, laid out so that the most similar people are found without comparing with all.

Rows stand in blocks of 4,096. Each has beside its vector a sketch of 64 bytes (see `sketches`). A search compares the
probe's sketch with every row's, takes the rows of the smallest distances as candidates, and compares only their vectors.
What it returns are the exact similarities of these, so a person can be missed but never be ranked wrongly. Up to one
block of rows is compared in full.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from facespace.identification.sketches import Sketcher, distances
from facespace.runtime.onnx_network import usable_cores

_BLOCK = 4096
# Rows compared with a probe in full, of a million: see `_n_candidates`.
_CANDIDATES_PER_MILLION = 2000
_FEWEST_CANDIDATES = 256
# Bytes of distances computed before candidates are chosen from them.
_SCANNED_BYTES = 32 << 20
# Candidates whose vectors are expanded to float32 at once.
_PIECE = 4096


class Rows(NamedTuple):
    """Vectors of people; the rows of a person who has several follow each other.

    `ids` (n,) are those of the people, `vectors` (n,D) of length 1 up to rounding, `n_photos` (n,) how many photos a
    vector is the mean of, and `qualities` (n,) the mean quality of these.
    """

    ids: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float16]
    n_photos: npt.NDArray[np.int32]
    qualities: npt.NDArray[np.float32]


class Nearest(NamedTuple):
    """The most similar people of N probes, best first, each (N,k).

    `n_photos` and `qualities` are those of the row that was the most similar. Where there are fewer than k people, the
    rest has the id -1, the similarity -inf, no photos and the quality 0.
    """

    people: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float32]
    n_photos: npt.NDArray[np.int32]
    qualities: npt.NDArray[np.float32]


class _Block(NamedTuple):
    """Up to 4,096 rows, never changed, and their sketches (8,n) where the index has any."""

    rows: Rows
    sketches: npt.NDArray[np.uint64] | None = None

    @property
    def n_rows(self) -> int:
        return len(self.rows.ids)


class PeopleIndex:
    """An immutable snapshot of a gallery. Threads may search it while `changed` makes the next one.

    >>> rows = Rows(np.array([3, 7]), np.eye(2, 4, dtype=np.float16), np.array([1, 2], np.int32), np.ones(2, np.float32))
    >>> index = PeopleIndex.build(4, [rows])
    >>> found = index.nearest(np.array([[0.6, 0.8, 0, 0]], np.float32), 3)
    >>> found.people.tolist(), found.n_photos.tolist()
    ([[7, 3, -1]], [[2, 1, 0]])
    >>> bea = Rows(np.array([8]), np.eye(1, 4, 2, dtype=np.float16), np.array([5], np.int32), np.ones(1, np.float32))
    >>> later = index.changed(np.array([7]), bea)
    >>> later.nearest(np.array([[0.6, 0.8, 0, 0]], np.float32), 3).people.tolist(), len(later), len(index)
    ([[3, 8, -1]], 2, 2)
    """

    def __init__(self, dimension: int, blocks: Sequence[_Block], n_people: int, sketcher: Sketcher | None) -> None:
        self.dimension = dimension
        self.n_rows = sum(block.n_rows for block in blocks)
        self._n_people = n_people
        # The mean that sketches are about is chosen once, when there are enough rows for one.
        if sketcher is None and self.n_rows > _BLOCK:
            sketcher = Sketcher(np.concatenate([block.rows.vectors for block in _first_rows(blocks)])[:_BLOCK])
        self._sketcher = sketcher
        self._blocks = tuple(blocks if sketcher is None else _with_sketches(blocks, sketcher))
        self._starts = np.cumsum([0, *(block.n_rows for block in blocks)])

    @classmethod
    def build(cls, dimension: int, batches: Iterable[Rows]) -> PeopleIndex:
        """The index of all rows of `batches`, which are copied: the memory of a batch is free when the next one comes.

        `ValueError` where the rows of a person do not follow each other, or vectors are not (n, `dimension`).
        """
        blocks: list[_Block] = []
        for rows in _pieces(batches):
            _check_vectors(rows, dimension)
            blocks.append(_Block(rows))
        ids = np.concatenate([block.rows.ids for block in blocks]) if blocks else np.empty(0, np.int64)
        n_people = len(np.unique(ids))
        if n_people != np.count_nonzero(np.diff(ids)) + bool(len(ids)):
            raise ValueError("the rows of a person must follow each other")
        return cls(dimension, blocks, n_people, None)

    def changed(self, gone: npt.NDArray[np.int64], rows: Rows) -> PeopleIndex:
        """An index without the people `gone` and with `rows`, which replace all rows of the people they are of.

        Ids in `gone` that are not here are skipped. The two indexes share the blocks in which nothing changed.
        """
        _check_vectors(rows, self.dimension)
        leaving = np.unique(np.concatenate([np.asarray(gone, np.int64), rows.ids]))
        left: list[_Block] = []
        found = []
        for block in self._blocks:
            rest, ids = _without(block, leaving)
            left.append(rest)
            found.append(ids)
        n_people = self._n_people - len(np.unique(np.concatenate(found))) if found else 0
        n_people += len(np.unique(rows.ids))

        # Blocks less than half full are joined, so that there never are twice as many as needed.
        loose = [block for block in left if block.n_rows < _BLOCK // 2]
        kept = [block for block in left if block.n_rows >= _BLOCK // 2]
        if len(rows.ids) and not loose and kept and kept[-1].n_rows < _BLOCK:
            loose = [kept.pop()]
        if len(rows.ids) or len(loose) > 1:
            loose = [_Block(piece) for piece in _pieces([*(block.rows for block in loose), rows])]
        return PeopleIndex(self.dimension, [*kept, *(b for b in loose if b.n_rows)], n_people, self._sketcher)

    def __len__(self) -> int:
        return self._n_people

    def nearest(self, probes: npt.NDArray[np.float32], k: int) -> Nearest:
        """The `k` people most similar to each of `probes` (N,D), of length 1, each with the best of their rows.

        The similarity is the cosine, computed in float32 from the rows' float16. Of equally similar people the one of the
        smaller id comes first.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        probes = np.ascontiguousarray(probes, np.float32)
        shape = (len(probes), k)
        found = Nearest(
            np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32),
            np.zeros(shape, np.int32), np.zeros(shape, np.float32),
        )  # fmt: skip
        if not found.people.size or not self.n_rows:
            return found
        sketched = self.n_rows > _BLOCK
        step = max(1, _SCANNED_BYTES // (self.n_rows if sketched else 4 * self.n_rows))
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="facespace-search") as pool:
            for start in range(0, len(probes), step):
                chunk = probes[start : start + step]
                far = self._estimated(chunk, pool.map) if sketched else -(chunk @ self._expanded.T)
                parts = [Nearest(*(values[start + n] for values in found)) for n in range(len(chunk))]
                # A small gallery is searched before a thread has started.
                list((pool.map if sketched else map)(self._rank, chunk, far, parts))
        return found

    @functools.cached_property
    def _expanded(self) -> npt.NDArray[np.float32]:
        """All vectors (R,D) of a small gallery."""
        return np.concatenate([block.rows.vectors for block in self._blocks]).astype(np.float32)

    def _estimated(self, probes: npt.NDArray[np.float32], run: Callable[..., Iterator[Any]]) -> npt.NDArray[np.uint8]:
        """The distances (N,R) of the sketches."""
        assert self._sketcher is not None
        sketched = self._sketcher.sketch(probes.astype(np.float16))
        found = np.empty((len(probes), self.n_rows), np.uint8)
        step = 8

        def scan(first: int) -> None:
            blocks = self._blocks[first : first + step]
            start, stop = self._starts[first], self._starts[first + len(blocks)]
            found[:, start:stop] = distances([b.sketches for b in blocks if b.sketches is not None], sketched)

        list(run(scan, range(0, len(self._blocks), step)))
        return found

    def _rank(self, probe: npt.NDArray[np.float32], far: npt.NDArray[Any], best: Nearest) -> None:
        """Fill `best`, each (k,), for one probe (D,) whose distances or negative similarities to all rows are `far`."""
        k = len(best.people)
        n = _n_candidates(self.n_rows, k)
        while True:
            rows = np.flatnonzero(far <= _cutoff(far, n)) if n < len(far) else np.arange(len(far))
            similarities, ids = self._compared(probe, rows)
            order = np.lexsort((ids, -similarities))
            people, first = np.unique(ids[order], return_index=True)
            # Of a person with very many photos, all candidates may be.
            if len(people) >= min(k, self._n_people):
                break
            n *= 4
        chosen = order[np.sort(first)[:k]]
        n_found = len(chosen)
        best.people[:n_found] = ids[chosen]
        best.similarities[:n_found] = similarities[chosen]
        for place, row in enumerate(rows[chosen]):
            block = int(np.searchsorted(self._starts, row, side="right")) - 1
            within = row - self._starts[block]
            best.n_photos[place] = self._blocks[block].rows.n_photos[within]
            best.qualities[place] = self._blocks[block].rows.qualities[within]

    def _compared(
        self, probe: npt.NDArray[np.float32], rows: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The similarities of `rows` (ascending) to a probe, and whose rows they are."""
        similarities = np.empty(len(rows), np.float32)
        ids = np.empty(len(rows), np.int64)
        for first in range(0, len(rows), _PIECE):
            piece = rows[first : first + _PIECE]
            vectors = np.empty((len(piece), self.dimension), np.float16)
            bounds = np.searchsorted(piece, self._starts)
            for n in np.flatnonzero(bounds[1:] > bounds[:-1]):
                part, source = slice(bounds[n], bounds[n + 1]), self._blocks[n].rows
                within = piece[part] - self._starts[n]
                # Rows are known to be there: "clip" only spares NumPy a copy of what it writes.
                np.take(source.vectors, within, axis=0, out=vectors[part], mode="clip")
                np.take(source.ids, within, out=ids[first:][part], mode="clip")
            # A product of matrices would round equal vectors differently, by where they stand.
            np.einsum("ij,j->i", vectors.astype(np.float32), probe, out=similarities[first : first + _PIECE])
        return similarities, ids


def _n_candidates(n_rows: int, k: int) -> int:
    return max(_FEWEST_CANDIDATES, _CANDIDATES_PER_MILLION * n_rows // 1_000_000) + 8 * k


def _cutoff(far: npt.NDArray[Any], n: int) -> float:
    """A value that at least `n` of `far` do not exceed: the smallest, up to rounding."""
    if far.dtype != np.uint8:
        # What is computed again may differ in the last bits.
        return float(np.partition(far, n - 1)[n - 1]) + 1e-5
    low, high = 0, 254  # `far` does not exceed 254
    while low < high:
        middle = (low + high) // 2
        if np.count_nonzero(far <= middle) >= n:
            high = middle
        else:
            low = middle + 1
    return low


def _check_vectors(rows: Rows, dimension: int) -> None:
    if rows.vectors.shape != (len(rows.ids), dimension):
        raise ValueError(f"vectors must be ({len(rows.ids)}, {dimension}), got {rows.vectors.shape}")


def _pieces(batches: Iterable[Rows]) -> Iterator[Rows]:
    """Copies of all rows in pieces of 4,096, the last one shorter."""
    waiting: list[Rows] = []
    n_waiting = 0
    for batch in batches:
        start = 0
        while start < len(batch.ids):
            stop = min(start + _BLOCK - n_waiting, len(batch.ids))
            waiting.append(Rows(*(values[start:stop] for values in batch)))
            n_waiting += stop - start
            start = stop
            if n_waiting == _BLOCK:
                yield _joined(waiting)
                waiting, n_waiting = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(parts: Sequence[Rows]) -> Rows:
    return Rows(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _first_rows(blocks: Sequence[_Block]) -> Iterator[_Block]:
    """The first blocks that have 4,096 rows together."""
    n_rows = 0
    for block in blocks:
        if n_rows < _BLOCK:
            yield block
        n_rows += block.n_rows


def _with_sketches(blocks: Sequence[_Block], sketcher: Sketcher) -> Iterator[_Block]:
    """The blocks, each with sketches."""

    def sketched(block: _Block) -> _Block:
        return block if block.sketches is not None else _Block(block.rows, sketcher.sketch(block.rows.vectors))

    with ThreadPoolExecutor(usable_cores()) as pool:
        yield from pool.map(sketched, blocks)


def _without(block: _Block, leaving: npt.NDArray[np.int64]) -> tuple[_Block, npt.NDArray[np.int64]]:
    """The block without the rows of the ids `leaving` (ascending), and the ids of these rows; itself if it has none."""
    ids = block.rows.ids
    first, last = np.searchsorted(leaving, ids.min()), np.searchsorted(leaving, ids.max(), side="right")
    out = np.isin(ids, leaving[first:last])
    if not out.any():
        return block, ids[:0]
    rest = Rows(*(values[~out] for values in block.rows))
    return _Block(rest, None if block.sketches is None else block.sketches[:, ~out]), ids[out]
