"""Embeddings as arrays that record how they were made and the quality of the faces.

Vectors of `embed` are never compared with those of `represent`, and thresholds can depend on the quality of the faces.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_KEEPING = (np.concatenate, np.stack, np.vstack, np.split, np.array_split, np.atleast_2d)


class Embeddings(np.ndarray[Any, np.dtype[np.float32]]):
    """Vectors (N,D) or (D,) float32 that record their origin and otherwise behave like any array.

    `made_by` is `embed` or `represent`, and `model` comes from `compatibility.model_of`. `quality` is the quality of
    each face from `faces.quality`: (N,), () for one vector, or None if it is unknown. Rows, slices, copies, pickles and
    the results of `numpy.concatenate`, `stack` and `split` keep these attributes. Results of operators and other NumPy
    functions, and arrays saved as `.npy` or `.npz`, are plain arrays.

    >>> vectors = Embeddings(np.eye(2, dtype=np.float32), made_by="embed", model={})
    >>> vectors[0].made_by, np.stack([vectors[0], vectors[1]]).made_by, type(vectors + vectors).__name__
    ('embed', 'embed', 'ndarray')
    """

    made_by: str
    model: dict[str, Any]
    quality: npt.NDArray[np.float32] | None

    def __new__(
        cls,
        vectors: npt.NDArray[np.float32],
        *,
        made_by: str,
        model: dict[str, Any],
        quality: npt.ArrayLike | None = None,
    ) -> Embeddings:
        """Attach the attributes to the vectors without a copy. Raises `ValueError` if `quality` has the wrong shape."""
        result = np.asarray(vectors).view(cls)
        result.made_by, result.model = made_by, model
        result.quality = None if quality is None else np.asarray(quality, np.float32)
        if result.quality is not None and result.quality.shape != result.shape[:-1]:
            raise ValueError(f"quality must be of shape {result.shape[:-1]}, got {result.quality.shape}")
        return result

    def __array_finalize__(self, source: Any) -> None:
        self.made_by, self.model = getattr(source, "made_by", ""), getattr(source, "model", {})
        quality = getattr(source, "quality", None)
        self.quality = quality if quality is not None and quality.shape == self.shape[:-1] else None

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(found, Embeddings) and self.quality is not None:
            rows = index[0] if isinstance(index, tuple) and index else index
            found.quality = None
            if self.ndim == 1:
                found.quality = self.quality if found.shape == self.shape else None
            elif rows is not None and rows is not Ellipsis and found.shape[-1] == self.shape[-1]:
                quality = np.asarray(self.quality[_bare(rows)])
                found.quality = quality if quality.shape == found.shape[:-1] else None
        return found

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return getattr(ufunc, method)(*_bare(inputs), **_bare(options))

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        result = function(*_bare(arguments), **_bare(options))
        given = arguments[0] if arguments and isinstance(arguments[0], (list, tuple)) else arguments[:1]
        if function not in _KEEPING or not all(_same_making(self, value) for value in given):
            return result
        if not isinstance(result, list) and result.shape[-1] != self.shape[-1]:  # joined side by side
            return result
        quality = _joined_quality(function, given, arguments, options)
        if isinstance(result, list):
            qualities = quality if isinstance(quality, list) else [None] * len(result)
            return [self._like(part, one) for part, one in zip(result, qualities, strict=True)]
        return self._like(result, quality)

    def _like(self, vectors: npt.NDArray[np.float32], quality: Any) -> Embeddings:
        fits = quality is not None and np.shape(quality) == vectors.shape[:-1]
        return Embeddings(vectors, made_by=self.made_by, model=self.model, quality=quality if fits else None)

    def dot(self, other: Any, out: Any = None) -> Any:
        """Return the product as a plain array."""
        return _bare(self).dot(_bare(other), out)

    def __reduce__(self) -> Any:
        return _restored, (np.asarray(self), self.made_by, self.model, self.quality)


def _restored(vectors: npt.NDArray[np.float32], made_by: str, model: dict[str, Any], quality: Any) -> Embeddings:
    return Embeddings(vectors, made_by=made_by, model=model, quality=quality)


def _joined_quality(function: Any, given: Any, arguments: Any, options: Any) -> Any:
    """Apply `function` of NumPy, such as `concatenate` or `split`, to the qualities of the embeddings in `given`.

    Returns an array, or a list of arrays for a split, or None if a quality is None or an option such as `axis` is
    given.
    """
    qualities = [value.quality for value in given]
    if any(quality is None for quality in qualities) or options or len(arguments) > 2:
        return None
    if function in (np.split, np.array_split):
        return function(qualities[0], *arguments[1:])
    if len(arguments) > 1:
        return None
    if function is np.stack:
        return np.stack(qualities)
    return np.concatenate([np.atleast_1d(quality) for quality in qualities])


def _same_making(own: Embeddings, other: Any) -> bool:
    return isinstance(other, Embeddings) and (other.made_by, other.model) == (own.made_by, own.model)


def _bare(value: Any) -> Any:
    """Return `value` with every `Embeddings` replaced by a plain array, also within tuples, lists and dicts."""
    if isinstance(value, Embeddings):
        return value.view(np.ndarray)
    if type(value) in (tuple, list):
        return type(value)(map(_bare, value))
    if type(value) is dict:
        return {key: _bare(entry) for key, entry in value.items()}
    return value
