"""Verification sets as insightface stores them: a pickle of (2N encoded images, N booleans), read without running it.

A pickle is a program. Two barriers limit this one to building bytes and booleans. Before it is loaded, `check_steps`
rejects every instruction that such a file does not need, and every length, memo index and frame that does not fit into
the file. While it is loaded, `_Unpickler` resolves each requested name to a function of this module or
raises an error; NumPy's own functions are not available to the pickle either.
"""

from __future__ import annotations

import io
import math
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.datasets.pairs.lists import PairList
from facespace.datasets.pairs.pickle_checks import INNOCENT, asks_for, check_steps
from facespace.errors import DatasetError
from facespace.io.files import read_whole
from facespace.io.text import plain_text
from facespace.metrics.disjoint_sets import DisjointSets

_MAX_BYTES = 4_000_000_000
_N_FOLDS = 10


@dataclass(frozen=True, slots=True, eq=False)
class VerificationSet:
    """N pairs of encoded images (the bytes of JPEG or PNG files): pair k consists of images 2k and 2k+1.

    `images` has 2N items, none of them empty; `same` (N,) bool says whether a pair shows one person. Raises `DatasetError`
    if `images` and `same` do not fit together.

    >>> VerificationSet((b"jpeg", b"jpeg"), np.array([True])).same.shape
    (1,)
    """

    images: tuple[bytes, ...]
    same: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.same.dtype != np.bool_ or self.same.ndim != 1:
            raise DatasetError(f"same must be (N,) bool, one per pair, got {self.same.dtype} {self.same.shape}")
        if not len(self.same):
            raise DatasetError("expected at least one pair of images, got none")
        if len(self.images) != 2 * len(self.same):
            n_images = len(self.images)
            raise DatasetError(f"expected two images for each of {len(self.same):,} booleans, got {n_images:,} images")
        for k, image in enumerate(self.images):
            if not isinstance(image, bytes) or not image:
                raise DatasetError(f"image {k} must be the bytes of an encoded image, got {_kind(image)}")


def read_bin(path: str | os.PathLike[str]) -> VerificationSet:
    """Read the verification set in a `.bin` file: a pickle of protocol 2 to 5, written by Python 2 or 3.

    Raises `DatasetError` if the file is damaged, is cut short, has other content, or asks for code to be run.
    """
    data = read_whole(path, _MAX_BYTES)
    try:
        check_steps(data, _KNOWN)
        return _verification_set(_load(data))
    except DatasetError as error:
        raise DatasetError(f"{plain_text(os.fspath(path))}: {error}") from None


def as_pairs(verification: VerificationSet) -> tuple[PairList, list[bytes]]:
    """Return a verification set as a list of pairs, and the encoded image of each photo in that list.

    Images with equal bytes are one photo. Its name has the index of the first of them: `image 17`. The set has no names
    of people. So photos that are connected by same-person pairs, directly or through other photos, get the same name in
    `people`: `person 1`, `person 2`, … As usual for these sets, the pairs are divided into ten contiguous folds, as by
    scikit-learn's `KFold(10)`; with fewer than ten pairs there are no folds.

    >>> pairs, images = as_pairs(VerificationSet((b"x", b"y", b"x", b"z"), np.array([True, False])))
    >>> pairs.photos, pairs.people
    (('image 0', 'image 1', 'image 3'), ('person 1', 'person 1', 'person 2'))
    """
    index: dict[bytes, int] = {}
    names: list[str] = []
    for k, image in enumerate(verification.images):
        if index.setdefault(image, len(names)) == len(names):
            names.append(f"image {k}")
    photos = np.array([index[image] for image in verification.images], np.int64)
    first, second, same = photos[::2], photos[1::2], verification.same
    people = _people(len(names), list(zip(first[same].tolist(), second[same].tolist(), strict=True)))
    return PairList(tuple(names), people, first, second, same, _folds(len(same))), list(index)


def _people(n_photos: int, joined: list[tuple[int, int]]) -> tuple[str, ...]:
    people = DisjointSets(n_photos)
    for a, b in joined:
        people.join(a, b)
    number: dict[int, int] = {}
    return tuple(f"person {number.setdefault(first, len(number) + 1)}" for first in people.smallest().tolist())


