"""The similarity to reach, chosen on one's own labelled photos: known people to be named, everybody else as a stranger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facespace.identification.held_out import HeldOutTrials, rates
from facespace.identification.open_set import Embeddings, held_out_margins, offset
from facespace.metrics.distances import Floats

# A probe this like a photo it is compared with is that photo.
_SAME_PHOTO = 0.9999
_BLOCK_ROWS = 1024


@dataclass(frozen=True, slots=True)
class TunedThresholds:
    """What to add to every person's threshold so that a share `rate` of strangers is named, and what it rests on.

    `evidence` has the measured rates with intervals (see `held_out.rates`), the numbers of photos of known
    people and of strangers, and how many were left out as being enrolled themselves.
    """

    rate: float
    offset: float
    evidence: dict[str, Any]


def calibrate(
    probes: Embeddings,
    probe_names: Sequence[str],
    people: Embeddings,
    people_names: Sequence[str],
    wanted: Floats,
    *,
    enrolled: Embeddings,
    rate: float,
    table: bool,
) -> TunedThresholds:
    """Choose on `probes` (N,D) of the people `probe_names` (N,), who are strangers unless among `people_names` (P,).

    `people` (P,D) are templates, `wanted` (P,) what is asked of each so far, by the model's `table` or 0 without one.
    Known people count as strangers too, their own template held out. Photos that are `enrolled` (M,D) are left out.
    `ValueError` where no stranger and fewer than two people are left to choose by.
    """
    if not 0 < rate < 1:
        raise ValueError(f"a rate of strangers named wants a number between 0 and 1; got {rate}")
    new = np.concatenate([np.empty(0, np.bool_), *(
        (probes[k : k + _BLOCK_ROWS] @ enrolled.T).max(axis=1, initial=-1) < _SAME_PHOTO
        for k in range(0, len(probes), _BLOCK_ROWS)
    )])  # fmt: skip
    probes, names = probes[new], np.array(probe_names, dtype=object)[new]
    row = {name: k for k, name in enumerate(people_names)}
    everybody = {name: len(row) + k for k, name in enumerate(sorted(set(names) - set(row)))} | row
    owners = np.array([everybody[name] for name in names], np.int64)
    known = owners < len(row)
    stranger_margin = np.full(len(probes), -np.inf)
    stranger_margin[known] = held_out_margins(probes[known], owners[known], people, wanted)
    if len(people) and not known.all():
        stranger_margin[~known] = (probes[~known] @ people.T - wanted).max(axis=1)
    met = np.isfinite(stranger_margin)
    if not met.any():
        raise ValueError(
            f"nobody to choose by: of {len(new)} photos {int((~new).sum())} are enrolled themselves; give other photos, "
            "of people enrolled and of strangers, in a folder each"
        )
    similarity = probes[known] @ people.T if len(people) else np.empty((int(known.sum()), 1))
    nearest = similarity.argmax(axis=1)
    margin = similarity[np.arange(len(nearest)), nearest] - wanted[nearest]
    trials = HeldOutTrials(owners[known], nearest, margin.astype(np.float64), owners[met], stranger_margin[met])
    chosen = offset(trials.stranger_margin, rate, table=table)
    evidence = {
        "rate": rate,
        "n_known": int(known.sum()),
        "n_strangers": int((~known).sum()),
        "n_enrolled_left_out": int((~new).sum()),
        **rates(trials, chosen, rate, table=table),
    }
    return TunedThresholds(rate, chosen, evidence)
