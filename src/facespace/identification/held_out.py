"""Measures a classifier on its own training photos by holding out photos and people."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from facespace.embedding.calibration import Calibration
from facespace.identification import classifier_methods
from facespace.identification.open_set import Embeddings, held_out_margins, offset, templates, thresholds_of_table
from facespace.metrics.bootstrap import folds_of, share
from facespace.metrics.distances import Booleans, Floats, Integers

_FOLDS = 5
_GROUPS = 5
# With fewer held-out photos or people than this, a probability could not be estimated.
_MIN_TRIALS, _MIN_PEOPLE = 50, 10
_BINS = 10
# Probabilities assume that half of the faces are strangers'.
_STRANGER_SHARE = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutTrials:
    """Trials in which each training photo is classified as if it were new.

    K trials classify a photo of an enrolled person: `owner` (K,) is the person shown, `nearest` (K,) the person chosen,
    and `margin` (K,) the cosine to the template of `nearest` minus that person's threshold in the model's table. N
    trials classify a photo of person `stranger` (N,) as if that person were not enrolled. `stranger_margin` (N,) is the
    largest margin over all other people, so no classifier can give a larger one.
    """

    owner: Integers
    nearest: Integers
    margin: Floats
    stranger: Integers
    stranger_margin: Floats


def hold_out(
    method: classifier_methods.MethodName,
    embeddings: Embeddings,
    owners: Integers,
    n_people: int,
    *,
    rate: float,
    calibration: Calibration | None,
    seed: int = 0,
) -> HeldOutTrials:
    """Cross-validate: classify each fifth of every person's photos by the other fifths, and all as strangers'."""
    folds = folds_of(owners, _FOLDS, seed=seed)
    found_owner, found_nearest, found_margin = [], [], []
    for fold in range(_FOLDS):
        train, test = folds != fold, folds == fold
        known = np.unique(owners[train])
        test &= np.isin(owners, known)
        if not test.any():
            continue
        numbers = np.searchsorted(known, owners[train])
        fitted = classifier_methods.fit(method, embeddings[train], numbers, len(known))
        nearest = fitted.nearest(embeddings[test])
        people = templates(numbers, embeddings[train], len(known))
        thresholds = thresholds_of_table(calibration, rate, np.bincount(numbers).tolist())
        similarity = np.einsum("nd,nd->n", embeddings[test], people[nearest])
        found_owner.append(owners[test])
        found_nearest.append(known[nearest])
        found_margin.append(similarity - thresholds[nearest])
    thresholds = thresholds_of_table(calibration, rate, np.bincount(owners, minlength=n_people).tolist())
    margins = held_out_margins(embeddings, owners, templates(owners, embeddings, n_people), thresholds)
    usable = np.isfinite(margins)
    return HeldOutTrials(
        np.concatenate([np.empty(0, np.int64), *found_owner]),
        np.concatenate([np.empty(0, np.int64), *found_nearest]),
        np.concatenate([np.empty(0), *found_margin]),
        owners[usable],
        margins[usable],
    )


def rates(trials: HeldOutTrials, chosen: float, rate: float, *, table: bool, seed: int = 0) -> dict[str, Any]:
    """Return the rates measured with `chosen` added to every threshold, each with its 95 % interval over people.

    Strangers are judged with other offsets: each fifth of them with the offset chosen from the other four fifths.
    """
    right = trials.nearest == trials.owner
    accepted = trials.margin >= chosen
    groups = folds_of(np.zeros(int(trials.stranger.max(initial=-1)) + 1, np.int64), _GROUPS, seed=seed)
    detected = np.empty(len(trials.stranger), np.bool_)
    for group in range(_GROUPS):
        inside = groups[trials.stranger] == group
        detected[inside] = trials.stranger_margin[inside] < offset(trials.stranger_margin[~inside], rate, table=table)
    return {
        "closed_set_accuracy": share(right, trials.owner),
        "known_named_right": share(right & accepted, trials.owner),
        "known_rejected": share(~accepted, trials.owner),
        "unknown_detected": share(detected, trials.stranger),
    }


def fit_probability(trials: HeldOutTrials, chosen: float) -> tuple[float, float] | None:
    """Fit the probability that a face shows the nearest person, 1 / (1 + exp(−(slope · x + intercept))).

    x is the similarity minus the person's threshold, to which the offset `chosen` is added. Half of the faces are
    assumed to be strangers'. The method is Platt scaling with smoothed targets (Platt 1999). Return slope and
    intercept, or None if there are too few photos or people, or if the slope is not positive.
    """
    return _platt(trials, chosen, np.ones(len(trials.owner), np.bool_), np.ones(len(trials.stranger), np.bool_))


def reliability(trials: HeldOutTrials, chosen: float, *, seed: int = 0) -> list[dict[str, float | int]]:
    """Compare the predicted probabilities with how often the nearest person was right, in ten bins of probability.

    The probabilities of each half of the people come from a fit to the other half. Each bin has `predicted`, its mean
    probability, `observed`, the share of its faces whose nearest person is right, `weight`, its share of all faces, and
    `n`, its number of faces. Half of all the weight is strangers'. Return [] if `fit_probability` would return None.
    """
    n_people = int(max(trials.owner.max(initial=-1), trials.stranger.max(initial=-1))) + 1
    halves = folds_of(np.zeros(n_people, np.int64), 2, seed=seed)
    all_predicted, all_observed, all_weights = [np.empty(0)], [np.empty(0)], [np.empty(0)]
    for half in range(2):
        fit = _platt(trials, chosen, halves[trials.owner] != half, halves[trials.stranger] != half)
        if fit is None:
            return []
        x, right, weight = _outcomes(trials, chosen, halves[trials.owner] == half, halves[trials.stranger] == half)
        all_predicted.append(probability(x, fit))
        all_observed.append(right)
        all_weights.append(weight)
    predicted, observed = np.concatenate(all_predicted), np.concatenate(all_observed)
    weight = np.concatenate(all_weights)
    weight = weight / weight.sum()
    bins = np.minimum((predicted * _BINS).astype(np.int64), _BINS - 1)
    return [
        {
            "predicted": float(np.average(predicted[bins == k], weights=weight[bins == k])),
            "observed": float(np.average(observed[bins == k], weights=weight[bins == k])),
            "weight": float(weight[bins == k].sum()),
            "n": int((bins == k).sum()),
        }
        for k in range(_BINS)
        if (bins == k).any()
    ]


def probability(margins: Floats, fit: tuple[float, float]) -> Floats:
    """Return the probability that each face shows its nearest person.

    `margins` are similarities minus thresholds; `fit` is the slope and intercept from `fit_probability`.

    >>> probability(np.array([0.0, 100.0]), (10.0, 0.0)).tolist()
    [0.5, 1.0]
    """
    slope, intercept = fit
    result: Floats = 1 / (1 + np.exp(-np.clip(slope * margins + intercept, -50, 50)))
    return result


def _outcomes(
    trials: HeldOutTrials, chosen: float, known: Booleans, strange: Booleans
) -> tuple[Floats, Floats, Floats]:
    """Return each face's margin over the threshold, whether its nearest person was right (1 or 0), and its weight.

    `known` and `strange` are masks that select the enrolled people's and the strangers' faces among the trials.
    """
    x = np.concatenate([trials.margin[known], trials.stranger_margin[strange]]) - chosen
    n_known, n_strange = int(known.sum()), int(strange.sum())
    right = np.concatenate([(trials.nearest == trials.owner)[known], np.zeros(n_strange)])
    weight = np.repeat(
        [(1 - _STRANGER_SHARE) / max(n_known, 1), _STRANGER_SHARE / max(n_strange, 1)], [n_known, n_strange]
    )
    return x, right.astype(np.float64), weight


def _platt(trials: HeldOutTrials, chosen: float, known: Booleans, strange: Booleans) -> tuple[float, float] | None:
    people = np.unique(trials.owner[known])
    if len(people) < _MIN_PEOPLE or min(known.sum(), strange.sum()) < _MIN_TRIALS:
        return None
    x, right, weight = _outcomes(trials, chosen, known, strange)
    n_right, n_wrong = right.sum(), len(right) - right.sum()
    target = np.where(right > 0, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    mean, spread = float(np.average(x, weights=weight)), float(x.std()) or 1.0
    features = np.stack([(x - mean) / spread, np.ones_like(x)], axis=1)
    beta = np.zeros(2)
    for _ in range(100):  # Newton's method; the smoothed targets keep the optimum finite
        predicted = 1 / (1 + np.exp(-np.clip(features @ beta, -50, 50)))
        gradient = features.T @ (weight * (predicted - target))
        curvature = (features * (weight * predicted * (1 - predicted))[:, None]).T @ features + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        longest = float(np.abs(step).max())
        beta = beta - step / max(1.0, longest)
        if longest < 1e-10:
            break
    slope = float(beta[0] / spread)
    return (slope, float(beta[1] - slope * mean)) if math.isfinite(slope) and slope > 0 else None
