"""Telling strangers from known people: the similarity to reach, and how often that is right.

A face is compared with one template a person, the mean of that person's embeddings scaled to length 1. Strangers are
found among the known themselves: a whole person is held out and is a stranger to all the others (Phillips, Grother
and Micheals 2011, handbook of face recognition, "open-set identification").
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from facespace.calibration import Calibration

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Embeddings = npt.NDArray[np.float32]

# How many strangers must have been named by chance before one's own photos count as much as the model's table.
_TABLE_COUNTS_AS = 20.0
_REPLICATES = 1000
_BLOCK_ROWS = 4096


def templates(owners: Integers, vectors: Embeddings, n_people: int) -> Embeddings:
    """One unit vector (P,D) a person: the mean of the rows of `vectors` that `owners` gives them, scaled.

    >>> np.allclose(templates(np.array([0, 0]), np.array([[1, 0], [0, 1]], np.float32), 1), np.sqrt(0.5))
    True
    """
    order = np.argsort(owners, kind="stable")
    ordered = vectors[order]
    bounds = np.searchsorted(owners[order], np.arange(n_people + 1))
    sums = np.empty((n_people, vectors.shape[1]), np.float64)
    for k, (begin, end) in enumerate(itertools.pairwise(bounds)):  # quicker than add.at and reduceat
        ordered[begin:end].sum(axis=0, dtype=np.float64, out=sums[k])
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    result: Embeddings = (sums / np.maximum(length, 1e-12)).astype(np.float32)
    return result


def thresholds_of_table(calibration: Calibration | None, rate: float, n_photos: Sequence[int]) -> Floats:
    """What the model's own table wants of each person's similarity; zeros where nobody has measured the model."""
    if calibration is None:
        return np.zeros(len(n_photos))
    return calibration.identification_thresholds(rate, n_photos)


def held_out_margins(embeddings: Embeddings, owners: Integers, people: Embeddings, wanted: Floats) -> Floats:
    """For each photo (N,), its person held out: the largest similarity − `wanted` among the others' templates `people`.

    −inf where there is nobody else. `owners` (N,) are rows of `people` (P,D), `wanted` (P,).

    >>> people = np.eye(3, dtype=np.float32)
    >>> held_out_margins(people, np.arange(3), people, np.full(3, 0.5)).tolist()
    [-0.5, -0.5, -0.5]
    """
    margins = np.full(len(embeddings), -np.inf)
    if len(people) < 2:
        return margins
    for start in range(0, len(embeddings), _BLOCK_ROWS):
        block = embeddings[start : start + _BLOCK_ROWS] @ people.T - wanted.astype(np.float32)
        block[np.arange(len(block)), owners[start : start + _BLOCK_ROWS]] = -np.inf
        margins[start : start + _BLOCK_ROWS] = block.max(axis=1)
    return margins


def offset(margins: Floats, rate: float, *, table: bool) -> float:
    """What to add to every threshold, so that a share `rate` of strangers like these is named.

    `margins` (N,) are those of strangers over the thresholds as they are. The offset that would name that share of
    them exactly rests on the N · rate that lie highest, and is as uncertain as they are few. So where the thresholds
    come from a `table` measured on many people, it is taken in part only: N · rate / (N · rate + 20).

    >>> margins = np.arange(1000) / 1000
    >>> round(offset(margins, 0.01, table=False), 3), round(offset(margins, 0.01, table=True), 3)
    (0.989, 0.33)
    """
    if not 0 < rate < 1:
        raise ValueError(f"a rate of strangers named wants a number between 0 and 1; got {rate}")
    finite = np.sort(margins[np.isfinite(margins)])
    if not len(finite):
        return 0.0
    events = len(finite) * rate
    may_be_named = math.floor(events + 1e-9)
    exact = float(np.nextafter(finite[-1 - min(may_be_named, len(finite) - 1)], np.inf))
    return exact * events / (events + _TABLE_COUNTS_AS) if table else exact


def share(flags: Booleans, people: Integers, *, level: float = 0.95, seed: int = 0) -> dict[str, float | int | None]:
    """The share of true `flags` (N,), with an interval by bootstrap over the `people` (N,) they belong to.

    Where all flags agree the bootstrap sees no spread; the open end then is what so many people, each counted as one
    trial, leave possible: 1 − (1 − level)^(1/P).

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
    """A fold (N,) for every photo, each person's spread evenly over the folds, in an order drawn from `seed`."""
    order = np.random.default_rng(seed).permutation(len(owners))
    order = order[np.argsort(owners[order], kind="stable")]
    folds = np.empty(len(owners), np.int64)
    starts = np.searchsorted(owners[order], owners[order])
    folds[order] = (np.arange(len(owners)) - starts) % n_folds
    return folds
