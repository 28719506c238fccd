"""Labelled pairs of photos with one colour per person, and an embedder that returns the colours."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from facespace.datasets.pairs.lists import PairList
from facespace.faces.crops import CropRecord
from facespace.faces.input_spec import InputSpec

SPEC = InputSpec(32, "box", 4)


FITS = CropRecord(32, 4, "box")


class Colours:
    """Replaces a network: embeds a crop as the mean colours of its left and right half, as a unit vector."""

    name, fingerprint, runtime, precision, spec, dimension = "colours", "0" * 64, "none", "float32", SPEC, 6

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def embed(self, crops: np.ndarray) -> np.ndarray:
        self.seen += list(crops)
        halves = np.concatenate([crops[:, :, :16].mean((1, 2)), crops[:, :, 16:].mean((1, 2))], axis=1)
        return (halves / np.linalg.norm(halves, axis=1, keepdims=True)).astype(np.float32)


def crop(seed: int, noise: int, size: int = 32) -> bytes:
    """Return a lossless crop: a person's colours with a little noise."""
    person, own = np.random.default_rng(seed), np.random.default_rng(noise)
    colours = np.repeat(person.integers(30, 220, (1, 2, 3)), size // 2, axis=1)
    pixels = np.repeat(colours, size, axis=0) + own.integers(-4, 5, (size, size, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def listed(n_people: int = 8, *, fold: bool = False, groups: dict | None = None) -> PairList:
    """Return two photos per person: a same pair each, and a different pair with the next person."""
    photos = tuple(f"{k}/{k}_{i}" for k in range(n_people) for i in (1, 2))
    first, second, same = [], [], []
    for k in range(n_people):
        first += [2 * k, 2 * k]
        second += [2 * k + 1, (2 * k + 2) % (2 * n_people)]
        same += [True, False]
    people = tuple(name.split("/")[0] for name in photos)
    folds = np.repeat([1, 2], n_people) if fold else None
    return PairList(photos, people, np.array(first), np.array(second), np.array(same), folds, groups or {})


def files(n_people: int = 8, size: int = 32) -> list[bytes]:
    return [crop(k, 2 * k + i, size) for k in range(n_people) for i in (0, 1)]
