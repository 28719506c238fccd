"""Tests the bootstrap over people against repeating every pair as often as drawn, and against known properties."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from facespace.metrics import bootstrap as intervals
from facespace.metrics.bootstrap import bootstrap
from facespace.metrics.verification import FAR_TARGETS, exact_roc


def random_people(seed: int, n_people: int = 12, n_pairs: int = 80, *, spread: float = 0.3, ties: bool = False):
    """Return distances of pairs of people, some harder to recognise than others; half of the pairs are same."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, spread, n_people)
    first = rng.integers(n_people, size=n_pairs)
    same = np.arange(n_pairs) % 2 == 0
    second = np.where(same, first, (first + rng.integers(1, n_people, n_pairs)) % n_people)
    distances = np.where(same, 1, 1.8) + np.where(same, hard[first], -(hard[first] + hard[second]) / 2)
    distances += rng.normal(0, 0.3, n_pairs)
    if ties:
        distances = np.round(distances * 5) / 5
    return distances, same, first, second


def judged(distances, same) -> dict[str, np.ndarray]:
    return {"correct": (distances < 1.4) == same}


def estimates(distances, same, correct, targets) -> dict[str, float]:
    """Return the same figures for pairs of weight 1."""
    roc = exact_roc(distances, same)
    figures = {"accuracy": correct.mean(), "auc": roc.auc(), "eer": roc.eer()}
    for target in targets:
        impostors = np.sort(distances[~same])
        threshold = impostors[int(np.floor(float(target) * len(impostors) + 1e-9))]
        figures[f"val@{target}"] = np.mean(distances[same] < threshold)
    return figures


def written_out(seed, level, n_replicates, distances, same, first, second, correct, targets):
    """Compute the bootstrap by its definition: draw people, and repeat each pair as often as its people were drawn."""
    rng = np.random.default_rng(seed)
    people = sorted({*first.tolist(), *second.tolist()})
    replicates = []
    for _ in range(n_replicates):
        drawn = [people[k] for k in rng.integers(len(people), size=len(people))]
        times = [
            drawn.count(p) if s else drawn.count(p) * drawn.count(q)
            for p, q, s in zip(first.tolist(), second.tolist(), same, strict=True)
        ]
        rows = np.repeat(np.arange(len(same)), times)
        if same[rows].all() or not same[rows].any():
            continue
        figures = estimates(distances[rows], same[rows], correct[rows], targets)
        kinds = [correct[rows][same[rows] == kind].mean() for kind in (True, False)]
        figures["accuracy"] = kinds[0] * same.mean() + kinds[1] * (1 - same.mean())
        replicates.append(figures)
    return {
        name: tuple(np.quantile([r[name] for r in replicates], [(1 - level) / 2, (1 + level) / 2]))
        for name in replicates[0]
    }


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.0, 0.15, 0.8]), st.sampled_from([0.5, 0.95]))
def test_intervals_equal_writing_out_every_pair(seed, ties, undetected, level):
    distances, same, first, second = random_people(seed, 10, 90, ties=ties)
    people = first * 7 - 20, second * 7 - 20  # numbers only identify people
    distances[np.random.default_rng(seed).random(90) < undetected] = np.inf
    correct = ((distances < 1.4) == same) & np.isfinite(distances)
    keep = np.append(np.arange(60), np.arange(61, 90, 2))  # not as many same as different pairs
    data = [values[keep] for values in (distances, same, *people)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "_MOST", 12)
        found = bootstrap(*data, correct=correct[keep], targets=["1e-1"], level=level, seed=seed)
    expected = written_out(seed, level, 12, *data, correct[keep], ["1e-1"])
    assert list(found) == list(expected) == ["accuracy", "auc", "eer", "val@1e-1"]
    for name, ends in expected.items():
        assert found[name] == pytest.approx(ends, abs=1e-9), name


