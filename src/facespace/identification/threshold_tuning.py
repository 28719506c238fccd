"""Chooses thresholds on the user's own labelled photos of known people and strangers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facespace.identification.held_out import HeldOutTrials, rates
from facespace.identification.open_set import Embeddings, held_out_margins, offset
from facespace.metrics.distances import Floats

# A probe at least this similar to an enrolled photo is the same photo.
_SAME_PHOTO = 0.9999
_BLOCK_ROWS = 1024


@dataclass(frozen=True, slots=True)
class TunedThresholds:
    """The offset to add to every person's threshold so that a share `rate` of strangers is named.

    `evidence` shows how well this is known: the measured rates with intervals (see `held_out.rates`), the numbers of
    photos of known people and of strangers, and the number of photos left out because they are enrolled.
    """

    rate: float
    offset: float
    evidence: dict[str, Any]


def calibrate(
    probes: Embeddings,
    probe_names: Sequence[str],
    people: Embeddings,
    people_names: Sequence[str],
    thresholds: Floats,
    *,
    enrolled: Embeddings,
    rate: float,
    table: bool,
) -> TunedThresholds:
    """Choose thresholds on `probes` (N,D) with their true names; people not in `people_names` (P,) are strangers.

    `people` (P,D) are templates and `thresholds` (P,) the present thresholds, from the model's `table` or 0 without one.
    Probes of known people also count as strangers to everyone else. Probes that are among the `enrolled` photos (M,D)
    are left out. Raise `ValueError` if the remaining probes have no stranger and fewer than two people.
    """
    if not 0 < rate < 1:
        raise ValueError(f"a rate of strangers named must be between 0 and 1, got {rate}")
    new = np.concatenate([np.empty(0, np.bool_), *(
        (probes[k : k + _BLOCK_ROWS] @ enrolled.T).max(axis=1, initial=-1) < _SAME_PHOTO
        for k in range(0, len(probes), _BLOCK_ROWS)
    )])  # fmt: skip
    probes, names = probes[new], np.array(probe_names, dtype=object)[new]
    row = {name: k for k, name in enumerate(people_names)}
    numbers = {name: len(row) + k for k, name in enumerate(sorted(set(names) - set(row)))} | row
    owners = np.array([numbers[name] for name in names], np.int64)
    known = owners < len(row)
    stranger_margin = np.full(len(probes), -np.inf)
    stranger_margin[known] = held_out_margins(probes[known], owners[known], people, thresholds)
    if len(people) and not known.all():
        stranger_margin[~known] = (probes[~known] @ people.T - thresholds).max(axis=1)
    usable = np.isfinite(stranger_margin)
    if not usable.any():
        raise ValueError(
            f"no photos to calibrate with: {int((~new).sum())} of {len(new)} photos are enrolled; give other photos of "
            "enrolled people and of strangers, one folder for each person"
        )
    similarity = probes[known] @ people.T if len(people) else np.empty((int(known.sum()), 1))
    nearest = similarity.argmax(axis=1)
    margin = similarity[np.arange(len(nearest)), nearest] - thresholds[nearest]
    trials = HeldOutTrials(owners[known], nearest, margin.astype(np.float64), owners[usable], stranger_margin[usable])
    chosen = offset(trials.stranger_margin, rate, table=table)
    evidence = {
        "rate": rate,
        "n_known": int(known.sum()),
        "n_strangers": int((~known).sum()),
        "n_enrolled_left_out": int((~new).sum()),
        **rates(trials, chosen, rate, table=table),
    }
    return TunedThresholds(rate, chosen, evidence)
