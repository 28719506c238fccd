"""Generated people on the unit sphere: one direction per person, with photos scattered around it."""

from __future__ import annotations

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def people(
    n_people: int, n_photos: int, *, dimension: int = 64, similarity: float = 0.6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings (P·n,D) and owners (P·n,); two photos of one person have about that `similarity`, others about
    0.
    """
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((n_people, dimension)))
    owners = np.repeat(np.arange(n_people), n_photos)
    noise = unit(rng.standard_normal((len(owners), dimension)))
    return unit(np.sqrt(similarity) * centres[owners] + np.sqrt(1 - similarity) * noise), owners
