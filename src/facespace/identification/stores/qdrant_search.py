"""Searches for the most similar people at a Qdrant server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.identification.people_index import Nearest
from facespace.identification.stores.qdrant_ledger import Ledger
from facespace.identification.stores.qdrant_points import LIVE, equal, where

_N_EXTRA = 8  # additional rows that are requested, because exact similarities may change the order


def nearest_people(ledger: Ledger, probes: npt.NDArray[np.float32], k: int) -> Nearest:
    """Return the k people most similar to each probe (N,D): the server finds them, exact similarities rank them."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    probes = np.ascontiguousarray(probes, np.float32)
    found = Nearest.empty(len(probes), k)
    head = ledger.head()
    if not head.n_photos or not len(probes):
        return found
    if ledger.dimension() != probes.shape[1]:
        raise ledger.reader.damaged(f"an embedding is not of {probes.shape[1]} numbers")
    limit, left = k + _N_EXTRA, list(range(len(probes)))
    while left:
        answers = ledger.server.nearest(
            ledger.rows, probes[left].tolist(), limit, where(equal("state", LIVE)), head.n_photos
        )
        again = []
        for n, records in zip(left, answers, strict=True):
            n_found = _rank(ledger, probes[n], records, Nearest(*(values[n] for values in found)))
            if n_found < k and len(records) == limit:  # all rows may belong to a person with very many photos
                again.append(n)
        limit, left = 4 * limit, again
    return found


def _rank(ledger: Ledger, probe: npt.NDArray[np.float32], records: Sequence[Any], best: Nearest) -> int:
    """Write the k people in `records` most similar to a probe (D,) into `best` (k,); return the number in `records`."""
    reader = ledger.reader
    vectors = reader.vectors(records, len(probe)).astype(np.float32)
    ids = np.array([reader.integer(reader.field(one, "person")) for one in records], np.int64)
    n_photos = np.array([reader.integer(reader.field(one, "n_photos")) for one in records], np.int64)
    qualities = np.array([reader.quality(reader.field(one, "quality")) or 0.0 for one in records], np.float32)
    # A matrix product would round equal vectors differently, depending on their positions.
    similarities = np.einsum("ij,j->i", vectors, probe)
    order = np.lexsort((ids, -similarities))
    people, first = np.unique(ids[order], return_index=True)
    chosen = order[np.sort(first)[: len(best.people)]]
    n = len(chosen)
    best.people[:n], best.similarities[:n] = ids[chosen], similarities[chosen]
    best.n_photos[:n], best.qualities[:n] = n_photos[chosen], qualities[chosen]
    return len(people)
