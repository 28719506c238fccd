"""Tests distances of pairs against a loop, and independence of the block size."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from facespace.metrics import distances as module
from facespace.metrics.distances import PairDistances, pair_distances

DISTANCES = ["euclidean", "angle"]


def slow(x, y, mean, distance: str) -> float:
    """Compute the distance of one pair by its definition, in Python floats."""
    a = [float(p) - float(m) for p, m in zip(x, mean, strict=True)]
    b = [float(q) - float(m) for q, m in zip(y, mean, strict=True)]
    if distance == "euclidean":
        return math.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True))
    cosine = math.fsum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
    return math.acos(max(-1.0, min(1.0, cosine))) / math.pi


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.integers(2, 9),
    st.sampled_from(DISTANCES),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
)
def test_distances_equal_a_loop(seed, n_pairs, width, distance, dtype, with_mean):
    rng = np.random.default_rng(seed)
    embeddings = (rng.normal(size=(12, width)) * rng.uniform(0.1, 3, (12, 1))).astype(dtype)
    first, second = rng.integers(12, size=(2, n_pairs))
    mean = rng.normal(size=width) if with_mean else None
    found = pair_distances(embeddings, first, second, distance=distance, mean=mean)
    subtracted = np.zeros(width) if mean is None else mean
    expected = [slow(embeddings[i], embeddings[j], subtracted, distance) for i, j in zip(first, second, strict=True)]
    assert found.dtype == np.float64
    # The oracle's arccosine turns a rounding error of 1e-16 near 1 into 1e-8.
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-7 if distance == "angle" else 1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_blocks_do_not_change_results(monkeypatch, distance, block):
    rng = np.random.default_rng(1)
    embeddings, mean = rng.normal(size=(40, 5)), rng.normal(size=5)
    first, second = rng.integers(40, size=(2, 101))
    whole = pair_distances(embeddings, first, second, distance=distance, mean=mean)
    chosen = np.arange(101) % 3 != np.arange(3)[:, None]
    means = PairDistances(embeddings, first, second).means(chosen)
    monkeypatch.setattr(module, "_BLOCK", block)
    pairs = PairDistances(embeddings, first, second, distance=distance)
    np.testing.assert_allclose(pairs.at(mean), whole, rtol=1e-12)
    np.testing.assert_allclose(pairs.means(chosen), means, rtol=1e-12)


def test_float32_is_computed_in_float64():
    # Far from the origin, float32 products would lose the whole difference, and float32 sums much of it.
    embeddings = (1000 + np.random.default_rng(2).normal(size=(6, 50))).astype(np.float32)
    first, second = np.arange(5), np.arange(1, 6)
    mean = embeddings.astype(np.float64).mean(axis=0)
    for distance in DISTANCES:
        found = pair_distances(embeddings, first, second, distance=distance, mean=mean)
        expected = [slow(embeddings[i], embeddings[i + 1], mean, distance) for i in range(5)]
        np.testing.assert_allclose(found, expected, rtol=1e-7 if distance == "angle" else 1e-13)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_rows_are_exactly_0_apart(distance, dtype):
    once = np.random.default_rng(3).normal(size=(200, 37)).astype(dtype)
    pairs = PairDistances(np.concatenate([once, once]), np.arange(200), np.arange(200, 400), distance=distance)
    for found in (pairs.at(), pairs.at(once.mean(axis=0)), pairs.at(np.full(37, 100.0))):
        assert found.min() >= 0
        assert found.max() == 0


def test_angles_ignore_length_and_stay_within_0_and_1():
    rng = np.random.default_rng(4)
    one = rng.normal(size=(300, 16))
    embeddings = np.concatenate([one, one * rng.uniform(1e-3, 1e3, (300, 1)), -one * rng.uniform(1e-3, 1e3, (300, 1))])
    first = np.arange(300)
    same = pair_distances(embeddings, first, first + 300, distance="angle")
    opposite = pair_distances(embeddings, first, first + 600, distance="angle")
    assert same.min() >= 0
    assert opposite.max() <= 1
    np.testing.assert_allclose(same, 0, atol=1e-6)
    np.testing.assert_allclose(opposite, 1, atol=1e-6)


def test_the_euclidean_distance_is_squared_and_no_mean_moves_it():
    embeddings = np.array([[0.0, 0.0], [3.0, 4.0]])
    for mean in (None, np.array([7.0, -1.0])):
        assert pair_distances(embeddings, np.array([0]), np.array([1]), mean=mean).tolist() == [25.0]


@pytest.mark.parametrize("distance", DISTANCES)
def test_several_means_equal_single_means(distance):
    rng = np.random.default_rng(5)
    pairs = PairDistances(
        rng.normal(size=(9, 4)), rng.integers(9, size=20), rng.integers(9, size=20), distance=distance
    )
    means = rng.normal(size=(3, 4))
    for mean, found in zip(means, pairs.at_each(means), strict=True):
        np.testing.assert_allclose(found, pairs.at(mean), rtol=1e-12)
        found[:] = -1  # writing into one result must not change the others
    assert pairs.at().min() >= 0


def test_means_count_a_photo_as_often_as_it_stands_in_pairs():
    embeddings = np.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0], [np.nan, 0.0], [9.0, 9.0]])
    detected = np.array([True, True, True, False, True])
    pairs = PairDistances(embeddings, np.array([0, 0, 2]), np.array([1, 3, 2]), detected=detected)
    chosen = np.array([[True, True, False], [False, False, True], [True, True, True]])
    found = pairs.means(chosen)
    assert found[0].tolist() == pytest.approx([2 / 3, 1 / 3])  # rows 0, 1, 0; row 3 shows no face
    assert found[1].tolist() == [5.0, 5.0]
    assert found[2].tolist() == pytest.approx([12 / 5, 11 / 5])


@pytest.mark.parametrize("distance", DISTANCES)
def test_undetected_photos_have_infinite_distance_for_any_row(distance):
    embeddings = np.array([[1.0, 0.0], [0.0, 1.0], [np.nan, np.inf], [0.0, 0.0]])
    detected = np.array([True, True, False, False])
    first, second = np.array([0, 0, 2, 3]), np.array([1, 2, 3, 3])
    pairs = PairDistances(embeddings, first, second, distance=distance, detected=detected)
    expected = 2.0 if distance == "euclidean" else 0.5
    assert pairs.at() == pytest.approx([expected, np.inf, np.inf, np.inf])
    assert np.isinf(pairs.at(np.array([0.1, 0.2]))).tolist() == [False, True, True, True]
    assert pairs.found.tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="no face was detected in any photo of these pairs"):
        pairs.means(np.array([[False, False, True, True]]))


def test_rows_of_no_pair_may_contain_anything():
    embeddings = np.array([[1.0, 0.0], [np.nan, 0.0], [0.0, 1.0]])
    assert pair_distances(embeddings, np.array([0]), np.array([2])).tolist() == [2.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("distance", DISTANCES)
def test_rows_that_are_not_finite_are_named(value, distance):
    embeddings = np.ones((8, 3))
    embeddings[[4, 6], 1] = value
    with pytest.raises(ValueError, match=r"^embedding 4 contains NaN, infinity or"):
        pair_distances(embeddings, np.array([6, 0, 1]), np.array([2, 4, 3]), distance=distance)


def test_a_row_without_direction_is_named():
    embeddings = np.array([[1.0, 0.1], [0.0, 0.0], [0.3, 0.7]])
    with pytest.raises(ValueError, match="embedding 1 is zero"):
        pair_distances(embeddings, np.array([0]), np.array([1]), distance="angle")
    with pytest.raises(ValueError, match=r"embedding 2 .* equals the mean"):
        pair_distances(embeddings, np.array([0]), np.array([2]), distance="angle", mean=embeddings[2])
    assert pair_distances(embeddings, np.array([0]), np.array([1])) == pytest.approx([1.01])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": np.ones(4)}, r"must be floats of shape \(N,D\), got float64 \(4,\)"),
        ({"embeddings": np.ones((4, 2), np.int64)}, "must be floats .* got int64"),
        ({"first": np.array([0, 1, 2])}, "first and second must have the same length, got 3 and 2"),
        ({"first": np.array([0, 4])}, "first names row 4 in pair 1; there are embeddings 0 to 3"),
        ({"second": np.array([-1, 0])}, "second names row -1 in pair 0"),
        ({"second": np.array([0.0, 1.0])}, "second must be .* row numbers, got float64"),
        ({"first": np.array([[0, 1]])}, "first must be"),
        ({"first": np.array([]), "second": np.array([])}, "no pairs"),
        ({"distance": "cosine"}, "euclidean or angle, got 'cosine'"),
        ({"detected": np.ones(3, bool)}, r"detected must be \(4,\) booleans, got bool \(3,\)"),
        ({"detected": np.ones(4)}, "detected must be .* got float64"),
    ],
)
def test_inconsistent_arguments_are_refused(change, message):
    fitting = {"embeddings": np.ones((4, 2)), "first": np.array([0, 1]), "second": np.array([2, 3])}
    with pytest.raises(ValueError, match=message):
        PairDistances(**{**fitting, **change})


@pytest.mark.parametrize("mean", [np.zeros(3), np.array([0.0, np.nan]), np.array(1.0)])
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_mean_that_does_not_fit(mean, distance):
    with pytest.raises(ValueError, match="a mean to subtract must be 2 finite numbers"):
        pair_distances(np.ones((2, 2)), np.array([0]), np.array([1]), distance=distance, mean=mean)


def test_memory_does_not_grow_with_pairs_times_width():
    rng = np.random.default_rng(6)
    embeddings = rng.standard_normal((500, 512), dtype=np.float32)
    first, second = rng.integers(500, size=(2, 20_000))
    tracemalloc.start()
    pair_distances(embeddings, first, second, distance="angle", mean=embeddings.mean(axis=0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6  # one side of the pairs alone would be 41 MB
