"""Generated people as unit vectors, and pictures of shapes with their thumbnails."""

from __future__ import annotations

import numpy as np
from PIL import Image

from facespace.curation.images import thumbnail


def crowd(n_people: int, n_images: int, *, alike: float = 0.65, dimension: int = 128, seed: int = 0):
    """Return unit vectors of people whose images have about `alike` similarity with each other, and labels."""
    random = np.random.default_rng(seed)
    people = random.standard_normal((n_people, dimension)) / dimension**0.5
    labels = np.repeat(np.arange(n_people), n_images)
    noise = random.standard_normal((len(labels), dimension)) / dimension**0.5
    vectors = np.sqrt(alike) * people[labels] + np.sqrt(1 - alike) * noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def scene(seed: int, size: int = 160) -> Image.Image:
    """A picture with shapes of all sizes."""
    random = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(random.integers(0, 256, (n, n)).astype(np.uint8)).resize((size, size)), np.float64)
        for n in (3, 7, 14, 28)
    ]
    return Image.fromarray(np.clip(np.mean(layers, axis=0) * 1.6 - 70, 0, 255).astype(np.uint8)).convert("RGB")


def thumb(picture: Image.Image) -> np.ndarray:
    return thumbnail(np.asarray(picture))
