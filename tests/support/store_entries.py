"""Generated photos for tests of stores."""

from __future__ import annotations

import numpy as np

from facespace.identification.stores.protocol import Entry, Store

D = 32


def vectors(n: int, seed: int = 0, dimension: int = D) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((n, dimension), np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def entry(k: int, seed: int = 0, dimension: int = D) -> Entry:
    return Entry(vectors(1, 1000 * seed + k, dimension)[0], f"{k:064x}", f"photo {k}.jpg", "onnxruntime float32")


def names(store: Store) -> list[str]:
    return [one.state.name for one in store.people()]
