"""Templates, margins and offsets against slow loops and the definition of a rate."""

from __future__ import annotations

import numpy as np
import pytest

from facespace.identification.open_set import held_out_margins, offset, templates
from facespace.metrics.bootstrap import folds_of, share
from support.sphere import people, unit


def test_templates_are_means_of_length_one():
    embeddings, owners = people(5, 3)
    order = np.random.default_rng(1).permutation(len(owners))
    found = templates(owners[order], embeddings[order], 5)
    for k in range(5):
        np.testing.assert_allclose(found[k], unit(embeddings[owners == k].sum(axis=0)), atol=1e-6)


def test_a_person_without_photos_has_a_template_of_zeros():
    found = templates(np.array([0, 2]), np.eye(2, dtype=np.float32), 4)
    assert found[[1, 3]].tolist() == [[0, 0], [0, 0]]
    assert found[2].tolist() == [0, 1]
    assert templates(np.empty(0, np.int64), np.empty((0, 4), np.float32), 0).shape == (0, 4)


def test_photos_that_cancel_give_no_nan():
    assert np.isfinite(templates(np.array([0, 0]), np.array([[1, 0], [-1, 0]], np.float32), 1)).all()


def test_held_out_margins_against_a_loop(monkeypatch):
    monkeypatch.setattr("facespace.identification.open_set._BLOCK_ROWS", 7)
    embeddings, owners = people(6, 4)
    vectors, thresholds = templates(owners, embeddings, 6), np.linspace(0.1, 0.6, 6)
    slow = [
        max(float(row @ vectors[k]) - thresholds[k] for k in range(6) if k != owner)
        for row, owner in zip(embeddings, owners, strict=True)
    ]
    np.testing.assert_allclose(held_out_margins(embeddings, owners, vectors, thresholds), slow, atol=1e-6)


def test_a_single_person_has_no_strangers():
    embeddings, owners = people(1, 3)
    assert np.isneginf(held_out_margins(embeddings, owners, templates(owners, embeddings, 1), np.zeros(1))).all()


@pytest.mark.parametrize("rate", [0.01, 0.02, 0.25])
def test_an_offset_names_that_share(rate):
    margins = np.random.default_rng(0).standard_normal(1000)
    assert (margins >= offset(margins, rate, table=False)).sum() == round(1000 * rate)


def test_too_few_strangers_may_none_be_named():
    margins = np.array([0.1, 0.3, 0.2])
    chosen = offset(margins, 0.01, table=False)
    assert 0.3 < chosen < 0.3001
    # With a table, three strangers have almost no weight.
    assert abs(offset(margins, 0.01, table=True)) < 0.001
    assert offset(np.array([-np.inf]), 0.01, table=False) == 0.0


def test_own_photos_outweigh_the_table_as_they_become_many():
    rng = np.random.default_rng(0)
    shifted = [offset(rng.standard_normal(n) + 5, 0.01, table=True) for n in (100, 2_000, 200_000)]
    assert shifted[0] < 1 < shifted[1] < shifted[2]
    assert shifted[2] == pytest.approx(7.3, abs=0.2)


def test_a_rate_is_a_share():
    for rate in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="must be between 0 and 1, got"):
            offset(np.zeros(3), rate, table=False)


def test_a_share_and_its_interval():
    flags = np.tile([True, True, True, False], 25)
    found = share(flags, np.arange(100))
    assert found["share"] == 0.75
    assert found["n"] == 100
    # Binomial: 0.75 +- 1.96 * sqrt(0.75 * 0.25 / 100).
    assert found["low"] == pytest.approx(0.665, abs=0.02)
    assert found["high"] == pytest.approx(0.835, abs=0.02)


def test_few_people_widen_the_interval():
    flags = np.repeat([True, True, True, False], 25)
    wide, narrow = share(flags, np.repeat(np.arange(4), 25)), share(flags, np.arange(100))
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


def test_no_faces_have_no_share():
    assert share(np.empty(0, bool), np.empty(0, np.int64)) == {"share": None, "low": None, "high": None, "n": 0}


def test_no_error_is_not_certainty():
    assert share(np.zeros(30, bool), np.arange(30))["high"] == pytest.approx(1 - 0.05 ** (1 / 30))


def test_folds_spread_each_person_evenly():
    owners = np.array([0] * 10 + [1] * 3 + [2])
    folds = folds_of(owners, 5)
    assert sorted(folds[:10].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert sorted(folds[10:13].tolist()) == [0, 1, 2]
    assert folds[13] == 0
    assert (folds_of(owners, 5, seed=1) != folds).any()
    np.testing.assert_array_equal(folds_of(owners, 5), folds)
