"""Tests scaling vectors to unit length against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facespace.metrics.unit_vectors import to_unit_length


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaling_equals_a_loop(dtype: type) -> None:
    vectors = np.random.default_rng(0).normal(size=(7, 5)).astype(dtype)
    scaled = to_unit_length(vectors)
    assert scaled.dtype == dtype
    for row, found in zip(vectors.tolist(), scaled, strict=True):
        length = math.sqrt(sum(value * value for value in row))
        np.testing.assert_allclose(found, [value / length for value in row], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_vector(dtype: type) -> None:
    vector = np.array([3, 0, 4], dtype)
    scaled = to_unit_length(vector)
    assert scaled.dtype == dtype
    assert scaled.tolist() == np.array([0.6, 0, 0.8], dtype).tolist()
    assert vector.tolist() == [3, 0, 4]  # the argument is left alone


def test_vectors_of_length_zero_stay_zero() -> None:
    assert to_unit_length(np.zeros((2, 3), np.float32)).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert to_unit_length(np.zeros(3)).tolist() == [0, 0, 0]
    assert to_unit_length(np.array([[1e-12, 0]]))[0, 0] == pytest.approx(0.01)
    assert to_unit_length(np.array([1e-12, 0]))[0] == pytest.approx(0.01)


def test_nan_stays_nan() -> None:
    assert np.isnan(to_unit_length(np.array([[np.nan, 1.0], [3.0, 4.0]]))).tolist() == [[True, True], [False, False]]
    assert np.isnan(to_unit_length(np.array([np.nan, 1.0]))).all()


def test_no_vectors() -> None:
    assert to_unit_length(np.empty((0, 4), np.float32)).shape == (0, 4)


@pytest.mark.parametrize("shape", [(), (2, 3, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^vectors must be of shape \(N,D\) or \(D,\), got "):
        to_unit_length(np.ones(shape))
