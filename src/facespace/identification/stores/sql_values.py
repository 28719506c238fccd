"""Values in the rows of an SQL store: as they are written, and checked where they are read.

Anybody may have written a file, so nothing is taken for what its column says: each value has its type, length and range
checked, and `GalleryError` says what is damaged.
"""

from __future__ import annotations

import datetime
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import GalleryError
from facespace.identification.stores import tally
from facespace.identification.stores.changes import extra_of, state_from_row, state_to_json
from facespace.identification.stores.protocol import NoSuchCollection, PersonState
from facespace.identification.stores.sealing import Plain, Sealing
from facespace.identification.stores.sql_tables import Cursor
from facespace.io.text import plain_text

_MAX_DIMENSION = 65_536
_MAX_SEALED = 262_144  # characters of a text in the file, which may be encrypted


class SqlValues(ABC):
    """The values of one collection of a store, which may be encrypted."""

    _collection_id: int

    def __init__(self, collection: str) -> None:
        self.collection = collection
        self._sealing: Sealing = Plain()

    @property
    @abstractmethod
    def name(self) -> str:
        """The file or address."""

    def _damaged(self, what: str) -> GalleryError:
        return GalleryError(f"{self.name}: damaged ({what})")

    def _integer(self, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise self._damaged("a number in it is none")
        return value

    def _text(self, value: Any, most: int = 65_536) -> str:
        if not isinstance(value, str) or len(value) > most:
            raise self._damaged("a text in it is none, or too long")
        return plain_text(value)

    def _time(self, value: Any) -> str:
        seconds = self._integer(value)
        if seconds >= 253_402_300_800:  # the year 10000
            raise self._damaged("a time in it is no time")
        return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _quality(self, value: Any) -> float | None:
        if value is not None and not (isinstance(value, (float, int)) and 0 <= value <= 1):
            raise self._damaged("the quality of a face is not between 0 and 1")
        return None if value is None else float(value)

    def _opened(self, value: Any) -> str:
        """A text that may be encrypted."""
        if not isinstance(value, str) or len(value) > _MAX_SEALED:
            raise self._damaged("a text in it is none, or too long")
        try:
            return self._text(self._sealing.open_text(value))
        except ValueError as error:
            raise self._damaged(str(error)) from None

    def _opened_bytes(self, value: Any) -> bytes:
        """Bytes that may be encrypted."""
        if not isinstance(value, (bytes, memoryview)):
            raise self._damaged("what should be bytes is none")
        try:
            return self._sealing.open(bytes(value))
        except ValueError as error:
            raise self._damaged(str(error)) from None

    def _json(self, text: Any, what: str) -> Any:
        if not isinstance(text, str):  # bytes would be taken
            raise self._damaged(f"{what} is not JSON")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise self._damaged(f"{what} is not JSON") from None

    def _object(self, text: Any, what: str) -> dict[str, Any]:
        value = self._json(text, what)
        if not isinstance(value, dict):
            raise self._damaged(f"{what} is no JSON object")
        return value

    def _state(self, name: Any, external_id: Any, extra: Any) -> PersonState:
        known = self._known_of_person(extra)
        if self._sealing.encrypted:
            name, external_id = known.get("name"), known.get("external_id")
        try:
            return state_from_row(name, external_id, known)
        except (TypeError, ValueError) as error:
            raise self._damaged(str(error)) from None

    def _known_of_person(self, extra: Any) -> dict[str, Any]:
        return {} if extra is None else self._object(self._opened(extra), "what is known of a person")

    def _known_of_photo(self, digest: Any, extra: Any) -> tuple[str, dict[str, Any]]:
        """The digest and the metadata of a photo out of its row; of an encrypted digest only a key stands in the column."""
        if not isinstance(digest, (bytes, memoryview)) or len(digest) != 32:
            raise self._damaged("a digest is not 32 bytes")
        known = {} if extra is None else self._object(self._opened(extra), "what is known of a photo")
        if not self._sealing.encrypted:
            return bytes(digest).hex(), known
        real, metadata = known.get("digest"), known.get("metadata", {})
        if not isinstance(real, str) or len(real) != 64 or not isinstance(metadata, dict):
            raise self._damaged("what is known of a photo is not as it was written")
        return real, metadata

    def _vectors_of(self, blobs: Sequence[Any], dimension: int) -> npt.NDArray[np.float16]:
        """Vectors (n,D) out of their bytes; `GalleryError` for another length, and for vectors not of length 1."""
        if self._sealing.encrypted:
            blobs = [self._opened_bytes(one) for one in blobs]
        if not 0 <= dimension <= _MAX_DIMENSION or any(
            not isinstance(one, (bytes, memoryview)) or len(one) != 2 * dimension for one in blobs
        ):
            raise self._damaged(f"an embedding is not of {dimension} numbers")
        vectors = np.frombuffer(b"".join(blobs), "<f2").reshape(len(blobs), dimension).astype(np.float16, copy=False)
        self._check_lengths(vectors)
        return vectors

    def _check_lengths(self, vectors: npt.NDArray[np.float16]) -> None:
        if not (np.abs(_squared_lengths(vectors) - 1) < 4e-3).all():  # so written, NaN fails it too
            raise self._damaged("an embedding is not of length 1")

    def _counts(self, cursor: Cursor) -> tuple[int, int]:
        rows = cursor.rows("SELECT n_people, n_photos FROM collection WHERE id = ?", (self._collection_id,))
        if not rows:
            raise NoSuchCollection(f"{self.name}: the collection {self.collection!r} was removed", [], self.collection)
        return self._integer(rows[0][0]), self._integer(rows[0][1])

    def _tally(self, cursor: Cursor) -> int:
        rows = cursor.rows("SELECT tally FROM collection WHERE id = ?", (self._collection_id,))
        if not rows:
            raise NoSuchCollection(f"{self.name}: the collection {self.collection!r} was removed", [], self.collection)
        return self._integer(rows[0][0])

    def _columns_of(self, state: PersonState) -> tuple[str, str | None, str | None]:
        """The name, external id and the rest as they are written; of encrypted ones the columns hold keys."""
        known = state_to_json(state) if self._sealing.encrypted else extra_of(state)
        external = self._sealing.key_of_text(state.external_id) if state.external_id else None
        extra = self._sealing.seal_text(json.dumps(known, sort_keys=True)) if known else None
        return self._sealing.key_of_text(state.name), external, extra

    def _new_person(self, cursor: Cursor, state: PersonState, now: int) -> tuple[int, int]:
        """The id and the stamp."""
        sql = "INSERT INTO person (collection, name, external_id, extra, added, stamp) VALUES (?, ?, ?, ?, ?, ?)"
        stamp = tally.new_stamp()
        return cursor.insert(sql, (self._collection_id, *self._columns_of(state), now, stamp)), stamp


def _squared_lengths(vectors: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """The sums of squares (n,) of vectors (n,D); of those that are not finite, a large number."""
    found = np.empty(len(vectors), np.float32)
    # NumPy takes three times as long to turn float16 into float32. Of their bits all but the sign move to where float32 has
    # them, whose exponents are by 112 larger.
    step = max(1, 65_536 // max(1, vectors.shape[1]))  # which stays in a core's own cache
    bits = np.empty((step, vectors.shape[1]), np.uint32)
    numbers = bits.view(np.float32)
    for start in range(0, len(vectors), step):
        part = vectors[start : start + step].view(np.uint16)
        n = len(part)
        np.copyto(bits[:n], part)
        np.left_shift(bits[:n], 17, out=bits[:n])
        np.right_shift(bits[:n], 4, out=bits[:n])
        np.multiply(numbers[:n], np.float32(2.0**112), out=numbers[:n])
        np.einsum("nd,nd->n", numbers[:n], numbers[:n], out=found[start : start + n])
    return found
