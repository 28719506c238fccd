"""Everyone of a gallery in memory, laid out so that the most similar people are found without comparing with all.

Rows stand in blocks of 4,096. Each has beside its vector a sketch of 64 bytes (see `sketches`). A search compares the
probe's sketch with every row's, takes the rows of the smallest distances as candidates, and compares only their vectors.
What it returns are the exact similarities of these: a person can be missed, but those found are in the right order. Small
galleries, many probes at once, and the first few probes of any gallery whose sketches take long to make, are compared with
everybody by products of matrices.
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
# Times the root of the number of rows, divided by the numbers of a vector: how many candidates sketches choose. Measured
# with 941 probes, real faces and drawn ones, as in benchmarks/gallery_search.py: the ten people most similar to each were
# in 99.9 % of cases among this many rows of the smallest distances, in galleries of 10 thousand, 100 thousand and a million:
#   128 numbers (sface)          1,053   4,360   15,067   (taken: 1,563   4,942   15,625)
#   512 numbers (casia-webface)    398     986    2,743   (taken:   391   1,236    3,907)
# The most similar one was there for 99.9 % of probes among at most 1,954 and 1,235: where up to five are wanted, half is taken.
_CANDIDATES = 2000
# Bytes of distances computed before candidates are chosen from them: 64 probes and a million rows.
_SCANNED_BYTES = 64 << 20
# So many probes at once, and at least a tenth as many as their numbers, are compared with everybody, since products of
# matrices then take no longer than sketches: processor time a probe and million rows, 64 at once, was 5 and 20 ms (128
# numbers), and 18 and 20 ms (512). Of longer vectors sketches stay faster.
_MANY_PROBES, _MOST_NUMBERS = 12, 512
# Numbers expanded to float32 at once, which stay in a core's own cache: of candidates, and of rows that are multiplied.
_PIECE, _MULTIPLIED = 1 << 17, 1 << 18
# Sketches of vectors that have to be multiplied for them take as long as comparing some ten probes with everybody, so that
# many probes go by before they are made: whoever asks once does not wait for them.
_COMPARED_BEFORE_SKETCHES = 8

_Run = Callable[..., Iterator[Any]]  # map, or that of a pool of threads


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

    @classmethod
    def nobody(cls, n: int, k: int) -> Nearest:
        """What N probes have found in an empty gallery.

        >>> Nearest.nobody(1, 2).people.tolist()
        [[-1, -1]]
        """
        shape = (n, k)
        return cls(
            np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32),
            np.zeros(shape, np.int32), np.zeros(shape, np.float32),
        )  # fmt: skip


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

    def __init__(
        self, dimension: int, blocks: Sequence[_Block], n_people: int, sketcher: Sketcher | None, n_compared: int = 0
    ) -> None:
        self.dimension = dimension
        self.n_rows = sum(block.n_rows for block in blocks)
        self._n_people = n_people
        self._n_compared = n_compared  # probes that were compared with everybody for want of sketches
        # The mean that sketches are about is chosen once, when there are enough rows for one.
        if sketcher is None and self.n_rows > _BLOCK:
            sketcher = Sketcher(np.concatenate([block.rows.vectors for block in _first_rows(blocks)])[:_BLOCK])
        self._sketcher = sketcher
        is_waiting = sketcher is None or (sketcher.multiplies and n_compared <= _COMPARED_BEFORE_SKETCHES)
        self._blocks = tuple(blocks if sketcher is None or is_waiting else _with_sketches(blocks, sketcher))
        self._starts = np.cumsum([0, *(block.n_rows for block in blocks)])

    @classmethod
    def build(cls, dimension: int, batches: Iterable[Rows]) -> PeopleIndex:
        """The index of all rows of `batches`, which belong to it then and must not be changed any more.

        `ValueError` where the rows of a person do not follow each other, or vectors are not (n, `dimension`).
        """
        blocks: list[_Block] = []
        for rows in _pieces(batches):
            _check_vectors(rows, dimension)
            blocks.append(_Block(rows))
        ids = np.concatenate([block.rows.ids for block in blocks]) if blocks else np.empty(0, np.int64)
        n_people = n_different(ids)
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
            sketches = None
            if self._sketcher is not None and self._has_sketches:
                sketches = self._sketcher.sketch(np.ascontiguousarray(rows.vectors))
            loose = _rejoined([*loose, _Block(rows, sketches)])
        blocks = [*kept, *(block for block in loose if block.n_rows)]
        return PeopleIndex(self.dimension, blocks, n_people, self._sketcher, self._n_compared)

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
        found = Nearest.nobody(len(probes), k)
        if not found.people.size or not self.n_rows:
            return found
        wanted = min(k, self._n_people)
        step = min(256, max(1, _SCANNED_BYTES // self.n_rows))
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="facespace-search") as pool:
            for start in range(0, len(probes), step):
                chunk = probes[start : start + step]
                parts = [Nearest(*(values[start + n] for values in found)) for n in range(len(chunk))]
                by_products = self.n_rows <= _BLOCK or self._by_products(len(chunk)) or not self._sketched(len(chunk))
                # A small gallery is searched before a thread has started, and for one sketch threads wait for each other:
                # NumPy's calls on a block are too short for them.
                run = map if self.n_rows <= _BLOCK or (len(probes) == 1 and not by_products) else pool.map
                if by_products:
                    far, n, slack = self._rounded(chunk, run), wanted, 1
                else:
                    far, n, slack = self._estimated(chunk, run), _n_candidates(self.n_rows, self.dimension, wanted), 0
                list(run(functools.partial(self._rank, n=n, slack=slack), chunk, far, parts))
        return found

    def _by_products(self, n_probes: int) -> bool:
        return self.dimension <= _MOST_NUMBERS and n_probes >= max(_MANY_PROBES, self.dimension / 10)

    @property
    def _has_sketches(self) -> bool:
        return all(block.sketches is not None for block in self._blocks)

    def _sketched(self, n_probes: int) -> bool:
        """Whether all blocks have sketches, which are made if enough probes were compared without."""
        assert self._sketcher is not None
        if not self._has_sketches:
            self._n_compared += n_probes
            if self._n_compared <= _COMPARED_BEFORE_SKETCHES:
                return False
            self._blocks = tuple(_with_sketches(self._blocks, self._sketcher))
        return True

    def _rounded(self, probes: npt.NDArray[np.float32], run: _Run) -> npt.NDArray[np.uint8]:
        """How dissimilar all rows are to each probe (N,R), in steps of 1/120."""
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

        if run is map:  # in this thread alone
            list(run(compare, range(len(self._blocks))))
        else:
            with one_blas_thread():
                list(run(compare, range(len(self._blocks))))
        return found

    @functools.cached_property
    def _expanded(self) -> list[npt.NDArray[np.float32]]:
        """The vectors of each block of a small gallery."""
        return [_expanded(block.rows.vectors) for block in self._blocks]

    def _estimated(self, probes: npt.NDArray[np.float32], run: _Run) -> npt.NDArray[np.uint8]:
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

    def _rank(
        self, probe: npt.NDArray[np.float32], far: npt.NDArray[np.uint8], best: Nearest, *, n: int, slack: int
    ) -> None:
        """Fill `best`, each (k,), for one probe (D,).

        Of all rows, which `far` (R,) says how far they are, at least `n` of the least far are compared; `slack` is by how
        much `far` may be wrong.
        """
        wanted = min(len(best.people), self._n_people)
        while True:
            cutoff = _cutoff(far, min(n, len(far)))
            rows = np.flatnonzero(far <= cutoff + slack)
            similarities = self._similarities(probe, rows)
            chosen, ids = self._best_of_each(rows, similarities, wanted)
            # Few people can have all of the rows, or the last of them can be there by the slack alone.
            if len(rows) == len(far) or (len(chosen) == wanted and far[rows[chosen[-1]]] <= cutoff):
                break
            n *= 4
        best.people[: len(chosen)] = ids
        best.similarities[: len(chosen)] = similarities[chosen]
        # Rows are read by ascending number.
        order = np.argsort(chosen)
        for part, block, within in self._by_block(rows[chosen[order]]):
            best.n_photos[order[part]] = block.rows.n_photos[within]
            best.qualities[order[part]] = block.rows.qualities[within]

    def _best_of_each(
        self, rows: npt.NDArray[np.intp], similarities: npt.NDArray[np.float32], wanted: int
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
        """Which of `rows` are the best of the `wanted` most similar people, or of all there are, and the people."""
        n = 2 * wanted
        while True:
            high = np.arange(len(rows))
            if n < len(rows):
                high = np.flatnonzero(similarities >= -np.partition(-similarities, n - 1)[n - 1])
            ids = np.empty(len(high), np.int64)
            for part, block, within in self._by_block(rows[high]):
                ids[part] = block.rows.ids[within]
            order = np.lexsort((ids, -similarities[high]))
            first = np.sort(np.unique(ids[order], return_index=True)[1])[:wanted]
            if len(first) == wanted or len(high) == len(rows):
                return high[order[first]], ids[order[first]]
            n *= 8

    def _similarities(self, probe: npt.NDArray[np.float32], rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """The similarities of `rows`, whose numbers ascend, to a probe."""
        similarities = np.empty(len(rows), np.float32)
        size = min(max(1, _PIECE // self.dimension), len(rows))
        vectors = np.empty((size, self.dimension), np.float16)
        expanded = np.empty((size, self.dimension), np.float32)
        for first in range(0, len(rows), size or 1):
            piece = rows[first : first + size]
            for part, block, within in self._by_block(piece):
                # Rows are known to be there: "clip" only spares NumPy a copy of what it writes.
                np.take(block.rows.vectors, within, axis=0, out=vectors[part], mode="clip")
            _expand(vectors[: len(piece)], out=expanded[: len(piece)])
            # A product of matrices would round equal vectors differently, by where they stand.
            np.einsum("ij,j->i", expanded[: len(piece)], probe, out=similarities[first : first + size])
        return similarities

    def _by_block(self, rows: npt.NDArray[np.intp]) -> Iterator[tuple[slice, _Block, npt.NDArray[np.intp]]]:
        """For each block that has some of `rows`, whose numbers ascend: which of them, the block, their places in it."""
        bounds = np.searchsorted(rows, self._starts)
        for n in np.flatnonzero(bounds[1:] > bounds[:-1]).tolist():
            part = slice(int(bounds[n]), int(bounds[n + 1]))
            yield part, self._blocks[n], rows[part] - self._starts[n]


def _n_candidates(n_rows: int, dimension: int, k: int) -> int:
    """How many rows are compared in full: for ten people 3,906 of a million of 512 numbers, 15,625 of as many of 128."""
    return math.ceil(_CANDIDATES * math.sqrt(n_rows) / min(dimension, N_BITS) * max(0.5, k / 10))


def _expand(vectors: npt.NDArray[np.float16], *, out: npt.NDArray[np.float32]) -> None:
    """Write finite `vectors` to `out` as float32: the same numbers as `astype` makes, in a fifth of the time."""
    # The bits of sign, exponent and fraction move to where float32 has them; the exponents' zeros are 112 apart.
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
    """The smallest value that at least `n` of `far` do not exceed."""
    low, high = 0, 255
    while low < high:
        middle = (low + high) // 2
        if np.count_nonzero(far <= middle) >= n:
            high = middle
        else:
            low = middle + 1
    return low


def n_different(ids: npt.NDArray[np.int64]) -> int:
    """How many different numbers there are.

    >>> n_different(np.array([3, 1, 3]))
    2
    """
    # Of a million numbers NumPy's `unique` makes a hash table, which takes ten times as long.
    return int(np.count_nonzero(np.diff(np.sort(ids)))) + bool(len(ids))


def _check_vectors(rows: Rows, dimension: int) -> None:
    if rows.vectors.shape != (len(rows.ids), dimension):
        raise ValueError(f"vectors must be ({len(rows.ids)}, {dimension}), got {rows.vectors.shape}")


def _pieces(batches: Iterable[Rows]) -> Iterator[Rows]:
    """All rows in pieces of 4,096, the last one shorter; a batch of so many is a piece as it is, others are copied."""
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
    """The first blocks that have 4,096 rows together."""
    n_rows = 0
    for block in blocks:
        if n_rows < _BLOCK:
            yield block
        n_rows += block.n_rows


def _with_sketches(blocks: Sequence[_Block], sketcher: Sketcher) -> Iterator[_Block]:
    """The blocks, each with sketches."""

    if all(block.sketches is not None for block in blocks):  # as after most changes
        yield from blocks
        return

    def sketched(block: _Block) -> _Block:
        return block if block.sketches is not None else _Block(block.rows, sketcher.sketch(block.rows.vectors))

    with ThreadPoolExecutor(usable_cores()) as pool, one_blas_thread():
        yield from pool.map(sketched, blocks)


def _rejoined(blocks: Sequence[_Block]) -> list[_Block]:
    """The rows of some blocks in blocks of 4,096, with the sketches that they have."""
    pieces = list(_pieces(block.rows for block in blocks))
    sketches = [block.sketches for block in blocks if block.sketches is not None]
    if not pieces or len(sketches) < len(blocks):
        return [_Block(piece) for piece in pieces]
    ends = np.cumsum([len(piece.ids) for piece in pieces])
    parts = np.split(np.concatenate(sketches, axis=1), ends[:-1], axis=1)
    return [_Block(piece, np.ascontiguousarray(part)) for piece, part in zip(pieces, parts, strict=True)]


def _without(block: _Block, leaving: npt.NDArray[np.int64]) -> tuple[_Block, npt.NDArray[np.int64]]:
    """The block without the rows of the ids `leaving` (ascending), and the ids of these rows; itself if it has none."""
    ids = block.rows.ids
    first, last = np.searchsorted(leaving, ids.min()), np.searchsorted(leaving, ids.max(), side="right")
    out = np.isin(ids, leaving[first:last]) if first < last else np.zeros(0, np.bool_)
    if not out.any():
        return block, ids[:0]
    return _Block(_taken(block.rows, ~out), None if block.sketches is None else block.sketches[:, ~out]), ids[out]
