"""Open-set identification: templates and thresholds that separate known people from strangers.

A face is compared with one template for each person, the mean of that person's embeddings scaled to length 1. The known
people serve as each other's strangers: one person is held out and compared with all the others (Phillips, Grother and
Micheals 2011, Handbook of Face Recognition, "open-set identification").
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

# The model's table weighs as much as this number of strangers above the threshold in the user's own photos.
_TABLE_WEIGHT = 20.0
_BLOCK_ROWS = 4096


def templates(owners: Integers, vectors: Embeddings, n_people: int) -> Embeddings:
    """Return each person's template (P,D): the mean of the person's rows of `vectors` (N,D), scaled to length 1.

    `owners` (N,) gives the person of each row.

    >>> np.allclose(templates(np.array([0, 0]), np.array([[1, 0], [0, 1]], np.float32), 1), np.sqrt(0.5))
    True
    """
    order = np.argsort(owners, kind="stable")
    ordered = vectors[order]
    bounds = np.searchsorted(owners[order], np.arange(n_people + 1))
    sums = np.empty((n_people, vectors.shape[1]), np.float64)
    for k, (begin, end) in enumerate(itertools.pairwise(bounds)):  # faster than add.at and reduceat
        ordered[begin:end].sum(axis=0, dtype=np.float64, out=sums[k])
    return to_unit_length(sums).astype(np.float32)


def thresholds_of_table(
    calibration: Calibration | None, rate: float, n_photos: Sequence[int], *, qualities: Floats | None = None
) -> Floats:
    """Return the thresholds (P,) of the model's table `calibration`; zeros for a model without a table.

    `qualities` (P,) describe the enrolled photos (None: unknown). The quality of probes is taken as unknown.
    """
    if calibration is None:
        return np.zeros(len(n_photos))
    return calibration.identification_thresholds(rate, n_photos, qualities=qualities)


def held_out_margins(embeddings: Embeddings, owners: Integers, people: Embeddings, thresholds: Floats) -> Floats:
    """Return for each photo (N,) the largest of similarity minus threshold over all people but the one it shows.

    The result is −inf if there is only one person. `people` (P,D) are templates, `thresholds` is (P,), and `owners` (N,)
    gives each photo's row in `people`.

    >>> people = np.eye(3, dtype=np.float32)
    >>> held_out_margins(people, np.arange(3), people, np.full(3, 0.5)).tolist()
    [-0.5, -0.5, -0.5]
    """
    margins = np.full(len(embeddings), -np.inf)
    if len(people) < 2:
        return margins
    for start in range(0, len(embeddings), _BLOCK_ROWS):
        block = embeddings[start : start + _BLOCK_ROWS] @ people.T - thresholds.astype(np.float32)
        block[np.arange(len(block)), owners[start : start + _BLOCK_ROWS]] = -np.inf
        margins[start : start + _BLOCK_ROWS] = block.max(axis=1)
    return margins


def offset(margins: Floats, rate: float, *, table: bool) -> float:
    """Return the number to add to every threshold so that a share `rate` of N given strangers is falsely named.

    `margins` (N,) are the strangers' largest similarities minus the present thresholds; those that are not finite do
    not count. The exact offset depends on the N · rate largest margins, so it is uncertain if N · rate is small. If the
    thresholds come from a `table` measured on many people, only the fraction N · rate / (N · rate + 20) of the offset
    is used.

    >>> margins = np.arange(1000) / 1000
    >>> round(offset(margins, 0.01, table=False), 3), round(offset(margins, 0.01, table=True), 3)
    (0.989, 0.33)
    """
    if not 0 < rate < 1:
        raise ValueError(f"a rate of strangers named must be between 0 and 1, got {rate}")
    finite = np.sort(margins[np.isfinite(margins)])
    if not len(finite):
        return 0.0
    events = len(finite) * rate
    may_be_named = math.floor(events + 1e-9)
    exact = float(np.nextafter(finite[-1 - min(may_be_named, len(finite) - 1)], np.inf))
    return exact * events / (events + _TABLE_WEIGHT) if table else exact