def test_only_people_in_pairs_are_drawn():
    distances, same, first, second = random_people(1)
    numbers = np.sort(np.random.default_rng(1).choice(10**9, 12, replace=False))
    found = bootstrap(distances, same, first, second, **judged(distances, same))
    assert bootstrap(distances, same, numbers[first], numbers[second], **judged(distances, same)) == found


def test_the_seed_decides():
    pairs = random_people(2)
    correct = judged(*pairs[:2])
    first = bootstrap(*pairs, **correct, seed=3)
    assert bootstrap(*pairs, **correct, seed=3) == first
    assert bootstrap(*pairs, **correct, seed=4) != first
    assert bootstrap(*pairs, **correct) == bootstrap(*pairs, **correct, seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_the_estimate_is_inside_and_the_interval_within_what_is_possible(seed):
    distances, same, first, second = random_people(seed, 60, 2000)
    correct = judged(distances, same)["correct"]
    found = bootstrap(distances, same, first, second, correct=correct)
    expected = estimates(distances, same, correct, ["1e-1", "1e-2", "1e-3"])
    assert list(found) == list(expected)
    for name, (low, high) in found.items():
        assert 0 <= low <= expected[name] <= high <= 1, name
        assert low < high
    narrower = bootstrap(distances, same, first, second, correct=correct, level=0.5)
    assert all(found[name][0] < narrower[name][0] < narrower[name][1] < found[name][1] for name in found)


def width(interval: tuple[float, float]) -> float:
    return interval[1] - interval[0]


def test_more_people_make_it_narrower():
    widths = []
    for n_people in (15, 150, 1500):
        distances, same, first, second = random_people(5, n_people, 3000)
        found = bootstrap(distances, same, first, second, **judged(distances, same))
        widths.append([width(found[name]) for name in ("accuracy", "auc", "eer", "val@1e-1")])
    assert (np.diff(widths, axis=0) < 0).all()


def test_few_people_in_many_pairs_give_wider_intervals_than_pairs():
    distances, same, first, second = random_people(6, 15, 3000)
    correct = judged(distances, same)["correct"]
    over_people = bootstrap(distances, same, first, second, correct=correct)
    rng = np.random.default_rng(0)
    over_pairs = []
    for _ in range(200):
        drawn = rng.integers(3000, size=3000)
        over_pairs.append(list(estimates(distances[drawn], same[drawn], correct[drawn], ["1e-1"]).values()))
    low, high = np.quantile(over_pairs, [0.025, 0.975], axis=0)
    for name, narrow in zip(("accuracy", "auc", "eer", "val@1e-1"), high - low, strict=True):
        assert width(over_people[name]) > 2 * narrow, name


def test_people_of_one_pair_each_are_at_most_root_3_wider_than_pairs():
    n = np.arange(3000)
    distances, same, _, _ = random_people(10, 3000, 3000)
    correct = judged(distances, same)["correct"]
    found = width(bootstrap(distances, same, n, np.where(same, n, n + 3000), correct=correct, targets=[])["accuracy"])
    of_same, of_different = ((kind.sum() / 3000) ** 2 * correct[kind].var() / kind.sum() for kind in (same, ~same))
    assert found == pytest.approx(2 * 1.96 * np.sqrt(of_same + 3 * of_different), rel=0.15)


def test_an_interval_contains_the_truth_about_as_often_as_its_level(monkeypatch):
    monkeypatch.setattr(intervals, "_MOST", 200)
    everybody = random_people(100, 4000, 200_000)
    truth = estimates(*everybody[:2], judged(*everybody[:2])["correct"], ["1e-1"])
    held = dict.fromkeys(truth, 0)
    for seed in range(100):
        distances, same, first, second = random_people(seed, 40, 400)
        found = bootstrap(distances, same, first, second, **judged(distances, same), targets=["1e-1"], level=0.9)
        for name, (low, high) in found.items():
            held[name] += low <= truth[name] <= high
    assert all(80 <= times <= 99 for times in held.values()), held


def test_targets_too_rare_for_the_pairs_are_left_out():
    distances, same, first, second = random_people(7, 30, 200)
    correct = judged(distances, same)
    assert list(bootstrap(distances, same, first, second, **correct)) == [
        "accuracy", "auc", "eer", "val@1e-1", "val@1e-2",
    ]  # fmt: skip
    assert list(bootstrap(distances, same, first, second, **correct, targets=["1e-2"]))[3:] == ["val@1e-2"]
    assert list(bootstrap(distances[:-2], same[:-2], first[:-2], second[:-2], correct=correct["correct"][:-2]))[3:] == [
        "val@1e-1"
    ]


def test_the_targets_are_those_of_the_evaluation():
    assert inspect.signature(bootstrap).parameters["targets"].default == FAR_TARGETS


def test_unknown_people_have_no_intervals():
    distances, same, first, second = random_people(8)
    assert bootstrap(distances, same, None, second, **judged(distances, same)) == {}
    assert bootstrap(distances, same, first, None, **judged(distances, same)) == {}


def test_replicates_without_one_kind_are_left_out():
    # With two people, half of the draws repeat one person and have no pair of different people.
    distances, same = np.array([0.1, 0.2, 0.3]), np.array([True, True, False])
    found = bootstrap(distances, same, np.array([0, 1, 0]), np.array([0, 1, 1]), correct=np.array([True, False, True]))
    assert found == {"accuracy": (pytest.approx(2 / 3),) * 2, "auc": (1, 1), "eer": (0, 0)}
    # No two people share pairs of both kinds: only the draw with all three has both kinds.
    found = bootstrap(distances, same, np.array([0, 0, 1]), np.array([0, 0, 2]), correct=np.ones(3, bool))
    assert found["accuracy"] == (1, 1)


def test_many_pairs_take_fewer_replicates(monkeypatch):
    calls = []
    original = intervals._Pairs.figures
    monkeypatch.setattr(intervals._Pairs, "figures", lambda self, weights: calls.append(1) or original(self, weights))
    pairs = random_people(9)
    for work, expected in ((10**9, 1000), (40_000, 500), (1, 200)):
        monkeypatch.setattr(intervals, "_WORK", work)
        calls.clear()
        bootstrap(*pairs, **judged(*pairs[:2]))
        assert len(calls) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"same": np.ones(4, bool)}, "pairs of the same person and pairs of different people"),
        ({"same": np.zeros(4, bool)}, "pairs of the same person and pairs of different people"),
        ({"same": np.array([1, 0, 1, 0])}, "must be booleans, got int64 and bool"),
        ({"correct": np.ones(4)}, "must be booleans, got bool and float64"),
        ({"correct": np.ones(3, bool)}, "their lengths differ"),
        ({"distances": np.ones(5)}, "their lengths differ"),
        ({"person_first": np.array([0, 0, 1])}, "their lengths differ"),
        ({"distances": np.array([0.0, 1, np.nan, 1])}, "distance of pair 2 is NaN"),
        ({"person_second": np.array([0, 1, 1, 1])}, "pair 3 is labelled different, but its people are not"),
        ({"person_second": np.array([0, 1, 2, 2])}, "pair 2 is labelled same, but its people are not"),
        ({"level": 1.0}, "level must be between 0 and 1, got 1.0"),
        ({"level": 0.0}, "level must be between 0 and 1"),
    ],
)
def test_inconsistent_arguments_are_refused(change, message):
    fitting = {
        "distances": np.array([0.1, 0.2, 0.3, 0.4]),
        "same": np.array([True, False, True, False]),
        "person_first": np.array([0, 0, 1, 1]),
        "person_second": np.array([0, 1, 1, 2]),
        "correct": np.ones(4, bool),
    }
    bootstrap(**fitting)
    with pytest.raises(ValueError, match=message) as caught:
        bootstrap(**{**fitting, **change})
    assert "\n" not in str(caught.value)
