"""Converts values to and from the rows of an SQL store, with checks on reading.

A file may come from anyone, so the type, length and range of each value are checked; `GalleryError` says what is damaged.
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
    """Reads and writes the values of one collection, which may be encrypted."""

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
            raise self._damaged("a number in it is not valid")
        return value

    def _text(self, value: Any, most: int = 65_536) -> str:
        if not isinstance(value, str) or len(value) > most:
            raise self._damaged("a text in it is not text, or too long")
        return plain_text(value)

    def _time(self, value: Any) -> str:
        seconds = self._integer(value)
        if seconds >= 253_402_300_800:  # the year 10000
            raise self._damaged("a time in it is not valid")
        return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _quality(self, value: Any) -> float | None:
        if value is not None and not (isinstance(value, (float, int)) and 0 <= value <= 1):
            raise self._damaged("the quality of a face is not between 0 and 1")
        return None if value is None else float(value)

    def _opened(self, value: Any) -> str:
        """Return a text, decrypted if necessary."""
        if not isinstance(value, str) or len(value) > _MAX_SEALED:
            raise self._damaged("a text in it is not text, or too long")
        try:
            return self._text(self._sealing.open_text(value))
        except ValueError as error:
            raise self._damaged(str(error)) from None

    def _opened_bytes(self, value: Any) -> bytes:
        """Return bytes, decrypted if necessary."""
        if not isinstance(value, (bytes, memoryview)):
            raise self._damaged("a value in it is not bytes")
        try:
            return self._sealing.open(bytes(value))
        except ValueError as error:
            raise self._damaged(str(error)) from None

    def _json(self, text: Any, what: str) -> Any:
        if not isinstance(text, str):  # json.loads would accept bytes
            raise self._damaged(f"{what} is not JSON")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise self._damaged(f"{what} is not JSON") from None

    def _object(self, text: Any, what: str) -> dict[str, Any]:
        value = self._json(text, what)
        if not isinstance(value, dict):
            raise self._damaged(f"{what} is not a JSON object")
        return value

    def _state(self, name: Any, external_id: Any, extra: Any) -> PersonState:
        fields = self._person_fields(extra)
        if self._sealing.encrypted:
            name, external_id = fields.get("name"), fields.get("external_id")
        try:
            return state_from_row(name, external_id, fields)
        except (TypeError, ValueError) as error:
            raise self._damaged(str(error)) from None

    def _person_fields(self, extra: Any) -> dict[str, Any]:
        return {} if extra is None else self._object(self._opened(extra), "the data of a person")

    def _photo_fields(self, digest: Any, extra: Any) -> tuple[str, dict[str, Any]]:
        """Return a photo's digest and metadata from its row; with encryption the column has only the digest's HMAC."""
        if not isinstance(digest, (bytes, memoryview)) or len(digest) != 32:
            raise self._damaged("a digest is not 32 bytes")
        fields = {} if extra is None else self._object(self._opened(extra), "the data of a photo")
        if not self._sealing.encrypted:
            return bytes(digest).hex(), fields
        real, metadata = fields.get("digest"), fields.get("metadata", {})
        if not isinstance(real, str) or len(real) != 64 or not isinstance(metadata, dict):
            raise self._damaged("the data of a photo is not valid")
        return real, metadata

    def _vectors_of(self, blobs: Sequence[Any], dimension: int) -> npt.NDArray[np.float16]:
        """Return vectors (n,D) from their bytes; raise `GalleryError` for another dimension, or for a length other than 1."""
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
        if not (np.abs(_squared_lengths(vectors) - 1) < 4e-3).all():  # written like this, NaN fails too
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
        """Return the columns name, external id and extra; with encryption the first two contain HMACs."""
        fields = state_to_json(state) if self._sealing.encrypted else extra_of(state)
        external = self._sealing.key_of_text(state.external_id) if state.external_id else None
        extra = self._sealing.seal_text(json.dumps(fields, sort_keys=True)) if fields else None
        return self._sealing.key_of_text(state.name), external, extra

    def _new_person(self, cursor: Cursor, state: PersonState, now: int) -> tuple[int, int]:
        """Insert a person; return the id and the stamp."""
        sql = "INSERT INTO person (collection, name, external_id, extra, added, stamp) VALUES (?, ?, ?, ?, ?, ?)"
        stamp = tally.new_stamp()
        return cursor.insert(sql, (self._collection_id, *self._columns_of(state), now, stamp)), stamp


def _squared_lengths(vectors: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Return the sums of squares (n,) of vectors (n,D); a vector that is not finite gives a large number."""
    found = np.empty(len(vectors), np.float32)
    # NumPy's conversion from float16 to float32 takes three times as long. The bits without the sign move to their places
    # in float32, whose exponent bias is larger by 112.
    step = max(1, 65_536 // max(1, vectors.shape[1]))  # fits a core's own cache
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
