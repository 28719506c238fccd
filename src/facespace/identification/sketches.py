"""Sketches: vectors reduced to 512 bits, compared by counting the bits that differ.

Each bit says on which side of a plane through the mean a vector lies. Two vectors at the angle θ (about the mean) are
separated by a share θ/π of random planes (Charikar, 2002, "Similarity estimation techniques from rounding algorithms"), so
few differing bits mean similar vectors. This is an estimate; `people_index` compares the best candidates exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

N_BITS = 512
_N_WORDS = N_BITS // 64
_SIGN = np.uint16(0x8000)
_HALF_LIMIT = np.array(127, np.uint8)


class Sketcher:
    """Computes sketches, 512 bits for each vector (D,), relative to the mean of a sample of the vectors.

    For D = 512 each number gives one bit, which says whether it is above the mean. For other D the vectors are first
    multiplied by a fixed random matrix (D,512). If D > 512, the matrix has orthonormal columns. If D < 512, it consists
    of orthogonal matrices side by side, because D bits alone would be too few.

    >>> sketcher = Sketcher(np.eye(4, dtype=np.float16))
    >>> sketches = sketcher.sketch(np.array([[1, 0, 0, 0], [0.8, 0.6, 0, 0], [-1, 0, 0, 0]], np.float16))
    >>> sketches.shape
    (8, 3)
    >>> same, near, far = distances([sketches], sketches[:, :1])[0]
    >>> bool(same == 0 < near < far)
    True
    """

    def __init__(self, sample: npt.NDArray[np.float16]) -> None:
        mean = sample.mean(axis=0, dtype=np.float32)
        self._planes = None if sample.shape[1] == N_BITS else _planes(sample.shape[1])
        if self._planes is None:
            # Non-negative float16 numbers have the same order as their bits read as integers. Dimensions with a negative
            # mean change sign, which flips one bit in all sketches and changes no distance.
            rounded = mean.astype(np.float16).view(np.uint16)
            self._flips = rounded & _SIGN
            self._middle = (rounded ^ self._flips).view(np.int16)
        else:
            self._offsets = mean @ self._planes

    @property
    def multiplies(self) -> bool:
        """Whether vectors are multiplied by a matrix, which is slow for many vectors."""
        return self._planes is not None

    def sketch(self, vectors: npt.NDArray[np.float16]) -> npt.NDArray[np.uint64]:
        """Return the sketches (8,n) of vectors (n,D): a column of eight 64-bit words for each."""
        above: npt.NDArray[np.bool_]
        if self._planes is None:
            # NumPy compares integers of 16 bits 20 times as fast as float16.
            above = (vectors.view(np.uint16) ^ self._flips).view(np.int16) > self._middle
        else:
            above = vectors.astype(np.float32) @ self._planes > self._offsets
        packed = np.ascontiguousarray(np.packbits(above, axis=1))
        return np.ascontiguousarray(packed.view(np.uint64).T)


@functools.lru_cache(maxsize=4)
def _planes(dimension: int) -> npt.NDArray[np.float32]:
    """Return a fixed matrix (D,512) of random orthonormal columns; for D < 512, sets of D orthonormal columns."""
    rng = np.random.default_rng(0)
    width = min(dimension, N_BITS)
    sets = [np.linalg.qr(rng.standard_normal((dimension, width)))[0] for _ in range(-(-N_BITS // width))]
    return np.concatenate(sets, axis=1)[:, :N_BITS].astype(np.float32)


def count_bits_by_table(words: npt.NDArray[np.uint64], counts: npt.NDArray[np.uint8]) -> None:
    """Write the number of ones in each word (n,) to `counts` (n,); for NumPy 1, which has no `bitwise_count`.

    >>> counts = np.empty(2, np.uint8)
    >>> count_bits_by_table(np.array([7, 2**64 - 1], np.uint64), counts)
    >>> counts.tolist()
    [3, 64]
    """
    np.add.reduce(_ones_of_16_bits()[words.view(np.uint16)].reshape(-1, 4), axis=1, dtype=np.uint8, out=counts)


@functools.cache
def _ones_of_16_bits() -> npt.NDArray[np.uint8]:
    """Return the number of ones in each of the numbers below 65,536."""
    bits = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1)
    ones: npt.NDArray[np.uint8] = bits.sum(axis=1, dtype=np.uint8)
    return ones


# NumPy 2 has a ufunc that uses the processor's instruction and writes in place: ufunc(words, counts).
count_bits: Any = getattr(np, "bitwise_count", count_bits_by_table)


def distances(sketches: Sequence[npt.NDArray[np.uint64]], probes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Return the distances (N,R) between the probes (8,N) and all R columns of the arrays (8,n) in `sketches`.

    The distance is the number of differing bits. In each half of the 512 bits at most 127 are counted, so that the sum
    fits a byte. This is enough: similar vectors differ in fewer bits, unrelated ones in about 128 bits of each half.

    >>> zeros = np.zeros((8, 1), np.uint64)
    >>> distances([zeros + 3, ~zeros - 1], zeros).tolist()
    [[16, 254]]
    """
    found = np.empty((probes.shape[1], sum(part.shape[1] for part in sketches)), np.uint8)
    largest = _N_WORDS * max((part.shape[1] for part in sketches), default=0)
    differing, counts = np.empty(largest, np.uint64), np.empty(largest, np.uint8)
    start = 0
    for part in sketches:
        n = part.shape[1]
        words, bits = differing[: _N_WORDS * n], counts[: _N_WORDS * n]
        as_part, places = words.reshape(part.shape), found[:, start : start + n]
        # Counts are added in long runs: words 0 to 3 and words 4 to 7, then their sums; words 0, 2, 4, 6 form one half.
        low, high = bits[: 4 * n], bits[4 * n :]
        halves, others = bits[: 2 * n], bits[2 * n : 4 * n]
        one, other = bits[:n], bits[n : 2 * n]
        for probe, row in zip(probes.T[:, :, None], places, strict=True):
            np.bitwise_xor(part, probe, out=as_part)
            count_bits(words, bits)
            np.add(low, high, out=low)
            # Four words have 256 bits, one more than a byte can count. All of them differ only for opposite vectors,
            # which therefore look equal here; the exact similarities distinguish them later.
            np.add(halves, others, out=halves)
            np.minimum(halves, _HALF_LIMIT, out=halves)
            np.add(one, other, out=row)
        start += n
    return found
