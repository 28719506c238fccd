"""Vectors as 512 bits each, compared by counting the bits in which they differ.

Each bit says on which side of a plane through the mean a vector lies. Of two vectors at the angle θ (about the mean),
random planes part a share θ/π (Charikar, 2002, "Similarity estimation techniques from rounding algorithms"), so few
differing bits mean similar vectors. It is an estimate: see `people_index` for what is done about its error.
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
_MOST = np.array(127, np.uint8)


class Sketcher:
    """Makes sketches of vectors (n,D) about the mean of a sample of them.

    Vectors of 512 numbers give one bit each: its sign about the mean. Others are multiplied with a fixed random matrix
    (D,512) first: orthogonal matrices side by side where D is smaller, as 128 bits alone are too few, and 512
    orthonormal columns where it is larger.

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
            # Of float16 numbers that are not negative, the bits are in the order of the numbers. Numbers whose mean is
            # negative change sign, which changes a bit in all sketches and no distance.
            rounded = mean.astype(np.float16).view(np.uint16)
            self._flips = rounded & _SIGN
            self._middle = (rounded ^ self._flips).view(np.int16)
        else:
            self._offsets = mean @ self._planes

    @property
    def multiplies(self) -> bool:
        """Whether vectors are multiplied with a matrix, which takes long for many."""
        return self._planes is not None

    def sketch(self, vectors: npt.NDArray[np.float16]) -> npt.NDArray[np.uint64]:
        """The sketches (8,n) of vectors (n,D), a column of eight 64-bit words each."""
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
    """A fixed matrix (D,512) of random orthonormal columns; sets of D side by side if there cannot be 512."""
    rng = np.random.default_rng(0)
    width = min(dimension, N_BITS)
    sets = [np.linalg.qr(rng.standard_normal((dimension, width)))[0] for _ in range(-(-N_BITS // width))]
    return np.concatenate(sets, axis=1)[:, :N_BITS].astype(np.float32)


def count_bits_by_table(words: npt.NDArray[np.uint64], counts: npt.NDArray[np.uint8]) -> None:
    """Write the number of ones of each word (n,) to `counts` (n,): for NumPy 1, which has no `bitwise_count`.

    >>> counts = np.empty(2, np.uint8)
    >>> count_bits_by_table(np.array([7, 2**64 - 1], np.uint64), counts)
    >>> counts.tolist()
    [3, 64]
    """
    np.add.reduce(_ones_of_16_bits()[words.view(np.uint16)].reshape(-1, 4), axis=1, dtype=np.uint8, out=counts)


@functools.cache
def _ones_of_16_bits() -> npt.NDArray[np.uint8]:
    """How many ones each of the numbers below 65,536 has."""
    bits = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1)
    ones: npt.NDArray[np.uint8] = bits.sum(axis=1, dtype=np.uint8)
    return ones


# NumPy 2 counts them in the processor, in place: ufunc(words, counts).
count_bits: Any = getattr(np, "bitwise_count", count_bits_by_table)


def distances(sketches: Sequence[npt.NDArray[np.uint64]], probes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """The distances (N,R) of probes (8,N) from all columns of `sketches`, arrays (8,n) of R columns in all.

    The distance is the number of differing bits, counted in each half of the 512 up to 127, so that it fits a byte:
    similar vectors differ in fewer than that, and 128 is what unrelated ones differ in.

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
        # Counts are added as long runs: words 0 to 3 and 4 to 7, then their sums, so that 0, 2, 4, 6 are one half.
        low, high = bits[: 4 * n], bits[4 * n :]
        halves, others = bits[: 2 * n], bits[2 * n : 4 * n]
        one, other = bits[:n], bits[n : 2 * n]
        for probe, row in zip(probes.T[:, :, None], places, strict=True):
            np.bitwise_xor(part, probe, out=as_part)
            count_bits(words, bits)
            np.add(low, high, out=low)
            # Four words have 256 bits, one more than a byte counts to. All differ only in opposite vectors, which are
            # taken for equal here, and told apart when similarities are computed.
            np.add(halves, others, out=halves)
            np.minimum(halves, _MOST, out=halves)
            np.add(one, other, out=row)
        start += n
    return found
