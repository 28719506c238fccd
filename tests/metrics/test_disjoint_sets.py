"""Tests union-find against Python sets that are joined one after the other."""

from __future__ import annotations

import random

import pytest

from facespace.metrics.disjoint_sets import DisjointSets


@pytest.mark.parametrize("seed", range(8))
def test_sets_equal_plain_python_sets(seed: int) -> None:
    draw, n = random.Random(seed), 60
    sets, plain = DisjointSets(n), [{k} for k in range(n)]
    for _ in range(draw.randrange(80)):
        one, other = draw.randrange(n), draw.randrange(n)
        joined = plain[one] | plain[other]
        for k in joined:
            plain[k] = joined
        assert sets.join(one, other) == min(joined)
    assert sets.smallest().tolist() == [min(group) for group in plain]
    assert [sets.find(k) for k in range(n)] == [min(group) for group in plain]


def test_a_long_chain_is_followed_without_recursion() -> None:
    sets = DisjointSets(100_000)
    for k in range(99_999, 0, -1):
        sets.join(k, k - 1)
    assert not sets.smallest().any()


def test_no_numbers() -> None:
    assert DisjointSets(0).smallest().shape == (0,)
