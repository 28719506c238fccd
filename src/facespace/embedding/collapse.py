"""Detects networks that give nearly the same embedding to everything: untrained ones, and those that collapsed in
training.

Such a network runs without errors, but every face is equally similar to every person. The test is the lowest cosine
among embeddings that should differ: of faces of different people, or of the fixed pictures of `different_pictures`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.faces.crops import resize

# The lowest cosine over twelve faces is −0.14 with SFace and −0.29 with casia-webface; over the pictures it is below
# 0.05 and 0.46. With random weights the networks of 2018 have 0.945 and 0.975 over the pictures
# (benchmarks/cut_and_turned.py); MobileFaceNet after 20 steps of training had 1.00000.
LIMIT = 0.9
_FEWEST = 5  # vectors; the lowest cosine of fewer means little
_MOST = 256  # vectors that are compared
_COARSENESS = (2, 3, 4, 6, 8, 12, 16, 24)  # blocks along a side of each picture


def different_pictures(size: int) -> npt.NDArray[np.uint8]:
    """Return eight crops (8,S,S,3) that have nothing in common: soft blocks of random colours, coarse to fine.

    They are the same on every machine. Unlike a user's photos, they cannot all show one person.

    >>> different_pictures(112).shape
    (8, 112, 112, 3)
    """
    rng = np.random.default_rng(0)
    return np.stack([resize(rng.integers(0, 256, (n, n, 3), dtype=np.uint8), size) for n in _COARSENESS])


def lowest_cosine(vectors: npt.NDArray[Any]) -> float:
    """Return the lowest cosine between any two of N vectors (N,D); if N > 256, only 256 evenly spaced ones are used.

    Vectors of length zero or with numbers that are not finite are ignored. The result is 1 if fewer than two remain.

    >>> lowest_cosine(np.array([[1.0, 0.0], [0.6, 0.8], [2.0, 0.0]]))
    0.6
    """
    array = np.asarray(vectors, np.float64)
    array = array[np.linspace(0, len(array) - 1, min(len(array), _MOST)).astype(int)]
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(array, axis=1)
    sound = np.isfinite(lengths) & (lengths > 1e-6)
    if sound.sum() < 2:
        return 1.0
    unit = array[sound] / lengths[sound, None]
    return float((unit @ unit.T).min())


def looks_collapsed(vectors: npt.NDArray[Any]) -> bool:
    """Return whether embeddings (N,D) of faces of different people, or of different pictures, are all alike.

    They are alike if no two of them have a cosine below 0.9. A trained network is far below: its similarities between
    strangers are around 0. The result is False for fewer than 5 vectors. False does not mean that a network is good:
    ArcFace networks with random weights have lowest cosines of 0.47 to 0.86 on the `different_pictures`. Do not pass
    vectors of one person: a good network may well give them cosines above 0.9.

    >>> looks_collapsed(np.eye(5)), looks_collapsed(np.eye(5) + 10), looks_collapsed(np.ones((2, 5)))
    (False, True, False)
    """
    return len(vectors) >= _FEWEST and lowest_cosine(vectors) > LIMIT


def collapse_remark(vectors: npt.NDArray[Any], of: str = "pictures that have nothing in common") -> str:
    """Return a remark for the user if the vectors look collapsed, else an empty text; `of` says what was embedded."""
    if not looks_collapsed(vectors):
        return ""
    return (
        f"its embeddings are all alike: of {of}, no two have a cosine below {lowest_cosine(vectors):.5f}; the network looks "
        "untrained or collapsed and cannot tell people apart"
    )
