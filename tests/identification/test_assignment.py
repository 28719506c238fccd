"""Assigns each person at most once in a photo; the oracle tries all assignments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from facespace.identification.assignment import keep_each_name_once, one_face_each
from facespace.identification.classifier import Prediction
from facespace.identification.matching import Match


def best_by_trying(similarity: np.ndarray, thresholds: np.ndarray) -> float:
    """Return the largest sum of (similarity + 2) over all assignments of people whose threshold the face reaches."""
    n, p = similarity.shape
    best = 0.0
    for way in itertools.product(range(-1, p), repeat=n):
        named = [k for k in way if k >= 0]
        if len(set(named)) < len(named):
            continue
        if all(k < 0 or similarity[row, k] >= thresholds[row, k] for row, k in enumerate(way)):
            best = max(best, sum(similarity[row, k] + 2 for row, k in enumerate(way) if k >= 0))
    return best


@pytest.mark.parametrize("seed", range(30))
def test_no_other_way_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(-0.2, 1, (rng.integers(1, 5), rng.integers(1, 4)))
    thresholds = rng.uniform(0, 0.8, similarity.shape)
    chosen = one_face_each(similarity, thresholds)
    named = [(row, k) for row, k in enumerate(chosen.tolist()) if k >= 0]
    assert len({k for _, k in named}) == len(named)
    assert all(similarity[row, k] >= thresholds[row, k] for row, k in named)
    assert sum(similarity[row, k] + 2 for row, k in named) == pytest.approx(best_by_trying(similarity, thresholds))


def test_no_face_reaches_a_threshold() -> None:
    assert one_face_each(np.full((3, 2), 0.1), np.full((3, 2), 0.5)).tolist() == [-1, -1, -1]
    assert one_face_each(np.empty((0, 2)), np.empty((0, 2))).tolist() == []
    assert one_face_each(np.empty((2, 0)), np.empty((2, 0))).tolist() == [-1, -1]


def test_a_face_whose_person_is_taken_gets_another_person_or_none() -> None:
    similarity = np.array([[0.9, 0.2], [0.8, 0.6], [0.7, 0.3]])
    assert one_face_each(similarity, np.full((3, 2), 0.5)).tolist() == [0, 1, -1]


def test_of_several_predictions_of_a_name_the_most_similar_keeps_it() -> None:
    found = [
        Prediction("Ada", 0.5, 0.4, "Ada", None),
        Prediction("Ada", 0.7, 0.4, "Ada", None),
        Prediction(None, 0.1, 0.4, "Bob", None),
        Prediction("Bob", 0.6, 0.4, "Bob", None),
    ]
    kept = keep_each_name_once(found)
    assert [one.name for one in kept] == [None, "Ada", None, "Bob"]
    assert [one.nearest for one in kept] == ["Ada", "Ada", "Bob", "Bob"]
    assert keep_each_name_once([Match("Ada", 0.5, 0.4, "Ada")]) == [Match("Ada", 0.5, 0.4, "Ada")]
