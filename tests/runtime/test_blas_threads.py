"""Tests that BLAS uses one thread while there are users, and all of its threads afterwards."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from facespace.runtime.blas_threads import one_blas_thread


def n_threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return {one["num_threads"] for one in ThreadpoolController().info() if one["user_api"] == "blas"}


def test_users_may_overlap_in_any_order() -> None:
    before = n_threads()
    first, second = one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert n_threads() == {1}
    second.__exit__(None, None, None)
    assert n_threads() == before


def test_an_error_restores_the_threads() -> None:
    before = n_threads()
    with pytest.raises(ValueError, match="no"), one_blas_thread():
        raise ValueError("no")
    assert n_threads() == before
