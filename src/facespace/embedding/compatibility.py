"""Checks whether vectors can be compared: with those of an embedder, and with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from facespace.embedding.vectors import Embeddings
from facespace.faces.input_spec import InputSpec
from facespace.io.text import plain_text

# Vectors to compare: an array (N,D) or (D,), or a list of (D,) or of faces that have an `embedding`.
Vectors = npt.NDArray[np.float32] | Sequence[Any]


class _Model(Protocol):
    """The attributes of an embedder that describe its model."""

    name: str
    fingerprint: str
    dimension: int
    spec: InputSpec
    calibration: Any


def model_of(embedder: _Model) -> dict[str, Any]:
    """Return a record of the model: name, fingerprint, dimension, input spec, and whether a mean is subtracted.

    Embeddings can be compared if these records are equal, apart from the name.
    """
    if not hasattr(embedder, "fingerprint"):
        raise TypeError(f"embedder must be an Embedder, got {type(embedder).__name__}")
    return {
        "model": embedder.name,
        "fingerprint": embedder.fingerprint,
        "dimension": embedder.dimension,
        "input_spec": embedder.spec.as_dict(),
        "centered": embedder.calibration is not None,
    }


def other_model(held: Any, embedder: _Model) -> str | None:
    """Return why a file's vectors cannot be compared with those of this embedder, or None if they can.

    `held` is the file's record of its model, made by `model_of`.
    """
    if (other := difference(held, model_of(embedder))) is None:
        return None
    return f"its vectors {other}; use --model {_name(held)}"


def represented(vectors: Vectors, model: dict[str, Any] | None = None) -> npt.NDArray[np.float32]:
    """Return vectors made by `Embedder.represent` as a plain array: (N,D), or (D,) for a single vector.

    Plain arrays, which do not record how they were made, are accepted. Faces that have an `embedding` may be given
    instead of vectors. Raises `ValueError` for vectors of `Embedder.embed`, for vectors of another model than `model`
    (from `model_of`), and for a list with vectors of several models or lengths. Raises `TypeError` for anything that is
    not a vector.
    """
    is_list = isinstance(vectors, (list, tuple))
    several = [getattr(some, "embedding", some) for some in (vectors if is_list else [vectors])]
    model = model or making_of(several)
    for some in several:
        if not isinstance(some, np.ndarray) or some.dtype.kind not in "fiu":
            raise TypeError(f"vectors must come from Embedder.represent, got {_kind(some)}")
        if not isinstance(some, Embeddings) or not some.made_by:
            continue
        if some.made_by != "represent":
            raise ValueError(
                f"these vectors come from Embedder.{some.made_by}; only those of Embedder.represent can be compared"
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
    """Return the vectors to compare as an array (N,D) float32; N is 1 for one vector (D,), and may be 0.

    The vectors must come from `Embedder.represent`; for others, the errors are those of `represented`. Also raises
    `ValueError` if the dimension is not `dimension`, or for vectors that are not of length 1.
    """
    array = represented(vectors, model)
    if array.shape == (dimension,):
        array = array[None]
    return unit_vectors(array if array.size else array.reshape(0, dimension), dimension)


def qualities_of(vectors: Vectors) -> npt.NDArray[np.float32] | None:
    """Return the quality (N,) of each face, which its `Embeddings` or its `Face` records.

    Returns None if the quality of any face is unknown.
    """
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
    """Return vectors (N,D) as float32. Raises `ValueError` for another shape or for rows that are not of length 1."""
    array = np.asarray(vectors, np.float32)
    if array.ndim != 2 or (dimension is not None and array.shape[1] != dimension):
        raise ValueError(f"embeddings must be of shape (N,{dimension or 'D'}), got {array.shape}")
    with np.errstate(over="ignore", invalid="ignore"):  # values of a damaged file
        length = np.linalg.norm(array, axis=1)
    valid = np.abs(length - 1) < 1e-3  # written so that NaN fails it too
    if not valid.all():
        worst = int(np.argmax(~valid))
        raise ValueError(f"embeddings must have length 1, row {worst} has {length[worst]:.3g}")
    return array


def making_of(vectors: Vectors) -> dict[str, Any]:
    """Return the record of the model (see `model_of`) that the first `Embeddings` carries; empty for plain arrays."""
    some = vectors if isinstance(vectors, (list, tuple)) else [vectors]
    known = (getattr(one, "embedding", one) for one in some)
    return next((dict(one.model) for one in known if isinstance(one, Embeddings)), {})


def _kind(value: Any) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def difference(held: Any, other: dict[str, Any]) -> str | None:
    """Return why vectors of the model `held` cannot be compared with those of the model `other`, or None if they can.

    Both are records from `model_of`. The reason continues a sentence about the vectors: "were made by …".
    """
    if isinstance(held, dict) and {**held, "model": ""} == {**other, "model": ""}:
        return None
    made_by, name = _name(held), plain_text(str(other.get("model", "another")))
    same_name = " (other weights or another input spec)" if made_by == name else ""
    return f"were made by the model {made_by!r}{same_name} and cannot be compared with those of {name!r}"


def _name(held: Any) -> str:
    return plain_text(str(held.get("model", "another"))) if isinstance(held, dict) else "another"