def _folds(n_pairs: int) -> npt.NDArray[np.int64] | None:
    if n_pairs < _N_FOLDS:
        return None
    each, more = divmod(n_pairs, _N_FOLDS)
    return np.repeat(np.arange(1, _N_FOLDS + 1), [each + (k < more) for k in range(_N_FOLDS)])


# The object that the pickle builds


def _verification_set(loaded: Any) -> VerificationSet:
    if not isinstance(loaded, (tuple, list)) or len(loaded) != 2:
        what = f"{len(loaded)} things" if isinstance(loaded, (tuple, list)) else _kind(loaded)
        raise DatasetError(f"expected a list of images and a list of booleans, got {what}")
    images, same = loaded
    if not isinstance(images, (tuple, list)):
        raise DatasetError(f"the first item must be a list of encoded images, got {_kind(images)}")
    # Each object is converted once, however often the list repeats it, so a small file cannot fill the memory.
    once = {id(image): image for image in images}
    whole = {identity: _encoded(image) for identity, image in once.items()}
    return VerificationSet(tuple(whole[id(image)] for image in images), _booleans(same))


def _encoded(image: Any) -> Any:
    if isinstance(image, _Array) and image.is_bytes:
        return image.data
    return bytes(image) if isinstance(image, bytearray) else image


def _booleans(same: Any) -> npt.NDArray[np.bool_]:
    if isinstance(same, _Array) and len(same.shape) == 1:
        numbers = same.numbers()
        wrong = np.flatnonzero((numbers != 0) & (numbers != 1)).tolist()
        labels: Any = numbers
    elif isinstance(same, (tuple, list)):
        labels = same
        wrong = [k for k, label in enumerate(same) if not isinstance(label, int) or label not in (0, 1)]
    else:
        raise DatasetError(f"the second item must be a list of booleans, got {_kind(same)}")
    if wrong:
        raise DatasetError(f"pair {wrong[0]} must have a boolean, 0 or 1, got {_kind(labels[wrong[0]])}")
    return np.array(labels, np.bool_)


def _kind(thing: Any) -> str:
    """Describe an object for an error message: an integer below 2⁶⁴ by value, others by type, as they may be huge."""
    if isinstance(thing, _Array):
        return f"an array of {thing.dtype} {thing.shape}"
    if isinstance(thing, (int, np.integer)) and abs(int(thing)) < 2**64:
        return str(int(thing))
    return (
        "empty bytes"
        if isinstance(thing, bytes) and not thing
        else f"an object of type {type(thing).__name__.lstrip('_')}"
    )


# The names that a pickle may use


_ARRAY_CLASS = object()  # replaces `numpy.ndarray` when a pickle asks for it


class _Dtype:
    """Replaces `numpy.dtype`; supports only booleans and whole numbers."""

    __slots__ = ("_code", "dtype")

    def __init__(self, code: str) -> None:
        self._code = code
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = _text(state[1]) if isinstance(state, tuple) and 2 <= len(state) <= 9 else None
        if order not in ("|", "<", ">", "="):
            raise DatasetError("damaged: the type of an array has no byte order")
        self.dtype = np.dtype(order + self._code)


