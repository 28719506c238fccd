"""Tests held-out trials, their rates and their probabilities against slow loops and SciPy's minimizer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from facespace.identification.classifier_methods import METHODS, fit
from facespace.identification.held_out import HeldOutTrials, fit_probability, hold_out, probability, rates, reliability
from facespace.identification.open_set import offset
from facespace.metrics.bootstrap import folds_of
from support.calibrations import CALIBRATION
from support.sphere import people, unit

NOBODY = np.empty(0, np.int64)


def few_photos() -> tuple[np.ndarray, np.ndarray]:
    """Return people with 1 to 7 photos in random order; persons 0 and 4 have one photo each."""
    embeddings, owners = people(8, 7, dimension=24, similarity=0.4, seed=3)
    n_photos = np.array([1, 2, 3, 5, 1, 6, 7, 4])
    kept = np.arange(len(owners)) % 7 < n_photos[owners]
    order = np.random.default_rng(4).permutation(np.flatnonzero(kept))
    return embeddings[order], owners[order]


def strangers(owners: np.ndarray, margins: np.ndarray) -> HeldOutTrials:
    return HeldOutTrials(NOBODY, NOBODY, np.empty(0), owners, margins)


def overlapping(n_people: int = 40, n_photos: int = 5, seed: int = 0) -> HeldOutTrials:
    """Return trials whose known people have larger margins on average; every seventh photo is nearest to another person."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n_people), n_photos)
    nearest = np.where(np.arange(len(owner)) % 7 == 3, (owner + 1) % n_people, owner)
    margin = rng.normal(np.where(nearest == owner, 0.25, 0.05), 0.15)
    stranger = np.repeat(np.arange(n_people), n_photos + 2)
    return HeldOutTrials(owner, nearest, margin, stranger, rng.normal(-0.05, 0.15, len(stranger)))


def part(trials: HeldOutTrials, known: np.ndarray, strange: np.ndarray) -> HeldOutTrials:
    return HeldOutTrials(
        trials.owner[known], trials.nearest[known], trials.margin[known],
        trials.stranger[strange], trials.stranger_margin[strange],
    )  # fmt: skip


def template(photos: np.ndarray) -> np.ndarray:
    return unit(photos.astype(np.float64).mean(axis=0))


def threshold(calibration, rate: float, n_photos: list[int], k: int) -> float:
    return 0.0 if calibration is None else float(calibration.identification_thresholds(rate, n_photos)[k])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("calibration", [None, CALIBRATION])
def test_known_people_are_tried_without_their_own_fold(method, calibration):
    embeddings, owners = few_photos()
    found = hold_out(method, embeddings, owners, 8, rate=0.1, calibration=calibration, seed=5)
    folds = folds_of(owners, 5, seed=5)
    slow = []
    for fold in range(5):
        known = sorted({int(owners[k]) for k in range(len(owners)) if folds[k] != fold})
        train = [k for k in range(len(owners)) if folds[k] != fold]
        namer = fit(method, embeddings[train], np.array([known.index(owners[k]) for k in train]), len(known))
        counts = [sum(owners[k] == person for k in train) for person in known]
        for k in range(len(owners)):
            if folds[k] == fold and owners[k] in known:
                person = int(namer.nearest(embeddings[k : k + 1])[0])
                photos = embeddings[[j for j in train if owners[j] == known[person]]]
                similarity = float(template(photos) @ embeddings[k])
                slow.append((owners[k], known[person], similarity - threshold(calibration, 0.1, counts, person)))
    assert {0, 4}.isdisjoint(found.owner), "people with a single photo are not known without it"
    assert len(found.owner) == len(owners) - 2
    owner, nearest, margin = zip(*slow, strict=True)
    np.testing.assert_array_equal(found.owner, owner)
    np.testing.assert_array_equal(found.nearest, nearest)
    np.testing.assert_allclose(found.margin, margin, atol=1e-6)


