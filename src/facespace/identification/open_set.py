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

from facespace.embedding.calibration import Calibration
from facespace.metrics.distances import Floats, Integers
from facespace.metrics.unit_vectors import to_unit_length

Embeddings = npt.NDArray[np.float32]

# How many strangers must have been named by chance before one's own photos count as much as the model's table.
_TABLE_COUNTS_AS = 20.0
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
    return to_unit_length(sums).astype(np.float32)


def thresholds_of_table(
    calibration: Calibration | None, rate: float, n_photos: Sequence[int], *, qualities: Floats | None = None
) -> Floats:
    """The similarity (P,) the model's table asks of a face of unknown quality; zeros for a model without a table."""
    if calibration is None:
        return np.zeros(len(n_photos))
    return calibration.identification_thresholds(rate, n_photos, qualities=qualities)


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