class _Array:
    """Replaces `numpy.ndarray`. Holds the array's shape and dtype, and its items' bytes as the file stores them."""

    __slots__ = ("_spend", "data", "dtype", "shape")

    def __init__(self, spend: Callable[[int], None]) -> None:
        self._spend = spend
        self.shape: tuple[int, ...] = (0,)
        self.dtype = np.dtype(np.uint8)
        self.data = b""

    def __setstate__(self, state: Any) -> None:
        """Restore an array from the state that NumPy pickles: (version, shape, dtype, is in Fortran order, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise DatasetError("damaged: an array without shape and bytes")
        self.fill(state[4], state[2], state[1])

    def fill(self, data: Any, dtype: Any, shape: Any) -> _Array:
        if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
            raise DatasetError(f"the numbers of an array must be bytes, got {_kind(data)}")
        if isinstance(data, bytearray):
            self._spend(len(data))  # the copy takes memory too
        if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
            raise DatasetError(f"damaged: the shape of an array must be whole numbers, got {_kind(shape)}")
        if math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise DatasetError(f"damaged: the shape of an array does not fit its {len(data):,} bytes")
        self.shape, self.dtype, self.data = shape, dtype.dtype, bytes(data)
        return self

    @property
    def is_bytes(self) -> bool:
        return self.dtype == np.uint8 and len(self.shape) == 1

    def numbers(self) -> npt.NDArray[Any]:
        # Booleans are read as bytes, because NumPy would not check that they are 0 or 1.
        return np.frombuffer(self.data, np.uint8 if self.dtype == np.bool_ else self.dtype)


class _StandIns:
    """The functions that are called instead of the Python functions and classes that a pickle names.

    They have no reference to the unpickler. If a file is damaged, objects remain on the unpickler's stack, which Python's
    cycle collector cannot see; a reference to the unpickler would keep them and the whole file in memory for ever.
    """

    def __init__(self, n_bytes: int) -> None:
        self._bytes_left = n_bytes

    def spend(self, n_bytes: int) -> None:
        """Count bytes of objects that loading the file creates. Raises `DatasetError` if they exceed the file's size.

        A file that exceeds it may have been made to fill the memory.
        """
        self._bytes_left -= n_bytes
        if self._bytes_left < 0:
            raise DatasetError("the file creates more bytes than it has, which a verification file never does")

    def make_encode(self, text: Any, codec: Any) -> bytes:
        """Replace `_codecs.encode`: Python 3 pickles bytes in protocol 2 as text with one character per byte."""
        if not isinstance(text, str) or _text(codec) not in ("latin1", "latin-1", "iso-8859-1"):
            raise DatasetError(f"this file asks for a codec other than latin1; {INNOCENT}")
        self.spend(len(text))
        return text.encode("latin-1")

    def make_bytes(self, data: Any = b"", codec: Any = None) -> bytes:
        if codec is not None:
            return self.make_encode(data, codec)
        if not isinstance(data, bytes):
            raise DatasetError(f"this file makes bytes from something other than bytes; {INNOCENT}")
        return data

    make_bytearray = make_bytes

    def make_dtype(self, code: Any, *_: Any) -> _Dtype:
        if _text(code) not in ("b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"):
            shown = plain_text(_text(code)[:20]) or "another type"
            raise DatasetError(f"expected encoded images and booleans, got an array of {shown}")
        return _Dtype(_text(code))

    def make_reconstruct(self, kind: Any, *_: Any) -> _Array:
        if kind is not _ARRAY_CLASS:
            raise DatasetError(f"this file asks NumPy to make something other than an array; {INNOCENT}")
        return _Array(self.spend)

    def make_frombuffer(self, data: Any, dtype: Any, shape: Any, *_: Any) -> _Array:
        return _Array(self.spend).fill(data, dtype, shape)

    def make_scalar(self, dtype: Any, data: Any) -> int:
        return int(_Array(self.spend).fill(data, dtype, ()).numbers()[0])


_KNOWN = {
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


def _text(text: Any) -> str:
    """Return a text, which Python 2 wrote as bytes; "" for anything else."""
    if isinstance(text, bytes):
        return text[:80].decode("latin-1")
    return text if isinstance(text, str) else ""


class _Unpickler(pickle.Unpickler):
    """Loads a pickle that passed `check_steps`; calls methods of `_StandIns` for the few names that it may use."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")  # strings of Python 2 are bytes
        self._stand_ins = _StandIns(len(data))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise asks_for(module, name)
        return _ARRAY_CLASS if name == "ndarray" else getattr(self._stand_ins, f"make_{name.strip('_')}")

    def persistent_load(self, *_: Any) -> Any:
        raise DatasetError(f"this file asks for an object outside of it; {INNOCENT}")


def _load(data: bytes) -> Any:
    try:
        return _Unpickler(data).load()
    except DatasetError:
        raise
    except Exception as error:  # a damaged pickle may raise any exception
        raise DatasetError(
            f"damaged, or not a verification file ({plain_text(str(error)[:100]) or type(error).__name__})"
        ) from None
