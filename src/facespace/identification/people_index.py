"""An in-memory search index of a gallery that finds the most similar people without comparing with all of them.

Rows are stored in blocks of 4,096. Each row has a vector and a sketch of 64 bytes (see `sketches`). A search compares the
probe's sketch with the sketches of all rows, takes the rows with the smallest distances as candidates, and compares only
their vectors. The similarities it returns are exact: a person can be missed, but the order of those found is right. In
three cases probes are compared with all rows by matrix products instead: small galleries, many probes at once, and the
first few probes of a gallery whose sketches are slow to compute.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from facespace.identification.sketches import N_BITS, Sketcher, distances
from facespace.runtime.blas_threads import one_blas_thread
from facespace.runtime.cores import usable_cores

_BLOCK = 4096
# The number of candidates is this factor times the square root of the number of rows, divided by the length of a vector.
# Measured with 941 probes, real faces and drawn ones, as in benchmarks/gallery_search.py: in 99.9 % of cases the ten people
# most similar to a probe were among this many rows with the smallest distances, in galleries of 10 thousand, 100 thousand
# and a million:
#   128 numbers (sface)          1,053   4,360   15,067   (used: 1,563   4,942   15,625)
#   512 numbers (casia-webface)    398     986    2,743   (used:   391   1,236    3,907)
# For 99.9 % of probes the most similar person was among at most 1,954 and 1,235 rows, so half is used for up to five people.
_CANDIDATES = 2000
# Bytes of distances that are computed before candidates are chosen from them: 64 probes and a million rows.
_SCANNED_BYTES = 64 << 20
# Probes are compared with all rows if there are at least this many at once, and at least a tenth of the vector's length:
# matrix products then take no longer than sketches. For 64 probes at once, processor time per probe and million rows was
# 5 ms by products and 20 ms by sketches (128 numbers), and 18 and 20 ms (512 numbers). For longer vectors sketches stay
# faster.
_MANY_PROBES, _MAX_PRODUCT_DIMENSION = 12, 512
# How many numbers are expanded to float32 at once, so that they fit a core's own cache: when candidates are compared, and
# when all rows are multiplied.
_PIECE, _MULTIPLIED = 1 << 17, 1 << 18
# Sketches that need a matrix product take as long to compute as comparing some ten probes with all rows. They are computed
# after this many probes, so that a program that searches only once does not wait for them.
_COMPARED_BEFORE_SKETCHES = 8

_Run = Callable[..., Iterator[Any]]  # map, or that of a pool of threads


class Rows(NamedTuple):
    """Holds n vectors of people; the rows of one person must be consecutive.

    `ids` (n,) are the people's ids and `vectors` (n,D) have length 1 up to rounding. Each vector is the mean of
    `n_photos` (n,) photos, whose mean quality is `qualities` (n,).
    """

    ids: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float16]
    n_photos: npt.NDArray[np.int32]
    qualities: npt.NDArray[np.float32]


class Nearest(NamedTuple):
    """The most similar people of N probes, best first, each (N,k).

    `n_photos` and `qualities` are those of a person's most similar row. If there are fewer than k people, the remaining
    places have the id -1, the similarity -inf, 0 photos and the quality 0.
    """

    people: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float32]
    n_photos: npt.NDArray[np.int32]
    qualities: npt.NDArray[np.float32]

    @classmethod
    def empty(cls, n: int, k: int) -> Nearest:
        """Return the result of N probes in an empty gallery.

        >>> Nearest.empty(1, 2).people.tolist()
        [[-1, -1]]
        """
        shape = (n, k)
        return cls(
            np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32),
            np.zeros(shape, np.int32), np.zeros(shape, np.float32),
        )  # fmt: skip


class _Block(NamedTuple):
    """Up to 4,096 immutable rows, and their sketches (8,n) if they were computed."""

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

    def __init__(
        self, dimension: int, blocks: Sequence[_Block], n_people: int, sketcher: Sketcher | None, n_compared: int = 0
    ) -> None:
        self.dimension = dimension
        self.n_rows = sum(block.n_rows for block in blocks)
        self._n_people = n_people
        self._n_compared = n_compared  # probes that were compared with all rows because there were no sketches
        # The mean of the sketches is chosen once, when there are enough rows.
        if sketcher is None and self.n_rows > _BLOCK:
            sketcher = Sketcher(np.concatenate([block.rows.vectors for block in _first_rows(blocks)])[:_BLOCK])
        self._sketcher = sketcher
        is_waiting = sketcher is None or (sketcher.multiplies and n_compared <= _COMPARED_BEFORE_SKETCHES)
        self._blocks = tuple(blocks if sketcher is None or is_waiting else _with_sketches(blocks, sketcher))
        self._starts = np.cumsum([0, *(block.n_rows for block in blocks)])

    @classmethod
    def build(cls, dimension: int, batches: Iterable[Rows]) -> PeopleIndex:
        """Build the index of all rows of `batches`; it keeps the arrays, which must not be changed afterwards.

        Raise `ValueError` if the rows of a person are not consecutive, or if vectors are not (n, `dimension`).
        """
        blocks: list[_Block] = []
        for rows in _pieces(batches):
            _check_vectors(rows, dimension)
            blocks.append(_Block(rows))
        ids = np.concatenate([block.rows.ids for block in blocks]) if blocks else np.empty(0, np.int64)
        n_people = n_different(ids)
        if n_people != np.count_nonzero(np.diff(ids)) + bool(len(ids)):
            raise ValueError("the rows of a person must be consecutive")
        return cls(dimension, blocks, n_people, None)

    def changed(self, gone: npt.NDArray[np.int64], rows: Rows) -> PeopleIndex:
        """Return an index without the people `gone`, in which `rows` replace all rows of their people.

        Unknown ids in `gone` are skipped. The two indexes share the unchanged blocks.
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

        # Blocks that are less than half full are joined, so that there are never twice as many as needed.
        loose = [block for block in left if block.n_rows < _BLOCK // 2]
        kept = [block for block in left if block.n_rows >= _BLOCK // 2]
        if len(rows.ids) and not loose and kept and kept[-1].n_rows < _BLOCK:
            loose = [kept.pop()]
        if len(rows.ids) or len(loose) > 1:
            sketches = None
            if self._sketcher is not None and self._has_sketches:
                sketches = self._sketcher.sketch(np.ascontiguousarray(rows.vectors))
            loose = _rejoined([*loose, _Block(rows, sketches)])
        blocks = [*kept, *(block for block in loose if block.n_rows)]
        return PeopleIndex(self.dimension, blocks, n_people, self._sketcher, self._n_compared)

    def __len__(self) -> int:
        return self._n_people

    def nearest(self, probes: npt.NDArray[np.float32], k: int) -> Nearest:
        """Return the `k` people most similar to each of the unit `probes` (N,D), each with their best row.

        The similarity is the cosine, computed in float32 from the rows' float16. Of equally similar people the one with
        the smaller id comes first.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        probes = np.ascontiguousarray(probes, np.float32)
        found = Nearest.empty(len(probes), k)
        if not found.people.size or not self.n_rows:
            return found
        n_best = min(k, self._n_people)
        step = min(256, max(1, _SCANNED_BYTES // self.n_rows))
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="facespace-search") as pool:
            for start in range(0, len(probes), step):
                chunk = probes[start : start + step]
                parts = [Nearest(*(values[start + n] for values in found)) for n in range(len(chunk))]
                by_products = (
                    self.n_rows <= _BLOCK
                    or self._products_are_faster(len(chunk))
                    or not self._ensure_sketches(len(chunk))
                )
                # A small gallery is searched faster than a thread starts. With a single sketch NumPy's calls on a block
                # are too short for threads, which would wait for each other.
                run = map if self.n_rows <= _BLOCK or (len(probes) == 1 and not by_products) else pool.map
                if by_products:
                    far, n, slack = self._rounded(chunk, run), n_best, 1
                else:
                    far, n, slack = self._estimated(chunk, run), _n_candidates(self.n_rows, self.dimension, n_best), 0
                list(run(functools.partial(self._rank, n=n, slack=slack), chunk, far, parts))
        return found

    def _products_are_faster(self, n_probes: int) -> bool:
        return self.dimension <= _MAX_PRODUCT_DIMENSION and n_probes >= max(_MANY_PROBES, self.dimension / 10)

    @property
    def _has_sketches(self) -> bool:
        return all(block.sketches is not None for block in self._blocks)

    def _ensure_sketches(self, n_probes: int) -> bool:
        """Return whether all blocks have sketches. Compute missing ones as soon as more than 8 probes were searched."""
        assert self._sketcher is not None
        if not self._has_sketches:
            self._n_compared += n_probes
            if self._n_compared <= _COMPARED_BEFORE_SKETCHES:
                return False
            self._blocks = tuple(_with_sketches(self._blocks, self._sketcher))
        return True

    def _rounded(self, probes: npt.NDArray[np.float32], run: _Run) -> npt.NDArray[np.uint8]:
        """Return the dissimilarity of all rows to each probe (N,R), rounded to steps of 1/120."""
        found = np.empty((len(probes), self.n_rows), np.uint8)
        scaled = np.float32(-120) * probes
        size = max(1, _MULTIPLIED // self.dimension)

        def compare(n: int) -> None:
            vectors, start = self._blocks[n].rows.vectors, self._starts[n]
            kept = self._expanded[n] if self.n_rows <= _BLOCK else None
            expanded = np.empty((min(size, len(vectors)), self.dimension), np.float32) if kept is None else kept
            products = np.empty((len(probes), min(size, len(vectors))), np.float32)
            for first in range(0, len(vectors), size):
                piece = vectors[first : first + size]
                part, values = expanded[: len(piece)], products[:, : len(piece)]
                if kept is None:
                    _expand(piece, out=part)
                else:
                    part = kept[first : first + size]
                np.matmul(scaled, part.T, out=values)
                np.add(values, 126, out=values)
                np.clip(values, 0, 254, out=values)
                found[:, start + first : start + first + len(piece)] = values

        if run is map:  # only in this thread
            list(run(compare, range(len(self._blocks))))
        else:
            with one_blas_thread():
                list(run(compare, range(len(self._blocks))))
        return found

    @functools.cached_property
    def _expanded(self) -> list[npt.NDArray[np.float32]]:
        """The vectors of each block as float32; used only for a small gallery."""
        return [_expanded(block.rows.vectors) for block in self._blocks]

    def _estimated(self, probes: npt.NDArray[np.float32], run: _Run) -> npt.NDArray[np.uint8]:
        """Return the distances (N,R) between the sketches of the probes and of all rows."""
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

    def _rank(
        self, probe: npt.NDArray[np.float32], far: npt.NDArray[np.uint8], best: Nearest, *, n: int, slack: int
    ) -> None:
        """Write the most similar people of one probe (D,) into `best`, whose arrays are (k,).

        `far` (R,) are the approximate distances of all rows, with an error of at most `slack`. At least the `n` nearest
        rows are compared exactly.
        """
        n_best = min(len(best.people), self._n_people)
        while True:
            cutoff = _cutoff(far, min(n, len(far)))
            rows = np.flatnonzero(far <= cutoff + slack)
            similarities = self._similarities(probe, rows)
            chosen, ids = self._best_of_each(rows, similarities, n_best)
            # More rows are needed if these belong to too few people, or if the last person is within the slack only.
            if len(rows) == len(far) or (len(chosen) == n_best and far[rows[chosen[-1]]] <= cutoff):
                break
            n *= 4
        best.people[: len(chosen)] = ids
        best.similarities[: len(chosen)] = similarities[chosen]
        # `_by_block` needs ascending row numbers.
        order = np.argsort(chosen)
        for part, block, within in self._by_block(rows[chosen[order]]):
            best.n_photos[order[part]] = block.rows.n_photos[within]
            best.qualities[order[part]] = block.rows.qualities[within]

    def _best_of_each(
        self, rows: npt.NDArray[np.intp], similarities: npt.NDArray[np.float32], n_best: int
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
        """Return the best row of each of the `n_best` most similar people, as indices into `rows`, and the people's ids.

        If the rows belong to fewer people, fewer are returned.
        """
        n = 2 * n_best
        while True:
            high = np.arange(len(rows))
            if n < len(rows):
                high = np.flatnonzero(similarities >= -np.partition(-similarities, n - 1)[n - 1])
            ids = np.empty(len(high), np.int64)
            for part, block, within in self._by_block(rows[high]):
                ids[part] = block.rows.ids[within]
            order = np.lexsort((ids, -similarities[high]))
            first = np.sort(np.unique(ids[order], return_index=True)[1])[:n_best]
            if len(first) == n_best or len(high) == len(rows):
                return high[order[first]], ids[order[first]]
            n *= 8

    def _similarities(self, probe: npt.NDArray[np.float32], rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Return the similarities of `rows`, which must ascend, to a probe."""
        similarities = np.empty(len(rows), np.float32)
        size = min(max(1, _PIECE // self.dimension), len(rows))
        vectors = np.empty((size, self.dimension), np.float16)
        expanded = np.empty((size, self.dimension), np.float32)
        for first in range(0, len(rows), size or 1):
            piece = rows[first : first + size]
            for part, block, within in self._by_block(piece):
                # All indices are valid; mode "clip" only avoids a buffered copy of the output.
                np.take(block.rows.vectors, within, axis=0, out=vectors[part], mode="clip")
            _expand(vectors[: len(piece)], out=expanded[: len(piece)])
            # A matrix product would round equal vectors differently, depending on their positions.
            np.einsum("ij,j->i", expanded[: len(piece)], probe, out=similarities[first : first + size])
        return similarities

    def _by_block(self, rows: npt.NDArray[np.intp]) -> Iterator[tuple[slice, _Block, npt.NDArray[np.intp]]]:
        """Yield each block that contains some of `rows`, which are ascending row numbers of the index.

        Yields the slice of `rows` that lies in the block, the block, and the numbers of these rows within the block.
        """
        bounds = np.searchsorted(rows, self._starts)
        for n in np.flatnonzero(bounds[1:] > bounds[:-1]).tolist():
            part = slice(int(bounds[n]), int(bounds[n + 1]))
            yield part, self._blocks[n], rows[part] - self._starts[n]


def _n_candidates(n_rows: int, dimension: int, k: int) -> int:
    """Return how many rows are compared exactly: for ten people and a million rows 3,907 (D = 512) or 15,625 (D = 128)."""
    return math.ceil(_CANDIDATES * math.sqrt(n_rows) / min(dimension, N_BITS) * max(0.5, k / 10))


def _expand(vectors: npt.NDArray[np.float16], *, out: npt.NDArray[np.float32]) -> None:
    """Write finite `vectors` to `out` as float32, like `astype` but five times as fast."""
    # The bits of sign, exponent and fraction move to their places in float32, whose exponent bias is larger by 112.
    bits = out.view(np.int32)
    bits[...] = vectors.view(np.int16)
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(~0x70001FFF), out=bits)
    np.multiply(out, np.float32(2.0**112), out=out)


def _expanded(vectors: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    out = np.empty(vectors.shape, np.float32)
    _expand(vectors, out=out)
    return out


def _cutoff(far: npt.NDArray[np.uint8], n: int) -> int:
    """Return the smallest value v such that at least `n` values of `far` are at most v."""
    low, high = 0, 255
    while low < high:
        middle = (low + high) // 2
        if np.count_nonzero(far <= middle) >= n:
            high = middle
        else:
            low = middle + 1
    return low


def n_different(ids: npt.NDArray[np.int64]) -> int:
    """Return how many different ids there are.

    >>> n_different(np.array([3, 1, 3]))
    2
    """
    # For a million numbers NumPy's `unique` builds a hash table, which takes ten times as long.
    return int(np.count_nonzero(np.diff(np.sort(ids)))) + bool(len(ids))


def _check_vectors(rows: Rows, dimension: int) -> None:
    if rows.vectors.shape != (len(rows.ids), dimension):
        raise ValueError(f"vectors must be ({len(rows.ids)}, {dimension}), got {rows.vectors.shape}")


def _pieces(batches: Iterable[Rows]) -> Iterator[Rows]:
    """Yield all rows in pieces of 4,096, the last one shorter; only batches of another size are copied."""
    waiting: list[Rows] = []
    n_waiting = 0
    for batch in batches:
        if len(batch.ids) == _BLOCK and not (waiting and waiting[-1].ids[-1] == batch.ids[0]):
            yield batch
            continue
        start = 0
        while start < len(batch.ids):
            stop = min(start + _BLOCK - n_waiting, len(batch.ids))
            waiting.append(_taken(batch, slice(start, stop)))
            n_waiting += stop - start
            start = stop
            if n_waiting == _BLOCK:
                yield _joined(waiting)
                waiting, n_waiting = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(parts: Sequence[Rows]) -> Rows:
    ids, vectors, n_photos, qualities = zip(*parts, strict=True)
    return Rows(np.concatenate(ids), np.concatenate(vectors), np.concatenate(n_photos), np.concatenate(qualities))


def _taken(rows: Rows, which: slice | npt.NDArray[np.bool_]) -> Rows:
    return Rows(rows.ids[which], rows.vectors[which], rows.n_photos[which], rows.qualities[which])


def _first_rows(blocks: Sequence[_Block]) -> Iterator[_Block]:
    """Yield the first blocks that together have at least 4,096 rows."""
    n_rows = 0
    for block in blocks:
        if n_rows < _BLOCK:
            yield block
        n_rows += block.n_rows


def _with_sketches(blocks: Sequence[_Block], sketcher: Sketcher) -> Iterator[_Block]:
    """Yield the blocks, each with sketches."""

    if all(block.sketches is not None for block in blocks):  # the case after most changes
        yield from blocks
        return

    def sketched(block: _Block) -> _Block:
        return block if block.sketches is not None else _Block(block.rows, sketcher.sketch(block.rows.vectors))

    with ThreadPoolExecutor(usable_cores()) as pool, one_blas_thread():
        yield from pool.map(sketched, blocks)


def _rejoined(blocks: Sequence[_Block]) -> list[_Block]:
    """Regroup the rows of some blocks into blocks of 4,096 rows; keep the sketches if all given blocks have them."""
    pieces = list(_pieces(block.rows for block in blocks))
    sketches = [block.sketches for block in blocks if block.sketches is not None]
    if not pieces or len(sketches) < len(blocks):
        return [_Block(piece) for piece in pieces]
    ends = np.cumsum([len(piece.ids) for piece in pieces])
    parts = np.split(np.concatenate(sketches, axis=1), ends[:-1], axis=1)
    return [_Block(piece, np.ascontiguousarray(part)) for piece, part in zip(pieces, parts, strict=True)]


def _without(block: _Block, leaving: npt.NDArray[np.int64]) -> tuple[_Block, npt.NDArray[np.int64]]:
    """Return the block without the rows of the ids `leaving` (ascending), and the ids of these rows.

    A block without such rows is returned unchanged.
    """
    ids = block.rows.ids
    first, last = np.searchsorted(leaving, ids.min()), np.searchsorted(leaving, ids.max(), side="right")
    out = np.isin(ids, leaving[first:last]) if first < last else np.zeros(0, np.bool_)
    if not out.any():
        return block, ids[:0]
    return _Block(_taken(block.rows, ~out), None if block.sketches is None else block.sketches[:, ~out]), ids[out]
