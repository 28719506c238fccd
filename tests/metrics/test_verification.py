"""Tests the evaluation of pairs against results of the 2018 program, and against loops over pairs and thresholds."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from facespace.metrics.distances import pair_distances
from facespace.metrics.verification import FAR_TARGETS, GRID, Rate, Roc, choose_threshold, evaluate, exact_roc

DISTANCES = ["euclidean", "angle"]


def mean_of(values) -> float:
    return math.fsum(values) / len(values)


def slow_matches(distances, chosen, threshold) -> float:
    """Return the share of the chosen pairs that are closer than the threshold."""
    picked = [d for d, expected in zip(distances, chosen, strict=True) if expected]
    return sum(d < threshold for d in picked) / len(picked)


def slow_accuracy(distances, same, found, chosen, threshold) -> float:
    right = [f and (d < threshold) == s for d, s, f, c in zip(distances, same, found, chosen, strict=True) if c]
    return sum(right) / len(right)


def slow_far_threshold(impostors, target: float) -> float | None:
    """Return the largest distance usable as threshold without exceeding the target; None if that target is less than one pair."""
    if target * len(impostors) < 1 - 1e-9:
        return None
    fitting = [t for t in impostors if sum(d < t for d in impostors) / len(impostors) <= target + 1e-12]
    return max(fitting)


def slow_auc(distances, same) -> float:
    """Return how often a same pair is closer than a different pair; ties count half."""
    wins = [(a < b) + (a == b) / 2 for a, s in zip(distances, same, strict=True) if s
            for b, t in zip(distances, same, strict=True) if not t]  # fmt: skip
    return mean_of(wins)


def slow_eer(points) -> float:
    """Find the equal error rate by bisection along a polyline closed at (1, 1)."""
    points = [*points, (1.0, 1.0)]

    def at(s: float) -> tuple[float, float]:
        k = min(int(s), len(points) - 2)
        (x0, y0), (x1, y1) = points[k], points[k + 1]
        return x0 + (s - k) * (x1 - x0), y0 + (s - k) * (y1 - y0)

    low, high = 0.0, len(points) - 1.0
    for _ in range(200):
        middle = (low + high) / 2
        x, y = at(middle)
        low, high = (middle, high) if 1 - x - y > 0 else (low, middle)
    return at(high)[0]


def random_pairs(seed: int, n_pairs: int = 60, *, ties: bool = False, n_photos: int = 40):
    """Return embeddings with some structure, pairs of both kinds in three folds, and some photos without a face."""
    rng = np.random.default_rng(seed)
    person = np.arange(n_photos) // 4
    embeddings = rng.normal(size=(n_photos // 4 + 1, 3))[person] * 0.5 + rng.normal(size=(n_photos, 3)) * 0.3
    if ties:
        embeddings = np.round(embeddings * 2) / 2 + [0.25, 0.5, 2]
    same = np.arange(n_pairs) % 2 == 0
    first = rng.integers(n_photos, size=n_pairs)
    second = np.where(
        same, first // 4 * 4 + (first + 1) % 4, (first + rng.integers(4, n_photos - 4, n_pairs)) % n_photos
    )
    fold = np.arange(n_pairs) // 2 % 3 * 10 - 7
    detected = rng.random(n_photos) > 0.1
    return embeddings, first, second, same, fold, detected


@pytest.mark.shared
@pytest.mark.parametrize("case", range(4))
def test_figures_equal_the_2018_program(shared, case):
    golden = json.loads((shared / "golden/metrics_golden.json").read_text())["cases"][case]
    inputs = np.load(shared / "golden/metrics_inputs.npz")
    embeddings = np.concatenate([inputs["embeddings1"], inputs["embeddings2"]])
    pair = np.arange(1200)
    found = evaluate(
        embeddings,
        pair,
        pair + 1200,
        inputs["is_same"],
        fold=pair // 120,
        distance=DISTANCES[golden["distance_metric"]],
        subtract_mean=golden["subtract_mean"],
    )
    assert found.fold_accuracies == pytest.approx(golden["accuracy_per_fold"], abs=1e-9)
    assert found.accuracy == pytest.approx(golden["accuracy_mean"], abs=1e-9)
    assert found.accuracy_std == pytest.approx(golden["accuracy_std"], abs=1e-9)
    assert found.auc == pytest.approx(golden["auc"], abs=1e-9)
    assert found.eer == pytest.approx(golden["eer"], abs=1e-9)
    assert found.threshold_source == "folds"


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(DISTANCES), st.booleans(), st.booleans(), st.booleans())
def test_folds_equal_loops(seed, distance, subtract_mean, ties, all_found):
    # Another rounding of the mean separates equal angles, but not differences.
    ties = ties and (distance == "euclidean" or not subtract_mean)
    embeddings, first, second, same, fold, detected = random_pairs(seed, ties=ties)
    if all_found:
        detected[:] = True
    given_rows = np.where(detected[:, None], embeddings, np.nan)
    options = {"fold": fold, "distance": distance, "subtract_mean": subtract_mean, "detected": detected}
    result = evaluate(given_rows, first, second, same, **options)
    found = detected[first] & detected[second]
    curves, by_target = [], {target: [] for target in FAR_TARGETS}
    for k, name in enumerate([-7, 3, 13]):
        test, training = fold == name, fold != name
        mean = None
        if subtract_mean:
            rows = [r for p in np.flatnonzero(training) for r in (first[p], second[p]) if detected[r]]
            mean = np.array([mean_of([embeddings[r][d] for r in rows]) for d in range(3)])
        at = pair_distances(embeddings, first, second, distance=distance, mean=mean)
        at = np.where(found, at, np.inf)
        on_grid = [slow_accuracy(at, same, found, training, t) for t in GRID]
        threshold = GRID[on_grid.index(max(on_grid))]
        assert result.fold_thresholds[k] == threshold
        assert result.fold_accuracies[k] == pytest.approx(slow_accuracy(at, same, found, test, threshold))
        np.testing.assert_allclose(result.distances[test], at[test], rtol=1e-9)
        expected = [f and (d < threshold) == s for d, s, f in zip(at, same, found, strict=True)]
        assert result.correct[test].tolist() == np.array(expected)[test].tolist()
        curves.append([[slow_matches(at, test & kind, t) for t in GRID] for kind in (~same, same)])
        for target in FAR_TARGETS:
            t = slow_far_threshold(at[training & ~same].tolist(), float(target))
            if t is not None:
                by_target[target].append((slow_matches(at, test & same, t), slow_matches(at, test & ~same, t), t))
    far, val = np.mean(curves, axis=0)
    np.testing.assert_allclose(result.mean_roc.far, far, atol=1e-12)
    np.testing.assert_allclose(result.mean_roc.val, val, atol=1e-12)
    assert result.eer == pytest.approx(slow_eer(list(zip(far, val, strict=True))), abs=1e-9)
    assert result.accuracy == pytest.approx(mean_of(result.fold_accuracies))
    assert result.threshold == pytest.approx(mean_of(result.fold_thresholds))
    spread = mean_of([(a - result.accuracy) ** 2 for a in result.fold_accuracies])
    assert result.accuracy_std == pytest.approx(math.sqrt(spread))
    assert list(result.val) == list(FAR_TARGETS)
    for target, rate in result.val.items():
        assert (rate.value is None) == (len(by_target[target]) == 0)
        if rate.value is not None:
            expected = np.array(by_target[target])
            assert (rate.value, rate.far) == pytest.approx(tuple(expected.mean(axis=0)[:2]))
            assert rate.std == pytest.approx(expected[:, 0].std())
            assert rate.threshold == pytest.approx(expected[:, 2].mean(), rel=1e-9)
    assert result.exact_auc == pytest.approx(slow_auc(result.distances, same))
    assert (result.n_same, result.n_different, result.undetected) == (30, 30, int((~found).sum()))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(DISTANCES), st.booleans(), st.booleans())
def test_without_folds_figures_equal_loops(seed, distance, subtract_mean, ties):
    embeddings, first, second, same, _, detected = random_pairs(seed, 80, ties=ties)
    options = {"distance": distance, "subtract_mean": subtract_mean, "detected": detected}
    result = evaluate(embeddings, first, second, same, **options)
    found = detected[first] & detected[second]
    everything = np.ones(80, bool)
    on_grid = [slow_accuracy(result.distances, same, found, everything, t) for t in GRID]
    assert (result.accuracy, result.threshold) == (pytest.approx(max(on_grid)), GRID[on_grid.index(max(on_grid))])
    assert result.threshold_source == "same pairs"
    assert (result.accuracy_std, result.mean_roc) == (None, None)
    assert (result.fold_accuracies, result.fold_thresholds) == ((), ())
    thresholds = [*sorted({d for d in result.distances if d < np.inf}), np.inf]
    points = [(slow_matches(result.distances, ~same, t), slow_matches(result.distances, same, t)) for t in thresholds]
    assert result.roc.threshold.tolist() == thresholds
    np.testing.assert_allclose(np.transpose([result.roc.far, result.roc.val]), points, atol=1e-12)
    assert result.auc == result.exact_auc == pytest.approx(slow_auc(result.distances, same))
    assert result.eer == result.exact_eer == pytest.approx(slow_eer(points), abs=1e-9)
    for target in FAR_TARGETS:
        t = slow_far_threshold(result.distances[~same].tolist(), float(target))
        rate = result.val[target]
        if t is None:
            assert rate == Rate(reason=rate.reason)
            continue
        expected = slow_matches(result.distances, same, t), slow_matches(result.distances, ~same, t)
        assert (rate.value, rate.far) == pytest.approx(expected)
        assert (rate.threshold, rate.std) == (t, None)
        assert rate.far <= float(target)
        assert rate.fnmr == pytest.approx(1 - expected[0])
    assert list(result.fmr_table) == list(FAR_TARGETS[1:])
    assert all(result.fmr_table[target] == result.val[target] for target in FAR_TARGETS[1:])


def on_a_line(same_distances, different_distances):
    """Return pairs with exactly these squared distances: a photo at the origin and one at the root of each."""
    distances = np.array([*same_distances, *different_distances], np.float64)
    embeddings = np.append(np.sqrt(distances), 0.0)[:, None]
    same = np.arange(len(distances)) < len(same_distances)
    return embeddings, np.full(len(distances), len(distances)), np.arange(len(distances)), same


def test_a_pair_at_the_threshold_does_not_match():
    pairs = on_a_line([0.25], [0.25])
    assert evaluate(*pairs, threshold=0.25).correct.tolist() == [False, True]
    assert evaluate(*pairs, threshold=np.nextafter(0.25, 1)).correct.tolist() == [True, False]
    # On the grid no threshold below is correct, so the first best threshold is the one that lets 0.25 match.
    result = evaluate(*on_a_line([0.25], [1.0]))
    assert (result.threshold, result.accuracy) == (GRID[26], 1.0)


def test_val_at_far_among_equal_impostors():
    # Of 20 impostors two may match at 1e-1. The third smallest is one of four at 1, so a threshold above 1 would let
    # five match; at 1 itself only the one below matches.
    different = [0.25, 1, 1, 1, 1, *[4] * 15]
    result = evaluate(*on_a_line([0.0625, 0.25, 1, 2.25], different))
    assert result.val["1e-1"] == Rate(value=0.5, std=None, far=0.05, threshold=1.0)
    assert result.val["1e-2"].reason == "needs at least 100 pairs of different people; there are 20"
    # If all impostors are equal, none may match, because one more would be all of them.
    rate = evaluate(*on_a_line([0.25, 1, 4], [1] * 10)).val["1e-1"]
    assert (rate.value, rate.far, rate.threshold) == (pytest.approx(1 / 3), 0.0, 1.0)


@pytest.mark.parametrize(
    ("n", "target"), [(10, "1e-1"), (100, "1e-2"), (1000, "1e-3"), (3000, "1e-3"), (10000, "1e-4")]
)
def test_a_target_is_supported_from_one_pair_on(n, target):
    for length, supported in ((n, True), (round(1 / float(target)) - 1, False)):
        rate = evaluate(*on_a_line([0.25], np.arange(1, length + 1))).val[target]
        assert (rate.reason is None) == supported
        if supported:
            assert rate.far == pytest.approx(float(target))


def test_with_folds_the_other_folds_impostors_must_suffice():
    same, different = [0.01] * 4, np.linspace(1, 2, 20)
    pairs = on_a_line(same, different)
    fold = np.array([0, 0, 1, 1, *[0] * 11, *[1] * 9])
    reasons = {target: rate.reason for target, rate in evaluate(*pairs, fold=fold).val.items()}
    assert reasons["1e-1"] == "needs at least 10 pairs of different people outside each fold; there are 9"
    assert evaluate(*pairs).val["1e-1"].reason is None
    assert evaluate(*pairs, fold=np.array([0, 0, 1, 1, *[0] * 10, *[1] * 10])).val["1e-1"].reason is None
    assert evaluate(*pairs, fold=fold).fmr_table["1e-2"].reason.endswith("100 pairs of different people; there are 20")


def test_held_out_pairs_do_not_affect_their_threshold():
    # Each fold has a perfect threshold of its own; judged by the other's it loses.
    embeddings, first, second, same = on_a_line([0.01, 1.0], [0.25, 2.25])
    fold = np.array([0, 1, 0, 1])
    result = evaluate(embeddings, first, second, same, fold=fold)
    assert result.fold_thresholds == (GRID[101], GRID[2])
    assert result.fold_accuracies == (0.5, 0.5)


def test_undetected_pairs_are_errors_of_both_kinds():
    embeddings, first, second, same = on_a_line([0.01, 0.01, 0.01, 0.01], [1.0, 1.0, 1.0, 1.0])
    detected = np.ones(9, bool)
    assert evaluate(embeddings, first, second, same, detected=detected).accuracy == 1
    detected[[3, 7]] = False
    result = evaluate(embeddings, first, second, same, threshold=0.5, detected=detected)
    assert result.accuracy == 6 / 8
    assert result.correct.tolist() == [True, True, True, False] * 2
    assert result.undetected == 2
    assert np.isinf(result.distances).tolist() == [False, False, False, True] * 2
    # Three same pairs and three different pairs can match; the denominators stay.
    assert (result.roc.val[-1], result.roc.far[-1]) == (0.75, 0.75)
    assert result.exact_auc == pytest.approx(slow_auc(result.distances, same))
    assert result.exact_eer == pytest.approx(0.25)  # on the level from (0, 0.75) to (0.75, 0.75)


def test_undetected_photos_are_in_no_mean():
    embeddings, first, second, same, fold, detected = random_pairs(7)
    options = {"distance": "angle", "subtract_mean": True, "detected": detected}
    for fold_option in ({}, {"fold": fold}):
        zeros = evaluate(np.where(detected[:, None], embeddings, 0), first, second, same, **options, **fold_option)
        huge = evaluate(np.where(detected[:, None], embeddings, 1e9), first, second, same, **options, **fold_option)
        assert zeros.distances.tolist() == huge.distances.tolist()
        assert np.isinf(zeros.distances).any()
        assert zeros.accuracy == huge.accuracy


def test_no_face_detected():
    embeddings, first, second, same = on_a_line([0.01], [1.0])
    result = evaluate(embeddings, first, second, same, detected=np.zeros(3, bool))
    assert (result.accuracy, result.auc, result.eer) == (0.0, 0.5, 0.5)
    with pytest.raises(ValueError, match="no face was detected in any photo of these pairs"):
        evaluate(embeddings, first, second, same, subtract_mean=True, detected=np.zeros(3, bool))


def test_a_threshold_and_mean_given_are_used():
    embeddings, first, second, same, _, _ = random_pairs(8)
    mean = np.array([0.4, -0.2, 0.1])
    for distance in DISTANCES:
        result = evaluate(embeddings, first, second, same, distance=distance, threshold=0.3, mean=mean)
        distances = pair_distances(embeddings, first, second, distance=distance, mean=mean)
        assert result.distances.tolist() == distances.tolist()
        assert result.accuracy == np.mean((distances < 0.3) == same)
        assert (result.threshold, result.threshold_source) == (0.3, "given")
        assert result.mean.tolist() == mean.tolist()
        # A given mean is subtracted even if subtract_mean is set.
        again = evaluate(embeddings, first, second, same, distance=distance, subtract_mean=True, mean=mean)
        assert again.distances.tolist() == distances.tolist()
    own = evaluate(embeddings, first, second, same, distance="angle", subtract_mean=True)
    assert own.mean == pytest.approx(np.concatenate([embeddings[first], embeddings[second]]).mean(axis=0))
    assert evaluate(embeddings, first, second, same).mean is None
    assert evaluate(embeddings, first, second, same, fold=np.arange(60) // 6, subtract_mean=True).mean is None


def test_the_table_with_folds_is_of_all_pairs_at_once():
    rng = np.random.default_rng(9)
    n = 600
    pairs = on_a_line(rng.uniform(0, 2, n), rng.uniform(1, 3, n))
    result = evaluate(*pairs, fold=np.arange(2 * n) % 5)
    assert result.fmr_table == evaluate(*pairs).fmr_table
    assert result.fmr_table["1e-2"].far == pytest.approx(0.01)
    assert result.fmr_table["1e-2"].std is None
    assert result.val["1e-2"].std > 0


@pytest.mark.parametrize(
    ("points", "eer", "auc"),
    [
        ([(0, 0), (0, 1)], 0.0, 1.0),  # perfect
        ([(0, 0)], 0.5, 0.5),  # random
        ([(0, 0), (1, 0)], 1.0, 0.0),  # all wrong
        ([(0, 0), (0.3, 0), (0.3, 1)], 0.3, 0.7),  # on a vertical
        ([(0, 0), (0, 0.8), (1, 0.8)], 0.2, 0.8),  # on a level
        ([(0, 0), (0.1, 0.5), (0.3, 0.9)], 0.1 + 0.2 * 0.4 / 0.6, 0.025 + 0.14 + 0.665),  # on a slope
        ([(0, 0), (0.25, 0.75), (0.5, 1)], 0.25, 0.09375 + 0.21875 + 0.5),  # in a corner
    ],
)
def test_equal_error_and_area_of_drawn_curves(points, eer, auc):
    far, val = np.array(points, np.float64).T
    roc = Roc(far, val, np.arange(len(points), dtype=np.float64))
    assert roc.eer() == pytest.approx(eer, abs=1e-12)
    assert roc.eer() == pytest.approx(slow_eer(points), abs=1e-9)
    assert roc.auc() == pytest.approx(auc)


def test_long_embeddings_do_not_cut_the_area():
    # Concatenated embeddings of photo and mirror image are longer than 1, so squared distances exceed 3.99, where the
    # 2018 program ended.
    rng = np.random.default_rng(10)
    result = evaluate(*on_a_line(rng.uniform(0, 3, 50), rng.uniform(5, 8, 50)), fold=np.arange(100) % 5)
    assert (result.auc, result.eer) == (1.0, 0.0)


def test_a_long_curve_is_thinned_but_not_at_its_start():
    rng = np.random.default_rng(11)
    same = np.arange(40_000) < 20_000
    distances = np.where(same, rng.normal(0, 1, 40_000), rng.normal(2, 1, 40_000)) + 5
    whole = exact_roc(distances, same)
    thin = whole.thinned()
    assert 1000 < len(thin.far) <= 2002
    assert (thin.far[0], thin.val[0], thin.far[-1], thin.val[-1]) == (0, 0, 1, 1)
    for values, all_values in ((thin.far, whole.far), (thin.val, whole.val), (thin.threshold, whole.threshold)):
        assert set(values.tolist()) <= set(all_values.tolist())
    assert (np.diff(thin.far) >= 0).all()
    assert (np.diff(thin.val) >= 0).all()
    # For each number of impostors up to three hundred, the curve equals the full one.
    for k in range(300):
        far = whole.far[whole.far <= k / 20_000 + 1e-12][-1]
        assert thin.val[thin.far <= far][-1] == whole.val[whole.far <= far][-1]
    assert thin.auc() == pytest.approx(whole.auc(), abs=1e-4)
    assert thin.eer() == pytest.approx(whole.eer(), abs=1e-3)
    few = exact_roc(distances[::100], same[::100])
    assert few.thinned() is few


def test_thinning_drops_points_on_straight_lines_first():
    # If all same pairs come before all different ones, three corners are the whole curve.
    same = np.arange(4000) < 2000
    thin = exact_roc(np.arange(4000.0), same).thinned()
    assert list(zip(thin.far, thin.val, strict=True)) == [(0, 0), (0, 1), (1, 1)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(DISTANCES), st.booleans(), st.booleans())
def test_the_threshold_chosen_is_the_best_there_is(seed, distance, subtract_mean, ties):
    embeddings, first, second, same, _, detected = random_pairs(seed, 30, ties=ties)
    options = {"distance": distance, "detected": detected}
    rows = np.where(detected[:, None], embeddings, np.nan)
    threshold, mean = choose_threshold(rows, first, second, same, subtract_mean=subtract_mean, **options)
    used = np.concatenate([first, second])
    if subtract_mean:
        assert mean == pytest.approx(embeddings[used[detected[used]]].mean(axis=0))
    else:
        assert mean is None
    found = detected[first] & detected[second]
    distances = pair_distances(embeddings, first, second, distance=distance, mean=mean)[found]
    kinds = same[found]

    def right(t: float) -> int:
        return sum((d < t) == s for d, s in zip(distances, kinds, strict=True))

    values = sorted(set(distances.tolist()))
    middles = [(a + b) / 2 for a, b in itertools.pairwise(values)]
    best = max(right(t) for t in [values[0], *middles, *values, values[-1] + 1])
    assert right(threshold) == best
    result = evaluate(rows, first, second, same, threshold=threshold, mean=mean, **options)
    assert result.correct.sum() == best


def test_the_threshold_is_the_middle_of_the_widest_gap():
    # All thresholds from 1 to 2 and from 3 to 6 are wrong for one pair only.
    assert choose_threshold(*on_a_line([1, 3], [2, 6]))[0] == pytest.approx(4.5)
    assert choose_threshold(*on_a_line([1, 5], [4, 6]))[0] == pytest.approx(2.5)
    # A same and a different pair at 4 separate two equally good gaps: one gap, from 1 to 9.
    assert choose_threshold(*on_a_line([1, 4], [4, 9]))[0] == pytest.approx(5.0)
    # No threshold is better: all match, or none does.
    assert choose_threshold(*on_a_line([4, 4, 4], [1]))[0] == np.nextafter(4.0, np.inf)
    assert choose_threshold(*on_a_line([4], [1, 1, 1]))[0] == pytest.approx(1.0)


def test_neighbouring_numbers_have_no_middle():
    embeddings = np.array([0.0, np.sqrt(np.finfo(float).tiny) * 2, 0, 0])[:, None]
    low = float(embeddings[1, 0] ** 2)
    embeddings[3, 0] = embeddings[1, 0] * (1 + 2**-52)
    same = np.array([True, False])
    threshold, _ = choose_threshold(embeddings, np.array([0, 0]), np.array([1, 3]), same)
    assert threshold > low
    assert evaluate(embeddings, np.array([0, 0]), np.array([1, 3]), same, threshold=threshold).accuracy == 1


def test_a_threshold_from_one_set_judges_another():
    embeddings, first, second, same, _, _ = random_pairs(12, 200)
    train, test = np.arange(200) < 100, np.arange(200) >= 100
    threshold, mean = choose_threshold(
        embeddings, first[train], second[train], same[train], distance="angle", subtract_mean=True
    )
    result = evaluate(
        embeddings, first[test], second[test], same[test], distance="angle", threshold=threshold, mean=mean
    )
    assert result.threshold_source == "given"
    assert 0.5 < result.accuracy < 1


FITTING = {
    "embeddings": np.arange(8.0).reshape(4, 2),
    "first": np.array([0, 1, 0, 1]),
    "second": np.array([1, 2, 3, 3]),
    "same": np.array([True, False, True, False]),
    "fold": np.array([0, 0, 1, 1]),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"same": np.ones(4, bool)}, "no pairs of different people"),
        ({"same": np.zeros(4, bool)}, "no pairs of the same person"),
        ({"same": np.array([True, False])}, r"same must be \(4,\) booleans, one per pair, got bool \(2,\)"),
        ({"same": np.array([1, 0, 1, 0])}, "same must be .* got int64"),
        ({"first": np.array([0, 1, 0])}, "first and second must have the same length, got 3 and 4"),
        ({"second": np.array([1, 2, 3, 4])}, "second names row 4 in pair 3"),
        ({"embeddings": np.full((4, 2), np.nan)}, "embedding 0 contains NaN"),
        ({"first": [], "second": [], "same": np.zeros(0, bool), "fold": []}, "no pairs to measure"),
        ({"fold": np.zeros(4, int)}, "at least two folds"),
        ({"fold": np.array([0, 1, 0, 1])}, "fold 1 has no pairs of the same person"),
        ({"fold": np.array([5, 5, 7, 5])}, "fold 7 has no pairs of different people"),
        ({"fold": np.array([1, 7, 1, 1])}, "fold 7 has no pairs of the same person"),
        ({"fold": np.array([0, 0, 1])}, r"fold must be \(4,\) whole numbers, one per pair, got int64 \(3,\)"),
        ({"fold": np.array([0.0, 0, 1, 1])}, "fold must be .* got float64"),
        ({"threshold": 1.0}, "folds choose their own threshold"),
        ({"mean": np.zeros(2)}, "folds choose their own"),
        ({"fold": None, "threshold": math.nan}, "threshold must be a finite number, got nan"),
        ({"fold": None, "mean": np.zeros(3)}, "mean to subtract must be 2 finite numbers"),
        ({"distance": "cosine"}, "euclidean or angle, got 'cosine'"),
        ({"detected": np.ones(3, bool)}, r"detected must be \(4,\) booleans"),
    ],
)
def test_inconsistent_arguments_are_refused(change, message):
    evaluate(**FITTING)
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(**{**FITTING, **change})
    assert "\n" not in str(caught.value)


def test_a_threshold_needs_both_kinds_among_the_detected():
    fitting = {name: value for name, value in FITTING.items() if name != "fold"}
    choose_threshold(**fitting)
    with pytest.raises(ValueError, match="no pairs of different people"):
        choose_threshold(**fitting, detected=np.array([True, True, False, False]))
    with pytest.raises(ValueError, match="no pairs of"):
        choose_threshold(**fitting, detected=np.zeros(4, bool))
