"""Whether vectors can be compared: with those of an embedder, and with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from facespace.embedding.vectors import Embeddings
from facespace.faces.input_spec import InputSpec
from facespace.io.text import plain_text

# What is compared: an array (N,D) or (D,), or a list of (D,).
Vectors = npt.NDArray[np.float32] | Sequence[npt.NDArray[np.float32]]


class _Model(Protocol):
    """What an embedder says of its model."""

    name: str
    fingerprint: str
    dimension: int
    spec: InputSpec
    calibration: Any


def model_of(embedder: _Model) -> dict[str, Any]:
    """What makes embeddings comparable: weights, what they were trained to see, and whether a mean is taken off."""
    return {
        "model": embedder.name,
        "fingerprint": embedder.fingerprint,
        "dimension": embedder.dimension,
        "input_spec": embedder.spec.as_dict(),
        "centered": embedder.calibration is not None,
    }


def other_model(held: Any, embedder: _Model) -> str | None:
    """Whose vectors a file has, in words, where they cannot be compared with this embedder's; `held` is `model_of`'s."""
    if (other := _other(held, model_of(embedder))) is None:
        return None
    return f"its vectors {other}; use --model {_name(held)}"


def represented(vectors: Vectors, model: dict[str, Any] | None = None) -> npt.NDArray[np.float32]:
    """Vectors of `Embedder.represent` as a plain array, (N,D), or (D,) for one; bare arrays count as such.

    `ValueError` for vectors of `Embedder.embed`, for those of another model than `model`, which is `model_of`'s, and for a
    list of vectors of several models or lengths.
    """
    model = model or making_of(vectors)
    for some in vectors if isinstance(vectors, (list, tuple)) else [vectors]:
        if not isinstance(some, Embeddings) or not some.made_by:
            continue
        if some.made_by != "represent":
            raise ValueError(
                f"these vectors are of Embedder.{some.made_by}; what is compared are those of Embedder.represent"
            )
        if model and (other := _other(some.model, model)):
            raise ValueError(f"these vectors {other}")
    if not isinstance(vectors, (list, tuple)):
        return np.asarray(vectors)
    several = [np.asarray(some) for some in vectors]
    shapes = sorted({some.shape for some in several})
    if len(shapes) > 1:
        raise ValueError(f"vectors of one list must be of one shape, got {' and '.join(map(str, shapes))}")
    return np.stack(several) if several else np.empty((0, 0), np.float32)


def making_of(vectors: Vectors) -> dict[str, Any]:
    """What vectors know of their model: `model_of` its embedder, or nothing."""
    some = vectors if isinstance(vectors, (list, tuple)) else [vectors]
    return next((dict(one.model) for one in some if isinstance(one, Embeddings)), {})


def _other(held: Any, wanted: dict[str, Any]) -> str | None:
    """By whom vectors were made, in words, where not by `wanted`."""
    if isinstance(held, dict) and {**held, "model": ""} == {**wanted, "model": ""}:
        return None
    made_by, name = _name(held), plain_text(str(wanted.get("model", "another")))
    same_name = " (other weights or another input spec)" if made_by == name else ""
    return f"were made by the model {made_by!r}{same_name} and cannot be compared with those of {name!r}"


def _name(held: Any) -> str:
    return plain_text(str(held.get("model", "another"))) if isinstance(held, dict) else "another"