@pytest.mark.parametrize("calibration", [None, CALIBRATION])
def test_each_person_is_a_stranger_to_all_others(calibration):
    embeddings, owners = few_photos()
    found = hold_out("centroid", embeddings, owners, 8, rate=0.1, calibration=calibration)
    counts = [int((owners == k).sum()) for k in range(8)]
    slow = [
        max(
            float(template(embeddings[owners == other]) @ vector) - threshold(calibration, 0.1, counts, other)
            for other in range(8)
            if other != owner
        )
        for vector, owner in zip(embeddings, owners, strict=True)
    ]
    np.testing.assert_array_equal(found.stranger, owners)
    np.testing.assert_allclose(found.stranger_margin, slow, atol=1e-6)


def test_held_out_photos_are_not_compared_with_themselves():
    """Every photo is unlike all others, so it could be named right only by comparing it with itself."""
    embeddings = unit(np.random.default_rng(0).standard_normal((100, 256)))
    owners = np.repeat(np.arange(20), 5)
    trials = hold_out("centroid", embeddings, owners, 20, rate=0.01, calibration=None)
    assert len(trials.owner) == 100
    assert (trials.owner == trials.nearest).mean() < 0.3
    assert trials.margin.max() < 0.4


def test_a_single_person_has_no_stranger_trials():
    embeddings, owners = people(1, 5)
    trials = hold_out("centroid", embeddings, owners, 1, rate=0.1, calibration=None)
    assert trials.owner.tolist() == trials.nearest.tolist() == [0] * 5
    assert len(trials.stranger) == len(trials.stranger_margin) == 0


def test_rates_of_known_people_by_hand():
    owner, nearest = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 1, 2, 1])
    margin = np.array([0.5, 0.2, 0.3, 0.9, 0.1])
    found = rates(HeldOutTrials(owner, nearest, margin, NOBODY, np.empty(0)), 0.3, 0.01, table=False)
    assert found["closed_set_accuracy"]["share"] == 3 / 5
    assert found["known_named_right"]["share"] == 2 / 5, "a margin of exactly the offset is accepted"
    assert found["known_rejected"]["share"] == 2 / 5
    assert [found[name]["n"] for name in ("closed_set_accuracy", "known_named_right", "known_rejected")] == [5, 5, 5]
    assert found["unknown_detected"] == {"share": None, "low": None, "high": None, "n": 0}


def test_strangers_are_judged_by_what_others_chose():
    """No stranger may be named, so only the two people with the highest margins can exceed the maximum of the others."""
    owners = np.repeat(np.arange(10), 3)
    seen = set()
    for seed in range(30):
        groups = folds_of(np.zeros(10, np.int64), 5, seed=seed)
        named = 2 if groups[8] == groups[9] else 1  # 8 is above all others when 9 is left out
        found = rates(strangers(owners, owners / 10), 0.9, 0.01, table=False, seed=seed)["unknown_detected"]
        assert found["share"] == pytest.approx(1 - named / 10)
        assert found["n"] == 30
        seen.add(named)
    assert seen == {1, 2}


@pytest.mark.parametrize("table", [False, True])
def test_strangers_detected_against_a_loop(table):
    trials = overlapping()
    groups = folds_of(np.zeros(40, np.int64), 5, seed=7)
    detected = []
    for person, margin in zip(trials.stranger, trials.stranger_margin, strict=True):
        others = trials.stranger_margin[groups[trials.stranger] != groups[person]]
        detected.append(margin < offset(others, 0.1, table=table))
    found = rates(trials, 0.0, 0.1, table=table, seed=7)["unknown_detected"]
    assert found["share"] == pytest.approx(sum(detected) / len(detected))
    assert 0 < found["share"] < 1


