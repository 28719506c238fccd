"""Embeddings that know how they were made, so that those of `embed` are never compared with those of `represent`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_KEEPING = (np.concatenate, np.stack, np.vstack, np.split, np.array_split, np.atleast_2d)


class Embeddings(np.ndarray[Any, np.dtype[np.float32]]):
    """Vectors (N,D) or (D,) float32 that know their making: an array like any other.

    `made_by` is `embed` or `represent`, `model` what `compatibility.model_of` says of the model. Rows, slices, copies,
    pickles and what `numpy.concatenate`, `stack` and `split` make of such vectors keep both; what operators and NumPy's
    functions compute from them, and what is saved as `.npy` or `.npz`, is a bare array.

    >>> vectors = Embeddings(np.eye(2, dtype=np.float32), made_by="embed", model={})
    >>> vectors[0].made_by, np.stack([vectors[0], vectors[1]]).made_by, type(vectors + vectors).__name__
    ('embed', 'embed', 'ndarray')
    """

    made_by: str
    model: dict[str, Any]

    def __new__(cls, vectors: npt.NDArray[np.float32], *, made_by: str, model: dict[str, Any]) -> Embeddings:
        """The vectors, without a copy, with their making."""
        result = np.asarray(vectors).view(cls)
        result.made_by, result.model = made_by, model
        return result

    def __array_finalize__(self, source: Any) -> None:
        self.made_by, self.model = getattr(source, "made_by", ""), getattr(source, "model", {})

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return getattr(ufunc, method)(*_bare(inputs), **_bare(options))

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        result = function(*_bare(arguments), **_bare(options))
        given = arguments[0] if arguments and isinstance(arguments[0], (list, tuple)) else arguments[:1]
        if function not in _KEEPING or not all(_same_making(self, value) for value in given):
            return result
        if not isinstance(result, list) and result.shape[-1] != self.shape[-1]:  # joined side by side
            return result
        if isinstance(result, list):
            return [Embeddings(part, made_by=self.made_by, model=self.model) for part in result]
        return Embeddings(result, made_by=self.made_by, model=self.model)

    def dot(self, other: Any, out: Any = None) -> Any:
        """The product, a bare array."""
        return _bare(self).dot(_bare(other), out)

    def __reduce__(self) -> Any:
        return _restored, (np.asarray(self), self.made_by, self.model)


def _restored(vectors: npt.NDArray[np.float32], made_by: str, model: dict[str, Any]) -> Embeddings:
    return Embeddings(vectors, made_by=made_by, model=model)


def _same_making(own: Embeddings, other: Any) -> bool:
    return isinstance(other, Embeddings) and (other.made_by, other.model) == (own.made_by, own.model)


def _bare(value: Any) -> Any:
    """`value` with every `Embeddings` in it, also in tuples, lists and dicts, as a plain array."""
    if isinstance(value, Embeddings):
        return value.view(np.ndarray)
    if type(value) in (tuple, list):
        return type(value)(map(_bare, value))
    if type(value) is dict:
        return {key: _bare(entry) for key, entry in value.items()}
    return value
