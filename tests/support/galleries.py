"""Photos and people for tests of galleries, and what a store holds, to compare."""

from __future__ import annotations

from typing import Any

import numpy as np

from facespace.identification.stores.protocol import Entry, Store

DIMENSION = 8


def vector(seed: int, dimension: int = DIMENSION) -> np.ndarray:
    """A unit vector: the axis of that number, or a random one where there is no such axis."""
    if seed < dimension:
        return np.eye(dimension, dtype=np.float32)[seed]
    drawn = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return drawn / np.float32(np.linalg.norm(drawn))


def entry(seed: int, dimension: int = DIMENSION, **changes: Any) -> Entry:
    """The photo of that number; its digest is the number."""
    given: dict[str, Any] = {"digest": f"{seed + 10**9:064x}", "source": f"photo {seed}.jpg", "made_by": "onnxruntime float32"}
    return Entry(vector(seed, dimension), **(given | changes))


def random_entry(seed: int, dimension: int) -> Entry:
    """A photo whose vector is drawn at random, also for small numbers."""
    drawn = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return Entry(drawn / np.float32(np.linalg.norm(drawn)), f"{seed + 10**9:064x}", f"photo {seed}.jpg", "onnxruntime float32")


def held(store: Store) -> dict[str, Any]:
    """What a store says of everybody by name, but for times: states, photos, vectors, whom a search finds."""
    people = store.people()
    photos = {one.state.name: store.photos(one.id) for one in people}
    return {
        "states": {one.state.name: (one.id, one.state, one.n_photos) for one in people},
        "photos": {
            name: [(p.id, p.person, p.digest, p.source, p.made_by, p.quality, p.metadata, p.has_crop) for p in some]
            for name, some in photos.items()
        },
        "vectors": {
            name: store.embeddings([photo.id for photo in some]).round(3).tolist() for name, some in photos.items()
        },
        "count": store.count(),
    }
