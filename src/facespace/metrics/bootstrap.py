"""Confidence intervals for the figures of an evaluation, by bootstrap over people instead of pairs.

Pairs that share a person are not independent: one face that is hard to recognise makes all its pairs hard. So people
are drawn with replacement together with their pairs: if person p was drawn w_p times, a pair of p has weight w_p, and a
pair of p and q has weight w_p · w_q. (Bolle, Ratha and Pankanti 2004 draw such subsets for biometrics; the product of
weights is the vertex bootstrap of Snijders and Borgatti 1999.) If people share hardly any pairs, the product is
conservative: figures that depend on pairs of different people get intervals up to √3 times too wide.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facespace.metrics.distances import Booleans, Floats, Integers

_REPLICATES = 1000
_MOST, _LEAST = 1000, 200  # replicates
_WORK = 200_000_000  # pairs weighed in total; sets the number of replicates between these limits


def bootstrap(
    distances: Floats,
    same: Booleans,
    person_first: Integers | None,
    person_second: Integers | None,
    *,
    correct: Booleans,
    targets: Sequence[str] = ("1e-1", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6"),
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return for each figure the interval that contains a share `level` of the replicates (percentile method).

    `distances` (P,), infinite for pairs without a face, and `correct` (P,), whether a pair was classified correctly at
    its threshold, come from a `Verification`. `person_first` (P,) and `person_second` (P,) are the numbers of the
    people; if they are None (unknown), the result is {}. Keys are `accuracy`, `auc`, `eer`, and `val@1e-3` and so on
    for those `targets` at which at least one pair of different people may match. AUC, EER and VAL@FAR are the exact
    ones over all pairs; every replicate has its own threshold for VAL. In accuracy, same and different pairs keep their
    original shares. Replicates in which same or different pairs have no weight are left out. A figure without any
    error, such as an accuracy of 1, has an interval of width zero, because resampling cannot produce unseen errors.
    Raises `ValueError` for inconsistent arguments.

    >>> distances, same = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), np.array([True] * 3 + [False] * 3)
    >>> people = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2, 1, 2, 0])
    >>> bootstrap(distances, same, *people, correct=np.ones(6, bool), targets=[])
    {'accuracy': (1.0, 1.0), 'auc': (1.0, 1.0), 'eer': (0.0, 0.0)}
    """
    if person_first is None or person_second is None:
        return {}
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    pairs = _Pairs(distances, same, person_first, person_second, correct, targets)
    rng = np.random.default_rng(seed)
    n_replicates = min(_MOST, max(_LEAST, _WORK // len(distances)))
    replicates = []
    for _ in range(n_replicates):
        drawn = np.bincount(rng.integers(pairs.n_people, size=pairs.n_people), minlength=pairs.n_people)
        figures = pairs.figures(drawn.astype(np.float64))
        if figures is not None:
            replicates.append(figures)
    if not replicates:
        return {}
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(pairs.names, low, high, strict=True)}


class _Pairs:
    """Holds the pairs sorted by distance, so that the figures of a replicate need only cumulative sums of weights."""

    def __init__(
        self,
        distances: Floats,
        same: Booleans,
        person_first: Integers,
        person_second: Integers,
        correct: Booleans,
        targets: Sequence[str],
    ) -> None:
        distances, same, correct = np.asarray(distances, np.float64), np.asarray(same), np.asarray(correct)
        first, second = np.asarray(person_first), np.asarray(person_second)
        if not distances.shape == same.shape == correct.shape == first.shape == second.shape == (len(distances),):
            raise ValueError("distances, same, correct and people must have one entry per pair; their lengths differ")
        if same.dtype != np.bool_ or correct.dtype != np.bool_:
            raise ValueError(f"same and correct must be booleans, got {same.dtype} and {correct.dtype}")
        if same.all() or not same.any():
            raise ValueError("intervals need pairs of the same person and pairs of different people")
        if np.isnan(distances).any():
            raise ValueError(f"the distance of pair {np.argmax(np.isnan(distances))} is NaN")
        wrong = np.flatnonzero((first == second) != same)
        if len(wrong):
            raise ValueError(
                f"pair {wrong[0]} is labelled {'same' if same[wrong[0]] else 'different'}, but its people are not"
            )
        people, numbers = np.unique(np.concatenate([first, second]), return_inverse=True)
        first, second = numbers[: len(same)], numbers[len(same) :]
        self.n_people = len(people)
        order = np.argsort(distances)
        ordered_same, ordered_different = order[same[order]], order[~same[order]]
        self._person = first[ordered_same]
        self._first, self._second = first[ordered_different], second[ordered_different]
        self._same_right = correct[ordered_same].astype(np.float64)
        self._different_right = correct[ordered_different].astype(np.float64)
        self._share_same = len(ordered_same) / len(same)
        mated, impostor = distances[ordered_same], distances[ordered_different]
        # The number of impostor distances below each mated distance, and not above it. The difference between the two
        # numbers is that of ties, which count half.
        self._below = np.searchsorted(impostor, mated)
        self._not_above = np.searchsorted(impostor, mated, side="right")
        # The corners of the ROC: the numbers of impostor and mated distances below each distinct distance, then all.
        levels = np.unique(distances)
        self._corners = (
            np.append(np.searchsorted(impostor, levels), len(impostor)),
            np.append(np.searchsorted(mated, levels), len(mated)),
        )
        # The number of mated distances below each impostor distance: these match if it is the threshold.
        self._mated_below = np.searchsorted(mated, impostor)
        self._targets = [target for target in targets if np.floor(float(target) * len(impostor) + 1e-9) >= 1]
        self.names = ["accuracy", "auc", "eer", *(f"val@{target}" for target in self._targets)]
        # Weight below the k-th pair of each kind; the first entry stays 0.
        self._same_sums, self._different_sums = np.zeros(len(mated) + 1), np.zeros(len(impostor) + 1)
        self._weigh_same, self._under, self._tied = np.empty((3, len(mated)))
        self._weigh_different, self._other = np.empty((2, len(impostor)))

    def figures(self, weights: Floats) -> list[float] | None:
        """Return the figures, in the order of `self.names`, for people with these `weights` (n,).

        Returns None if the pairs of the same person, or those of different people, have no weight.
        """
        # Reuse the same memory, because allocating costs more than the sums; "clip" avoids a copy in NumPy.
        weigh_same = np.take(weights, self._person, out=self._weigh_same, mode="clip")
        weigh_different = np.take(weights, self._first, out=self._weigh_different, mode="clip")
        weigh_different *= np.take(weights, self._second, out=self._other, mode="clip")
        same, different = self._same_sums, self._different_sums
        np.cumsum(weigh_same, out=same[1:])
        np.cumsum(weigh_different, out=different[1:])
        if not same[-1] or not different[-1]:
            return None
        accuracy = self._share_same * (weigh_same @ self._same_right) / same[-1]
        accuracy += (1 - self._share_same) * (weigh_different @ self._different_right) / different[-1]
        below = np.take(different, self._below, out=self._under, mode="clip")
        below += np.take(different, self._not_above, out=self._tied, mode="clip")
        auc = 1 - (weigh_same @ below) / (2 * same[-1] * different[-1])
        vals = [self._val(float(target)) for target in self._targets]
        return [float(accuracy), float(auc), self._eer(), *vals]

    def _eer(self) -> float:
        """Return where the ROC of the current sums meets 1 − x, by bisection over its ordered corners."""
        impostors, mated = self._corners
        n_same, n_different = self._same_sums[-1], self._different_sums[-1]

        def at(k: int) -> tuple[float, float]:
            x = float(self._different_sums[impostors[k]] / n_different)
            return x, 1 - x - float(self._same_sums[mated[k]] / n_same)

        low, high = 0, len(impostors) - 1  # left of the line, and on it or right of it
        while high - low > 1:
            middle = (low + high) // 2
            if at(middle)[1] > 0:
                low = middle
            else:
                high = middle
        (x0, left), (x1, right) = at(low), at(high)
        return x0 + (x1 - x0) * left / (left - right)

    def _val(self, target: float) -> float:
        """Return the share of mated weight below the impostor that would make the FAR exceed `target`."""
        may_match = target * self._different_sums[-1] + 1e-9
        k = int(np.searchsorted(self._different_sums, may_match, side="right")) - 1
        return float(self._same_sums[self._mated_below[k]] / self._same_sums[-1])


def share(flags: Booleans, people: Integers, *, level: float = 0.95, seed: int = 0) -> dict[str, float | int | None]:
    """Return the share of true `flags` (N,), with an interval by bootstrap over the `people` (N,) they belong to.

    If all flags are equal, the bootstrap sees no spread. One end of the interval is then the share (0 or 1), and the
    other is 1 − (1 − level)^(1/P) away: the exact bound for P people, each counted as one trial.

    >>> share(np.array([True] * 8), np.arange(8))["high"], round(share(np.array([True] * 8), np.arange(8))["low"], 2)
    (1.0, 0.69)
    """
    n = len(flags)
    if not n:
        return {"share": None, "low": None, "high": None, "n": 0}
    names, numbers = np.unique(people, return_inverse=True)
    right = np.bincount(numbers, weights=flags, minlength=len(names))
    total = np.bincount(numbers, minlength=len(names)).astype(np.float64)
    mean = float(flags.mean())
    open_end = 1 - (1 - level) ** (1 / len(names))
    if mean in (0.0, 1.0):
        low, high = (0.0, open_end) if mean == 0 else (1 - open_end, 1.0)
    else:
        rng = np.random.default_rng(seed)
        drawn = rng.integers(len(names), size=(_REPLICATES, len(names))) + np.arange(_REPLICATES)[:, None] * len(names)
        weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        shares = (weights @ right) / (weights @ total)
        low, high = (float(value) for value in np.quantile(shares, [(1 - level) / 2, (1 + level) / 2]))
    return {"share": mean, "low": low, "high": high, "n": n}


def folds_of(owners: Integers, n_folds: int, *, seed: int = 0) -> Integers:
    """Return a fold (N,) for every photo. Each person's photos are spread evenly, in an order drawn from `seed`."""
    order = np.random.default_rng(seed).permutation(len(owners))
    order = order[np.argsort(owners[order], kind="stable")]
    folds = np.empty(len(owners), np.int64)
    starts = np.searchsorted(owners[order], owners[order])
    folds[order] = (np.arange(len(owners)) - starts) % n_folds
    return folds
