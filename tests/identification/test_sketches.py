"""Sketches against counting single bits, and against the angle that they estimate."""

from __future__ import annotations

import numpy as np
import pytest

from facespace.identification import sketches
from facespace.identification.sketches import N_BITS, Sketcher, distances


def unit(n: int, dimension: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dimension)) + shift
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def words(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, (8, n), np.uint64)


def bits_of(column: np.ndarray) -> np.ndarray:
    return np.array([int(word) >> n & 1 for word in column for n in range(64)])


def oracle(one: np.ndarray, other: np.ndarray) -> int:
    differ = bits_of(one) != bits_of(other)
    halves = differ.reshape(4, 2, 64).sum(axis=(0, 2)) % 256
    return int(np.minimum(halves, 127).sum())


def test_distances_count_the_bits_that_differ() -> None:
    rows, probes = words(70, 1), words(3, 2)
    rows[:, 5], rows[:, 6] = probes[:, 0], ~probes[:, 0]
    near = probes[:, 1].copy()
    near[[0, 7]] ^= np.array([7, 1], np.uint64)
    rows[:, 7] = near
    found = distances([rows], probes)
    assert found.dtype == np.uint8
    assert found.tolist() == [[oracle(row, probe) for row in rows.T] for probe in probes.T]
    assert found[0, 5] == 0 and found[1, 7] == 4


def test_rows_may_come_in_parts() -> None:
    rows, probes = words(3000, 3), words(2, 4)
    parts = [rows[:, :1000], np.ascontiguousarray(rows[:, 1000:1001]), rows[:, 1001:]]
    whole = distances([rows], probes)
    assert np.array_equal(distances(parts, probes), whole)
    assert distances([], probes).shape == (2, 0)
    assert distances([rows], probes[:, :0]).shape == (0, 3000)


def test_the_table_counts_as_the_processor_does(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, probes = words(500, 5), words(2, 6)
    whole = distances([rows], probes)
    monkeypatch.setattr(sketches, "count_bits", sketches.count_bits_by_table)
    assert np.array_equal(distances([rows], probes), whole)
    counts = np.empty(rows.size, np.uint8)
    sketches.count_bits_by_table(rows.reshape(-1), counts)
    assert counts.tolist() == [int(word).bit_count() for word in rows.reshape(-1)]


@pytest.mark.parametrize("shift", [0.0, 0.3, -0.3])
def test_512_numbers_give_their_signs_about_the_mean(shift: float) -> None:
    vectors = unit(300, 512, seed=7, shift=shift)
    vectors[0, :4] = [0.0, -0.0, 6e-8, -6e-8]
    mean = vectors.mean(axis=0, dtype=np.float32).astype(np.float16)
    above = vectors.astype(np.float64) > mean.astype(np.float64)
    found = Sketcher(vectors).sketch(vectors)
    for n in (0, 1, 299):
        bits = np.unpackbits(np.ascontiguousarray(found[:, n]).view(np.uint8)).astype(bool)
        # Dimensions with a negative mean are mirrored: their bit is x < mean.
        assert np.array_equal(bits, np.where(mean >= 0, above[n], vectors[n].astype(float) < mean.astype(float)))


@pytest.mark.parametrize("dimension", [1, 64, 100, 128, 511, 512, 513, 1792])
def test_the_share_of_differing_bits_estimates_the_angle(dimension: int) -> None:
    sample = unit(4096, dimension, seed=8)
    one, other = sample[:200].astype(np.float64), unit(200, dimension, seed=9).astype(np.float64)
    near = one + 0.5 * other
    near = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float16)
    sketcher = Sketcher(sample)
    found = sketcher.sketch(sample[:200])
    assert found.shape == (8, 200) and found.dtype == np.uint64 and found.flags.c_contiguous
    share = np.diag(distances([sketcher.sketch(near)], found)) / N_BITS
    angles = np.arccos(np.clip(np.einsum("ij,ij->i", one, near.astype(np.float64)), -1, 1)) / np.pi
    if dimension > 1:
        assert abs(share.mean() - angles.mean()) < 0.02
    assert (np.diag(distances([found], found)) == 0).all()


def test_the_layout_of_the_vectors_makes_no_difference() -> None:
    for dimension in (96, 512):
        vectors = unit(50, dimension, seed=10)
        sketcher = Sketcher(vectors)
        whole = sketcher.sketch(vectors)
        assert np.array_equal(sketcher.sketch(np.asfortranarray(vectors)), whole)
        assert np.array_equal(sketcher.sketch(np.repeat(vectors, 2, axis=0)[::2]), whole)
        assert np.array_equal(Sketcher(vectors).sketch(vectors), whole)
        assert sketcher.sketch(vectors[:0]).shape == (8, 0)
