"""Recognises networks that give nearly the same embedding to everything: untrained ones, and those that collapsed in training.

Such a network runs like any other, and every face is as similar to one person as to the next. What tells it is the lowest cosine
among embeddings that should differ: of faces of different people, or of the fixed pictures of `different_pictures`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.faces.crops import resize

# Over twelve faces the lowest cosine is −0.14 with SFace and −0.29 with casia-webface, over the pictures below 0.05 and
# 0.46. With random weights the networks of 2018 have 0.945 and 0.975 over the pictures (benchmarks/cut_and_turned.py);
# MobileFaceNet after 20 steps of training had 1.00000.
LIMIT = 0.9
_FEWEST = 5  # vectors; of fewer the lowest cosine says little
_MOST = 256  # vectors that are compared with each other
_COARSENESS = (2, 3, 4, 6, 8, 12, 16, 24)  # blocks on a side of each picture


def different_pictures(size: int) -> npt.NDArray[np.uint8]:
    """Eight crops (8,S,S,3) that have nothing in common: soft blocks of random colours, from coarse to fine.

    They are the same on every machine. Photos of one person, or copies of one photo, cannot make them alike.

    >>> different_pictures(112).shape
    (8, 112, 112, 3)
    """
    rng = np.random.default_rng(0)
    return np.stack([resize(rng.integers(0, 256, (n, n, 3), dtype=np.uint8), size) for n in _COARSENESS])


def lowest_cosine(vectors: npt.NDArray[Any]) -> float:
    """The lowest cosine between any two of N vectors (N,D), of at most 256 of them that are evenly spread.

    Vectors without length or with numbers that are not finite say nothing about a face and count as alike, so N of
    them give 1, as one vector does.

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
    """Whether embeddings (N,D) of faces of different people, or of different pictures, are all alike.

    They are if no two of them have a cosine below 0.9. A trained network is far below: its similarities between strangers
    are around 0. Fewer than 5 vectors are never called alike. An answer of False is no praise: networks of the
    ArcFace kind with random weights spread the pictures down to cosines of 0.47 to 0.86. Vectors of one person are not meant for this
    question: a good network may well give them cosines above 0.9.

    >>> looks_collapsed(np.eye(5)), looks_collapsed(np.eye(5) + 10), looks_collapsed(np.ones((2, 5)))
    (False, True, False)
    """
    return len(vectors) >= _FEWEST and lowest_cosine(vectors) > LIMIT


def collapse_remark(vectors: npt.NDArray[Any], of: str = "pictures that have nothing in common") -> str:
    """A line for the user if `looks_collapsed`, else nothing; `of` says of what the vectors are."""
    if not looks_collapsed(vectors):
        return ""
    return (
        f"its embeddings are all alike: of {of}, no two have a cosine below {lowest_cosine(vectors):.5f}; the network looks "
        "untrained or collapsed and cannot tell people apart"
    )
