"""Whether vectors can be compared: with those of an embedder, and with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from facespace.embedding.vectors import Embeddings
from facespace.faces.input_spec import InputSpec
from facespace.io.text import plain_text

# What is compared: an array (N,D) or (D,), or a list of (D,) or of faces that have an `embedding`.
Vectors = npt.NDArray[np.float32] | Sequence[Any]


class _Model(Protocol):
    """What an embedder says of its model."""

    name: str
    fingerprint: str
    dimension: int
    spec: InputSpec
    calibration: Any


def model_of(embedder: _Model) -> dict[str, Any]:
    """What makes embeddings comparable: weights, what they were trained to see, and whether a mean is taken off."""
    if not hasattr(embedder, "fingerprint"):
        raise TypeError(f"an Embedder is expected, got {type(embedder).__name__}")
    return {
        "model": embedder.name,
        "fingerprint": embedder.fingerprint,
        "dimension": embedder.dimension,
        "input_spec": embedder.spec.as_dict(),
        "centered": embedder.calibration is not None,
    }


def other_model(held: Any, embedder: _Model) -> str | None:
    """Whose vectors a file has, in words, where they cannot be compared with this embedder's; `held` is `model_of`'s."""
    if (other := difference(held, model_of(embedder))) is None:
        return None
    return f"its vectors {other}; use --model {_name(held)}"


def represented(vectors: Vectors, model: dict[str, Any] | None = None) -> npt.NDArray[np.float32]:
    """Vectors of `Embedder.represent` as a plain array, (N,D), or (D,) for one; bare arrays count as such.

    In the place of vectors may stand faces that have an `embedding`. `ValueError` for vectors of `Embedder.embed`, for those
    of another model than `model`, which is `model_of`'s, and for a list of several models or lengths; `TypeError` for what
    are no vectors.
    """
    is_list = isinstance(vectors, (list, tuple))
    several = [getattr(some, "embedding", some) for some in (vectors if is_list else [vectors])]
    model = model or making_of(several)
    for some in several:
        if not isinstance(some, np.ndarray) or some.dtype.kind not in "fiu":
            raise TypeError(f"vectors of Embedder.represent are expected, got {_kind(some)}")
        if not isinstance(some, Embeddings) or not some.made_by:
            continue
        if some.made_by != "represent":
            raise ValueError(
                f"these vectors are of Embedder.{some.made_by}; what is compared are those of Embedder.represent"
            )
        if model and (other := difference(some.model, model)):
            raise ValueError(f"these vectors {other}")
    bare = [np.asarray(some) for some in several]
    if not is_list:
        return bare[0]
    shapes = sorted({some.shape for some in bare})
    if len(shapes) > 1:
        raise ValueError(f"vectors of one list must be of one shape, got {' and '.join(map(str, shapes))}")
    return np.stack(bare) if bare else np.empty((0, 0), np.float32)


def probes_of(vectors: Vectors, dimension: int, model: dict[str, Any] | None = None) -> npt.NDArray[np.float32]:
    """`represented` vectors as (N,D) float32 of length 1, also of one vector (D,) and of none; `ValueError` where not."""
    array = represented(vectors, model)
    if array.shape == (dimension,):
        array = array[None]
    return unit_vectors(array if array.size else array.reshape(0, dimension), dimension)


def qualities_of(vectors: Vectors) -> npt.NDArray[np.float32] | None:
    """The quality (N,) of each face, where its `Embeddings` or its face tell it; None where one of them does not."""
    if isinstance(vectors, Embeddings):
        return None if vectors.quality is None else np.atleast_1d(vectors.quality)
    if not isinstance(vectors, (list, tuple)) or not vectors:
        return None
    found = []
    for some in vectors:
        quality = getattr(some, "quality", None)
        if quality is None or np.ndim(quality):
            return None
        found.append(float(quality))
    return np.array(found, np.float32)


def unit_vectors(vectors: npt.NDArray[Any], dimension: int | None = None) -> npt.NDArray[np.float32]:
    """Vectors (N,D) as float32; `ValueError` for another shape or rows that are not of length 1."""
    array = np.asarray(vectors, np.float32)
    if array.ndim != 2 or (dimension is not None and array.shape[1] != dimension):
        raise ValueError(f"embeddings want (N,{dimension or 'D'}); got {array.shape}")
    with np.errstate(over="ignore", invalid="ignore"):  # numbers out of a damaged file
        length = np.linalg.norm(array, axis=1)
    good = np.abs(length - 1) < 1e-3  # so written, NaN fails it too
    if not good.all():
        worst = int(np.argmax(~good))
        raise ValueError(f"embeddings want length 1; row {worst} has {length[worst]:.3g}")
    return array


def making_of(vectors: Vectors) -> dict[str, Any]:
    """What vectors know of their model: `model_of` its embedder, or nothing."""
    some = vectors if isinstance(vectors, (list, tuple)) else [vectors]
    known = (getattr(one, "embedding", one) for one in some)
    return next((dict(one.model) for one in known if isinstance(one, Embeddings)), {})


def _kind(value: Any) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def difference(held: Any, wanted: dict[str, Any]) -> str | None:
    """By whom vectors of `held` were made, in words, where they cannot be compared with those of `wanted`.

    Both are as `model_of` tells them.
    """
    if isinstance(held, dict) and {**held, "model": ""} == {**wanted, "model": ""}:
        return None
    made_by, name = _name(held), plain_text(str(wanted.get("model", "another")))
    same_name = " (other weights or another input spec)" if made_by == name else ""
    return f"were made by the model {made_by!r}{same_name} and cannot be compared with those of {name!r}"


def _name(held: Any) -> str:
    return plain_text(str(held.get("model", "another"))) if isinstance(held, dict) else "another"