def test_a_probability_is_the_fit_of_least_loss():
    """Platt 1999 with smoothed targets; known people and strangers have half of the weight each."""
    trials, chosen = overlapping(), 0.1
    right = (trials.nearest == trials.owner).tolist() + [False] * len(trials.stranger)
    margins = [*(trials.margin - chosen), *(trials.stranger_margin - chosen)]
    n_known, n_right = len(trials.owner), sum(right)
    n_wrong = len(right) - n_right

    def loss(line: np.ndarray) -> float:
        total = 0.0
        for k, (x, good) in enumerate(zip(margins, right, strict=True)):
            target = (n_right + 1) / (n_right + 2) if good else 1 / (n_wrong + 2)
            p = 1 / (1 + math.exp(-(line[0] * x + line[1])))
            weight = 0.5 / n_known if k < n_known else 0.5 / len(trials.stranger)
            total -= weight * (target * math.log(p) + (1 - target) * math.log(1 - p))
        return total

    slow = minimize(loss, [5.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12, "maxiter": 2000})
    assert slow.success
    assert fit_probability(trials, chosen) == pytest.approx(tuple(slow.x), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("n_people", "n_known", "n_strangers", "enough"),
    [(10, 50, 50, True), (9, 54, 54, False), (10, 49, 50, False), (10, 50, 49, False), (0, 0, 0, False)],
)
def test_few_photos_or_people_give_no_probability(n_people, n_known, n_strangers, enough):
    rng = np.random.default_rng(0)
    owner, stranger = np.arange(n_known) % max(n_people, 1), np.arange(n_strangers) % max(n_people, 1)
    margin, stranger_margin = rng.normal(0.2, 0.1, n_known), rng.normal(-0.2, 0.1, n_strangers)
    trials = HeldOutTrials(owner, owner, margin, stranger, stranger_margin)
    assert (fit_probability(trials, 0.0) is not None) == enough
    assert reliability(trials, 0.0) == [], "each half has fewer than 10 people"


def test_a_probability_rises_with_the_similarity_or_is_none():
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(20), 5)
    backwards = HeldOutTrials(owners, owners, rng.normal(-1, 0.1, 100), owners, rng.normal(1, 0.1, 100))
    assert fit_probability(backwards, 0.0) is None
    assert reliability(backwards, 0.0) == []
    forwards = HeldOutTrials(owners, owners, rng.normal(1, 0.1, 100), owners, rng.normal(-1, 0.1, 100))
    line = fit_probability(forwards, 0.0)
    assert line is not None
    assert probability(np.array([-1.0, 1.0]), line) == pytest.approx([0, 1], abs=0.05)


def test_a_probability_by_hand_and_without_overflow():
    assert probability(np.array([0.5, -1.5]), (2.0, 1.0)) == pytest.approx(
        [1 / (1 + math.exp(-2)), 1 / (1 + math.e**2)]
    )
    assert probability(np.array([-1e9, 1e9]), (1e9, 0.0)) == pytest.approx([0, 1])


def test_reliability_against_a_loop():
    """Each half of the people is judged by probabilities that were fitted to the other half."""
    trials, chosen, seed = overlapping(), 0.1, 2
    halves = folds_of(np.zeros(40, np.int64), 2, seed=seed)
    rows = []
    for half in range(2):
        own_known, own_strange = halves[trials.owner] == half, halves[trials.stranger] == half
        line = fit_probability(part(trials, ~own_known, ~own_strange), chosen)
        own = part(trials, own_known, own_strange)
        for margin, good in zip(own.margin, own.nearest == own.owner, strict=True):
            rows.append((probability(margin - chosen, line), float(good), 0.25 / len(own.owner)))
        rows += [(probability(x - chosen, line), 0.0, 0.25 / len(own.stranger)) for x in own.stranger_margin]
    found = reliability(trials, chosen, seed=seed)
    bins = [[row for row in rows if k / 10 <= row[0] < (k + 1) / 10] for k in range(10)]
    bins = [inside for inside in bins if inside]
    assert sum(entry["n"] for entry in found) == len(rows)
    assert [entry["n"] for entry in found] == [len(inside) for inside in bins]
    for entry, inside in zip(found, bins, strict=True):
        weight = sum(w for _, _, w in inside)
        assert entry["weight"] == pytest.approx(weight)
        assert entry["predicted"] == pytest.approx(sum(p * w for p, _, w in inside) / weight)
        assert entry["observed"] == pytest.approx(sum(good * w for _, good, w in inside) / weight)
