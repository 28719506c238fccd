"""Scales vectors to unit length."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Float = TypeVar("Float", np.float32, np.float64)

_LEAST = 1e-10  # shorter vectors have no meaningful direction


def to_unit_length(vectors: npt.NDArray[Float]) -> npt.NDArray[Float]:
    """Scale vectors (N,D), or one vector (D,), to length 1: x / max(|x|, 10⁻¹⁰), in their own type.

    A vector of zeros stays zero, and one with NaN becomes NaN. Raises `ValueError` for another number of axes.

    >>> to_unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    if vectors.ndim == 1:
        lengths: Any = max(float(np.linalg.norm(vectors)), _LEAST)
    elif vectors.ndim == 2:
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), vectors.dtype.type(_LEAST))
    else:
        raise ValueError(f"vectors must be of shape (N,D) or (D,), got {vectors.shape}")
    scaled: npt.NDArray[Float] = vectors / lengths
    return scaled
