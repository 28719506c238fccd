"""Summarises a gallery store's contents for comparison with another store."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from facespace.identification.stores.protocol import Entry, Store

DIMENSION = 8


def entry(k: int, *, quality: float | None = None, digest: int | None = None, **known: Any) -> Entry:
    """Return a random unit vector with its own digest."""
    vector = np.random.default_rng(k).standard_normal(DIMENSION).astype(np.float32)
    vector /= np.linalg.norm(vector)
    return Entry(
        vector, f"{k if digest is None else digest:064x}", f"photo {k}.jpg", "runtime float32", quality, **known
    )


def state_of(store: Store, *, log: bool = True) -> dict[str, Any]:
    """Return everything readable except times and random names; photos are listed by id."""
    people = [dataclasses.replace(one, added="") for one in store.people()]
    photos = {one.id: [dataclasses.replace(photo, added="") for photo in store.photos(one.id)] for one in people}
    ids = [photo.id for some in photos.values() for photo in some]
    vectors = store.vectors(DIMENSION)
    probes = np.array([entry(k).embedding for k in range(1000, 1004)])
    nearest = store.nearest(probes, 3)
    entries = [(one.id, one.kind, _plain(one.text), one.change, one.undone) for one in store.log(200)] if log else []
    return {
        "people": people, "photos": photos, "count": store.count(), "page": store.people(after="P", limit=2) == store.people(after="P")[:2],
        "names": vectors.names, "owners": vectors.owners.tolist(), "vectors": vectors.embeddings.tolist(),
        "qualities": np.nan_to_num(vectors.qualities, nan=-1).tolist(), "embeddings": store.embeddings(ids).tolist(),
        "nearest": [nearest.people.tolist(), nearest.n_photos.tolist(), np.round(nearest.qualities, 6).tolist(), np.round(nearest.similarities, 6).tolist()],
        "crops": [store.crop(one) for one in ids], "digests": {photo.digest: store.find_digest(photo.digest) for some in photos.values() for photo in some},
        "log": entries,
    }  # fmt: skip


def _plain(text: str) -> str:
    return re.sub(r"[0-9]{4}-[0-9T:Z-]{15}", "TIME", re.sub("somebody [0-9a-f]{16}", "somebody", text))
