"""Measures how often an embedding decides correctly whether two photos show one person, on labelled pairs.

With folds this is the protocol of Labeled Faces in the Wild as the 2018 evaluation implemented it; without, the same
figures over all pairs at once. It differs in one point: every ROC is closed by a straight line to (1, 1), whereas the
2018 code ended at the squared distance 3.99 and so cut off area for embeddings longer than 1. A pair "matches" if
distance < threshold.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from facespace.metrics.distances import Booleans, Distance, Floats, Integers, PairDistances

FAR_TARGETS = ("1e-1", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6")
GRID = np.arange(0, 4, 0.01)  # the thresholds of the 2018 evaluation, for both distances
_ROC_POINTS = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Roc:
    """A receiver operating characteristic (ROC) with T points.

    At each `threshold` (T,), `far` (T,) is the share of pairs of different people that match, and `val` (T,) the share
    of pairs of one person that match. Both shares rise from 0. The curve is linear between its points, and from its
    last point to (1, 1).
    """

    far: Floats
    val: Floats
    threshold: Floats

    def auc(self) -> float:
        """Return the area under the curve, by trapezoids.

        >>> Roc(np.array([0.0, 0.0, 0.5]), np.array([0.0, 0.5, 1.0]), np.array([1.0, 2.0, 3.0])).auc()
        0.875
        """
        x, y = np.append(self.far, 1.0), np.append(self.val, 1.0)
        return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)

    def eer(self) -> float:
        """Return the equal error rate: the x where the curve meets 1 − x, exact also within its segments.

        >>> Roc(np.array([0.0, 0.0, 0.5]), np.array([0.0, 0.5, 1.0]), np.array([1.0, 2.0, 3.0])).eer()
        0.25
        """
        x, y = np.append(self.far, 1.0), np.append(self.val, 1.0)
        left = 1 - x - y  # falls from 1 to −1
        k = int(np.argmax(left <= 0))
        return float(x[k - 1] + (x[k] - x[k - 1]) * left[k - 1] / (left[k - 1] - left[k]))

    def thinned(self, n_points: int = _ROC_POINTS) -> Roc:
        """Return the same curve in at most about `n_points`: every corner at low FAR, progressively fewer after it."""
        if len(self.far) <= n_points:
            return self
        # A point between two others on a vertical or horizontal line adds nothing.
        level = np.zeros(len(self.far), np.bool_)
        for values in (self.far, self.val):
            level[1:-1] |= (values[1:-1] == values[:-2]) & (values[1:-1] == values[2:])
        corners = np.flatnonzero(~level)
        if len(corners) > n_points:
            first = n_points // 2
            rest = np.geomspace(first, len(corners) - 1, n_points - first).astype(np.intp)
            corners = corners[np.unique(np.append(np.arange(first), rest))]
        return Roc(self.far[corners], self.val[corners], self.threshold[corners])


@dataclass(frozen=True, slots=True)
class Rate:
    """The figures at the largest threshold at which the share of matching different pairs does not exceed a target.

    `value`: VAL (= TAR), the share of same pairs that match. `far`: the share of different pairs that match. `fnmr` is
    1 − VAL. With folds all are means over the held-out folds at thresholds chosen on the other folds, and `std` is
    their population deviation. If there are too few pairs, only `reason` is set.
    """

    value: float | None = None
    std: float | None = None
    far: float | None = None
    threshold: float | None = None
    reason: str | None = None

    @property
    def fnmr(self) -> float | None:
        """The false non-match rate, 1 − VAL."""
        return None if self.value is None else 1 - self.value


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """The result of `evaluate`.

    With folds `accuracy`, `accuracy_std` (population), `val`, `auc` and `eer` are those of the 2018 protocol,
    `threshold` is the mean of `fold_thresholds`, and `mean_roc` (400 points) is the curve behind `auc` and `eer`.
    Without folds, attributes with `fold` and `std` in their name and `mean_roc` are empty or None.

    `distances` (P,), infinite where no face was found, are those at which each pair was judged: with folds and mean
    subtraction, after its own fold's mean. `roc` (thinned), `exact_auc`, `exact_eer` and `fmr_table` are computed from
    them, pooled. `correct` (P,) says which pairs accuracy counts as right. `mean` (D,) was subtracted from all
    embeddings; with folds it is None, because each fold had its own. `undetected` is the number of pairs with a photo
    without a face.
    """

    distance: Distance
    n_same: int
    n_different: int
    undetected: int
    accuracy: float
    accuracy_std: float | None
    fold_accuracies: tuple[float, ...]
    threshold: float
    fold_thresholds: tuple[float, ...]
    threshold_source: Literal["folds", "given", "same pairs"]
    auc: float
    eer: float
    exact_auc: float
    exact_eer: float
    val: dict[str, Rate]
    fmr_table: dict[str, Rate]
    roc: Roc
    mean_roc: Roc | None
    distances: Floats
    correct: Booleans
    mean: Floats | None


def evaluate(
    embeddings: npt.NDArray[np.floating[Any]],
    first: Integers,
    second: Integers,
    same: Booleans,
    *,
    fold: Integers | None = None,
    distance: Distance = "euclidean",
    subtract_mean: bool = False,
    threshold: float | None = None,
    mean: npt.NDArray[np.floating[Any]] | None = None,
    detected: Booleans | None = None,
) -> Verification:
    """Measure how well distances tell pairs of one person, for which `same` (P,) is true, from pairs of two people.

    Pairs are rows `first` (P,) and `second` (P,) of `embeddings` (N,D). With `fold` (P,) each fold is judged by the
    first threshold of `GRID` with the best accuracy on the other folds. `subtract_mean` then subtracts the mean of the
    photos in the other folds; a photo counts once for each pair that contains it. Without `fold`, give the `threshold`
    and `mean` (D,) that `choose_threshold` found on other pairs; otherwise the threshold, and the mean if
    `subtract_mean` is set, are computed from the pairs that are judged.

    Pairs with a photo whose `detected` (N,) is false count as errors in accuracy, whether same or different. In all
    other figures they match at no threshold and stay in every denominator. Raises `ValueError` for inconsistent
    arguments.

    >>> embeddings = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> result = evaluate(embeddings, np.array([0, 1]), np.array([1, 2]), np.array([True, False]), threshold=0.7)
    >>> result.accuracy, result.exact_auc, result.threshold_source
    (1.0, 1.0, 'given')
    """
    pairs = PairDistances(embeddings, first, second, distance=distance, detected=detected)
    same = _labels(same, len(pairs))
    if fold is not None and (threshold is not None or mean is not None):
        raise ValueError("folds choose their own threshold and mean; give either fold, or threshold and mean")
    if threshold is not None and not np.isfinite(threshold):
        raise ValueError(f"threshold must be a finite number, got {threshold}")
    # Without folds, all pairs are used both to choose and to judge.
    tests = np.ones((1, len(pairs)), np.bool_) if fold is None else _tests(fold, same)
    trainings = tests if fold is None else ~tests
    means = None if mean is None else np.asarray(mean, np.float64)[None]
    if mean is None and subtract_mean:
        means = pairs.means(trainings)
    each = itertools.repeat(pairs.at()) if means is None else pairs.at_each(means)

    distances, correct = np.empty(len(pairs)), np.empty(len(pairs), np.bool_)
    thresholds, accuracies, fars, vals, rates = [], [], [], [], []
    for training, test, at in zip(trainings, tests, each, strict=False):
        chosen = _best_on_grid(at[training], same[training]) if threshold is None else float(threshold)
        distances[test] = at[test]
        correct[test] = ((at[test] < chosen) == same[test]) & pairs.found[test]
        thresholds.append(chosen)
        accuracies.append(float(correct[test].mean()))
        fars.append(_shares_on_grid(at[test & ~same]))
        vals.append(_shares_on_grid(at[test & same]))
        rates.append(_rates(at[training & ~same], at[test & same], at[test & ~same]))

    roc = exact_roc(distances, same)
    exact_auc, exact_eer = roc.auc(), roc.eer()
    mean_roc = None if fold is None else Roc(np.mean(fars, axis=0), np.mean(vals, axis=0), GRID)
    n_different = int((~same).sum())
    pooled = _by_target(np.array([_rates(distances[~same], distances[same], distances[~same])]), n_different)
    by_fold = _by_target(np.array(rates), int((trainings & ~same).sum(axis=1).min()), folds=True)
    return Verification(
        distance=distance,
        n_same=int(same.sum()),
        n_different=n_different,
        undetected=int((~pairs.found).sum()),
        accuracy=float(np.mean(accuracies)),
        accuracy_std=None if fold is None else float(np.std(accuracies)),
        fold_accuracies=() if fold is None else tuple(accuracies),
        threshold=float(np.mean(thresholds)),
        fold_thresholds=() if fold is None else tuple(thresholds),
        threshold_source="folds" if fold is not None else "same pairs" if threshold is None else "given",
        auc=exact_auc if mean_roc is None else mean_roc.auc(),
        eer=exact_eer if mean_roc is None else mean_roc.eer(),
        exact_auc=exact_auc,
        exact_eer=exact_eer,
        val=pooled if fold is None else by_fold,
        fmr_table={target: pooled[target] for target in FAR_TARGETS[1:]},
        roc=roc.thinned(),
        mean_roc=mean_roc,
        distances=distances,
        correct=correct,
        mean=None if means is None or fold is not None else means[0],
    )


def choose_threshold(
    embeddings: npt.NDArray[np.floating[Any]],
    first: Integers,
    second: Integers,
    same: Booleans,
    *,
    distance: Distance = "euclidean",
    subtract_mean: bool = False,
    detected: Booleans | None = None,
) -> tuple[float, Floats | None]:
    """Return the threshold of best accuracy on these pairs, and the mean (D,) it was chosen with, for `evaluate`.

    All thresholds in the gap between two neighbouring distances give the same result. The widest of the best gaps is
    chosen (the lowest of equally wide gaps), and the threshold is its middle. Arguments and errors are those of
    `evaluate`; pairs with a photo without a detected face are ignored.

    >>> embeddings = np.array([[0.0], [1.0], [3.0]])
    >>> choose_threshold(embeddings, np.array([0, 1]), np.array([1, 2]), np.array([True, False]))
    (2.5, None)
    """
    pairs = PairDistances(embeddings, first, second, distance=distance, detected=detected)
    found = pairs.found
    same = _labels(_labels(same, len(pairs))[found], int(found.sum()))
    mean = pairs.means(np.ones((1, len(pairs)), np.bool_))[0] if subtract_mean else None
    curve = _counts(pairs.at(mean)[found], same)
    # Gap k lies between distances k − 1 and k; the first and the last gap have width zero.
    upper = curve.threshold.copy()
    upper[-1] = np.nextafter(upper[-2], np.inf)
    lower = np.append(upper[0], upper[:-1])
    right = curve.val - curve.far  # number of pairs judged correctly, minus a constant
    # A distance shared by equally many same and different pairs separates two gaps with the same result; merge them.
    starts = np.flatnonzero(np.append(True, right[1:] != right[:-1]))
    ends = np.append(starts[1:], len(right)) - 1
    best = right[starts] == right.max()
    low, high = lower[starts[best]], upper[ends[best]]
    widest = int(np.argmax(high - low))
    middle = (low[widest] + high[widest]) / 2
    return float(middle if middle > low[widest] else high[widest]), mean  # there may be no number between them


def exact_roc(distances: Floats, same: Booleans) -> Roc:
    """Return the ROC with a point for every distinct distance (P,); infinite distances match at no threshold.

    >>> exact_roc(np.array([0.1, 0.3, 0.2, np.inf]), np.array([True, True, False, False])).val.tolist()
    [0.0, 0.5, 0.5, 1.0]
    """
    counts = _counts(distances, same)
    return Roc(counts.far / (~same).sum(), counts.val / same.sum(), counts.threshold)


def _counts(distances: Floats, same: Booleans) -> Roc:
    """Return `exact_roc` in numbers of pairs instead of shares: below each finite distance, and below infinity."""
    threshold = np.unique(distances[np.isfinite(distances)])
    threshold = np.append(threshold, np.inf)
    far, val = (np.searchsorted(np.sort(distances[kind]), threshold).astype(np.float64) for kind in (~same, same))
    return Roc(far, val, threshold)


def _labels(same: Booleans, n_pairs: int) -> Booleans:
    same = np.asarray(same)
    if same.shape != (n_pairs,) or same.dtype != np.bool_:
        raise ValueError(f"same must be ({n_pairs},) booleans, one per pair, got {same.dtype} {same.shape}")
    if same.all() or not same.any():
        raise ValueError(
            f"there are no pairs of {'different people' if same.all() else 'the same person'} to tell apart"
        )
    return same


def _tests(fold: Integers, same: Booleans) -> Booleans:
    """Return for each fold (F,P) whether a pair is held out in it."""
    fold = np.asarray(fold)
    if fold.shape != same.shape or fold.dtype.kind not in "iu":
        raise ValueError(f"fold must be ({len(same)},) whole numbers, one per pair, got {fold.dtype} {fold.shape}")
    names = np.unique(fold)
    if len(names) < 2:
        raise ValueError("fold must number at least two folds: one to judge, the others to choose its threshold")
    tests: Booleans = fold == names[:, None]
    for kind, words in ((same, "the same person"), (~same, "different people")):
        held_out = (tests & kind).sum(axis=1)
        if not held_out.all():
            raise ValueError(f"fold {names[np.argmin(held_out)]} has no pairs of {words}")
    return tests


def _best_on_grid(distances: Floats, same: Booleans) -> float:
    """Return the first threshold of `GRID` with the most pairs judged correctly."""
    return float(GRID[np.argmax(_below_grid(distances[same]) - _below_grid(distances[~same]))])


def _below_grid(distances: Floats) -> npt.NDArray[np.int64]:
    """Return how many distances are below each threshold of `GRID`."""
    passed = np.searchsorted(GRID, distances, side="right")  # thresholds at or below the distance
    return np.cumsum(np.bincount(passed, minlength=len(GRID) + 1))[:-1]


def _shares_on_grid(distances: Floats) -> Floats:
    return _below_grid(distances) / len(distances)


def _rates(chosen_on: Floats, same: Floats, different: Floats) -> Floats:
    """Return VAL, FAR and threshold (6,3) at each of `FAR_TARGETS`; they are NaN if not even one impostor may match.

    Of the n impostor distances `chosen_on`, k = ⌊target · n⌋ may be below the threshold. So the threshold is the
    (k + 1)-th smallest of them.
    """
    ordered = np.sort(chosen_on)
    rates = np.full((len(FAR_TARGETS), 3), np.nan)
    for rate, target in zip(rates, FAR_TARGETS, strict=True):
        k = _may_match(target, len(ordered))
        if k >= 1:
            rate[:] = np.mean(same < ordered[k]), np.mean(different < ordered[k]), ordered[k]
    return rates


def _may_match(target: str, n_different: int) -> int:
    return int(np.floor(float(target) * n_different + 1e-9))  # the tolerance undoes rounding just below a whole number


def _by_target(rates: Floats, n_different: int, *, folds: bool = False) -> dict[str, Rate]:
    """Return the means of the folds' rates (F,6,3), or why `n_different` pairs are too few to choose a threshold."""
    result = {}
    for k, target in enumerate(FAR_TARGETS):
        if _may_match(target, n_different) < 1:
            least, where = f"{round(1 / float(target)):,}", " outside each fold" if folds else ""
            result[target] = Rate(
                reason=f"needs at least {least} pairs of different people{where}; there are {n_different:,}"
            )
        else:
            value, far, threshold = (float(mean) for mean in rates[:, k].mean(axis=0))
            result[target] = Rate(value, float(rates[:, k, 0].std()) if folds else None, far, threshold)
    return result
