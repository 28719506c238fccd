"""A store in the tables of an SQL database: what SQLite and PostgreSQL have in common.

`person` and `face` keep removed rows, with the time they went, until they are erased. `touched` lists whose templates
changed, in order, so that a process that holds all templates reads what has changed alone; `head.seq` is its last number.
"""

from __future__ import annotations

import contextlib
import datetime
import getpass
import json
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from facespace.errors import GalleryError
from facespace.identification.people_index import Nearest
from facespace.identification.stores import tally
from facespace.identification.stores.changes import change_to_json, extra_of, state_from_row, state_to_json
from facespace.identification.stores.protocol import (
    Change,
    Conflict,
    Entry,
    LogEntry,
    PersonState,
    StoredPerson,
    StoredPhoto,
    StoredVectors,
)
from facespace.identification.stores.sealing import Plain, Sealing
from facespace.io.text import plain_text

VERSION = 3  # of the tables; 1 and 2 were others
_KEPT_TOUCHED = 100_000  # changes that a process may be behind before it reads everybody again
_KEPT_LOG = 1_000  # enrolments that can be undone; other changes stay in the log
_MAX_DIMENSION = 65_536
_MAX_SEALED = 262_144  # characters of a text in the file, which may be encrypted
_A_TIME = 500  # ids in one statement

# {id}, {integer}, {blob} and {real} are the database's words for a key, 64 bits, bytes and a float64.
TABLES = (
    "CREATE TABLE head (id {integer} PRIMARY KEY, seq {integer} NOT NULL)",
    "CREATE TABLE collection (id {id}, name TEXT NOT NULL UNIQUE, n_people {integer} NOT NULL, n_photos {integer} NOT NULL,"
    " tally {integer} NOT NULL DEFAULT 0)",
    "CREATE TABLE setting (collection {integer} NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (collection, key))",
    "CREATE TABLE making (id {id}, text TEXT NOT NULL, actor TEXT NOT NULL, UNIQUE (text, actor))",
    "CREATE TABLE person (id {id}, collection {integer} NOT NULL, name TEXT NOT NULL, external_id TEXT, added {integer} NOT NULL,"
    " gone {integer}, extra TEXT, stamp {integer} NOT NULL DEFAULT 0)",
    "CREATE UNIQUE INDEX person_name ON person (collection, name) WHERE gone IS NULL",
    "CREATE UNIQUE INDEX person_external ON person (collection, external_id) WHERE external_id IS NOT NULL AND gone IS NULL",
    "CREATE TABLE face (id {id}, person {integer} NOT NULL, making {integer} NOT NULL, added {integer} NOT NULL,"
    " gone {integer}, quality {real}, digest {blob} NOT NULL, source TEXT NOT NULL, extra TEXT, vector {blob} NOT NULL)",
    "CREATE INDEX face_person ON face (person)",
    "CREATE INDEX face_digest ON face (substr(digest, 1, 8))",
    "CREATE TABLE crop (face {integer} PRIMARY KEY, data {blob} NOT NULL)",
    "CREATE TABLE touched (seq {integer} PRIMARY KEY, person {integer} NOT NULL)",
    "CREATE TABLE log (id {id}, collection {integer} NOT NULL, at {integer} NOT NULL, actor TEXT NOT NULL, kind TEXT NOT NULL,"
    " text TEXT NOT NULL, change TEXT, undone {integer} NOT NULL)",
)

Row = tuple[Any, ...]


class Cursor(Protocol):
    """A database's answers, with `?` for values whatever the database writes."""

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """What a SELECT finds."""

    def change(self, sql: str, values: Sequence[Any] = ()) -> int:
        """How many rows another statement changed."""

    def insert(self, sql: str, values: Sequence[Any] = ()) -> int:
        """The id of the row that an INSERT made."""


class SqlStore(ABC):
    """The store on a database that `_read` and `_write` give a cursor of."""

    _collection_id: int

    def __init__(self, collection: str) -> None:
        self.collection = collection
        self._lock = threading.RLock()
        self._actor = _user()
        self._sealing: Sealing = Plain()

    @property
    @abstractmethod
    def name(self) -> str:
        """The file or address."""

    @abstractmethod
    def _read(self) -> contextlib.AbstractContextManager[Cursor]:
        """One consistent state of the database."""

    @abstractmethod
    def _write(self) -> contextlib.AbstractContextManager[Cursor]:
        """One atomic change, alone among all that change it; it is on the disk when the context ends without an error."""

    @abstractmethod
    def _people_changed(self, cursor: Cursor, people: Sequence[int]) -> None:
        """Follow a change of the photos of these people, within it."""

    @abstractmethod
    def nearest(self, probes: npt.NDArray[np.float32], k: int) -> Nearest:
        """The k most similar people of each probe (N,D)."""

    # Settings and collections

    def _open_collection(self, create: bool) -> None:
        with self._read() as cursor:
            found = cursor.rows("SELECT id FROM collection WHERE name = ?", (self.collection,))
        if not found and not create:
            names = ", ".join(self.collections()[:5]) or "none"
            raise GalleryError(f"{self.name}: no collection {self.collection!r}; it has: {names}")
        if not found:
            with self._write() as cursor:
                found = cursor.rows("SELECT id FROM collection WHERE name = ?", (self.collection,))
                if not found:  # nobody was faster
                    sql = "INSERT INTO collection (name, n_people, n_photos) VALUES (?, 0, 0)"
                    found = [(cursor.insert(sql, (self.collection,)),)]
        self._collection_id = self._integer(found[0][0])

    def collections(self) -> list[str]:
        """The names of all collections."""
        with self._read() as cursor:
            return [self._text(name) for (name,) in cursor.rows("SELECT name FROM collection ORDER BY name")]

    def version(self) -> int:
        """A number that changes whenever anybody has changed the people of any collection."""
        with self._read() as cursor:
            return self._seq(cursor)

    def setting(self, key: str) -> Any:
        """A stored setting, or None."""
        with self._read() as cursor:
            sql = "SELECT value FROM setting WHERE collection = ? AND key = ?"
            found = cursor.rows(sql, (self._collection_id, key))
        return self._json(found[0][0], f"the setting {key}") if found else None

    def set_once(self, key: str, value: Any) -> Any:
        """Store a setting unless it has a value; returns the value that holds."""
        with self._write() as cursor:
            sql = "INSERT INTO setting VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
            cursor.change(sql, (self._collection_id, key, json.dumps(value, sort_keys=True)))
        return self.setting(key)

    def set(self, key: str, value: Any) -> None:
        """Store a setting in place of what it was."""
        with self._write() as cursor:
            cursor.change("DELETE FROM setting WHERE collection = ? AND key = ?", (self._collection_id, key))
            sql = "INSERT INTO setting VALUES (?, ?, ?)"
            cursor.change(sql, (self._collection_id, key, json.dumps(value, sort_keys=True)))

    # Reading people

    def count(self) -> int:
        """How many people there are."""
        with self._read() as cursor:
            return self._counts(cursor)[0]

    def _counts(self, cursor: Cursor) -> tuple[int, int]:
        rows = cursor.rows("SELECT n_people, n_photos FROM collection WHERE id = ?", (self._collection_id,))
        if not rows:
            raise self._damaged(f"the collection {self.collection!r} is gone")
        return self._integer(rows[0][0]), self._integer(rows[0][1])

    def _tally(self, cursor: Cursor) -> int:
        rows = cursor.rows("SELECT tally FROM collection WHERE id = ?", (self._collection_id,))
        return self._integer(rows[0][0] if rows else None)

    def people(self, *, after: str = "", limit: int | None = None) -> list[StoredPerson]:
        """People by name, those after the name `after` and at most `limit`."""
        if self._sealing.encrypted:  # the database does not know the order of encrypted names
            with self._read() as cursor:
                rows = cursor.rows(f"{_PERSON} WHERE p.collection = ? AND p.gone IS NULL", (self._collection_id,))
            known = sorted(self._people_of(rows), key=lambda one: one.state.name)
            return [one for one in known if one.state.name > after][:limit]
        with self._read() as cursor:
            rows = cursor.rows(
                f"{_INDEXED.format('name')} WHERE i.collection = ? AND i.gone IS NULL AND i.name > ? ORDER BY i.name LIMIT ?",
                (self._collection_id, after, 2**62 if limit is None else limit),
            )
            return self._people_of(self._of_table(rows))

    def get(self, ids: Sequence[int]) -> list[StoredPerson]:
        """The people with these ids who are there, in the order of `ids`."""
        found: dict[int, StoredPerson] = {}
        with self._read() as cursor:
            for part in _parts(ids):
                sql = f"{_PERSON} WHERE p.gone IS NULL AND p.collection = ? AND p.id IN ({_marks(part)})"
                found |= {one.id: one for one in self._people_of(cursor.rows(sql, (self._collection_id, *part)))}
        return [found[one] for one in ids if one in found]

    def find(self, name: str) -> StoredPerson | None:
        """The person of that name."""
        return self._found("name", name)

    def find_external(self, external_id: str) -> StoredPerson | None:
        """The person whom another system calls so."""
        return self._found("external_id", external_id)

    def _found(self, column: str, value: str) -> StoredPerson | None:
        with self._read() as cursor:
            return self._held(cursor, column, value)

    def _held(self, cursor: Cursor, column: str, value: str) -> StoredPerson | None:
        """The person who has that name or external id."""
        sql = f"{_INDEXED.format(column)} WHERE i.collection = ? AND i.gone IS NULL AND i.{column} = ?"
        rows = cursor.rows(sql, (self._collection_id, self._sealing.key_of_text(value)))
        people = self._people_of(self._of_table(rows))
        return people[0] if people else None

    def _of_table(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The columns out of the table, of rows that were found by an index; `GalleryError` where the two differ."""
        for *columns, gone, name, indexed in rows:
            if gone is not None or name != indexed:
                raise self._damaged("people are not called as their index says; was it copied while somebody wrote?")
            yield tuple(columns)

    def _people_of(self, rows: Iterable[Row]) -> list[StoredPerson]:
        return [
            StoredPerson(self._integer(key), self._state(name, external, extra), self._integer(n), self._time(added))
            for key, name, external, extra, added, n in rows
        ]

    def find_digest(self, digest: str) -> list[int]:
        """The ids of the people who have a photo with that digest."""
        raw = self._sealing.key_of(bytes.fromhex(digest))
        with self._read() as cursor:
            rows = cursor.rows(
                "SELECT DISTINCT face.person FROM face JOIN person ON person.id = face.person WHERE"
                " substr(face.digest, 1, 8) = ? AND face.digest = ? AND face.gone IS NULL AND person.collection = ?"
                " ORDER BY face.person",
                (raw[:8], raw, self._collection_id),
            )
        return [self._integer(one) for (one,) in rows]

    def photos(self, person: int) -> list[StoredPhoto]:
        """The photos of the person with that id, in the order they were added."""
        with self._read() as cursor:
            rows = cursor.rows(
                "SELECT face.id, face.person, face.digest, face.source, making.text, making.actor, face.added, face.quality, face.extra,"
                " crop.face FROM face LEFT JOIN making ON making.id = face.making LEFT JOIN crop ON crop.face = face.id"
                " WHERE face.person = ? AND face.gone IS NULL ORDER BY face.id",
                (person,),
            )
        return [
            StoredPhoto(
                self._integer(key), self._integer(owner), *self._known_of_photo(digest, extra)[:1], self._opened(source),
                self._text(making), self._text(actor), self._time(added), self._quality(quality),
                self._known_of_photo(digest, extra)[1], crop is not None,
            )
            for key, owner, digest, source, making, actor, added, quality, extra, crop in rows
        ]  # fmt: skip

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

    def embeddings(self, photos: Sequence[int]) -> npt.NDArray[np.float32]:
        """The vectors (n,D) of photos, removed ones included."""
        found: dict[int, bytes] = {}
        with self._read() as cursor:
            for part in _parts(photos):
                found |= dict(cursor.rows(f"SELECT id, vector FROM face WHERE id IN ({_marks(part)})", part))
        missing = [one for one in photos if one not in found]
        if missing:
            raise GalleryError(f"{self.name}: no photo has the number {missing[0]}")
        blobs = [found[one] for one in photos]
        dimension = len(self._opened_bytes(blobs[0])) // 2 if blobs else 0
        return self._vectors_of(blobs, dimension).astype(np.float32)

    def crop(self, photo: int) -> bytes | None:
        """The encoded crop of a photo, where it was kept."""
        with self._read() as cursor:
            rows = cursor.rows("SELECT data FROM crop WHERE face = ?", (photo,))
        return self._opened_bytes(rows[0][0]) if rows else None

    def vectors(self, dimension: int) -> StoredVectors:
        """Everything that is compared; `GalleryError` where it is damaged."""
        with self._read() as cursor:
            rows = cursor.rows(
                "SELECT person.id, person.name, person.external_id, person.extra, face.vector, face.quality FROM person JOIN face ON face.person = person.id"
                " WHERE person.collection = ? AND person.gone IS NULL AND face.gone IS NULL ORDER BY person.id, face.id",
                (self._collection_id,),
            )
        names = {one: self._state(*known).name for one, *known in {row[:4] for row in rows}}
        names = {one: names[one] for one in dict.fromkeys(row[0] for row in rows)}
        place = {one: k for k, one in enumerate(names)}
        qualities = [math.nan if (one := self._quality(value)) is None else one for *_, value in rows]
        return StoredVectors(
            list(names.values()),
            np.array([place[one] for one, *_ in rows], np.int64),
            self._vectors_of([row[4] for row in rows], dimension).astype(np.float32),
            np.array(qualities, np.float32),
        )

    # Changing people

    def add(self, name: str, entry: Entry) -> bool:
        """Store one embedding under a name; False when this crop is there already."""
        vector = np.ascontiguousarray(entry.embedding, "<f2").tobytes()
        digest, now = self._sealing.key_of(bytes.fromhex(entry.digest)), int(time.time())
        known: dict[str, Any] = entry.metadata
        if self._sealing.encrypted:
            known = {"digest": entry.digest, "metadata": entry.metadata}
        with self._write() as cursor:
            person = self._held(cursor, "name", name)
            new, stamp = person is None, 0
            if person is not None:
                owner = person.id
                held = "SELECT id FROM face WHERE person = ? AND digest = ? AND gone IS NULL"
                if entry.digest in person.state.rejected:
                    raise GalleryError(f"{self.name}: somebody said that this photo does not show {name}; left out")
                if cursor.rows(held, (owner, digest)):
                    return False
            else:
                owner, stamp = self._new_person(cursor, PersonState(name), now)
            photo = cursor.insert(
                "INSERT INTO face (person, making, added, quality, digest, source, extra, vector) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (owner, self._making(cursor, entry.made_by), now, entry.quality, digest, self._sealing.seal_text(entry.source),
                 self._sealing.seal_text(json.dumps(known, sort_keys=True)) if known else None,
                 self._sealing.seal(vector)),
            )  # fmt: skip
            if entry.crop is not None:
                cursor.change("INSERT INTO crop VALUES (?, ?)", (photo, self._sealing.seal(entry.crop)))
            sum_ = tally.added(self._tally(cursor), tally.of_photos([photo], [owner]), stamp)
            sql = "UPDATE collection SET n_people = n_people + ?, n_photos = n_photos + 1, tally = ? WHERE id = ?"
            cursor.change(sql, (int(new), sum_, self._collection_id))
            what = {"photo": photo, "person": owner} | ({"new": True} if new else {})
            self._log(cursor, "enroll", "", json.dumps(what))
            self._touch(cursor, [owner])
        return True

    def _new_person(self, cursor: Cursor, state: PersonState, now: int) -> tuple[int, int]:
        """The id and the stamp."""
        sql = "INSERT INTO person (collection, name, external_id, extra, added, stamp) VALUES (?, ?, ?, ?, ?, ?)"
        stamp = tally.new_stamp()
        return cursor.insert(sql, (self._collection_id, *self._columns_of(state), now, stamp)), stamp

    def _columns_of(self, state: PersonState) -> tuple[str, str | None, str | None]:
        """The name, external id and the rest as they are written; of encrypted ones the columns hold keys."""
        known = state_to_json(state) if self._sealing.encrypted else extra_of(state)
        external = self._sealing.key_of_text(state.external_id) if state.external_id else None
        extra = self._sealing.seal_text(json.dumps(known, sort_keys=True)) if known else None
        return self._sealing.key_of_text(state.name), external, extra

    def apply(self, change: Change, *, undoes: int | None = None) -> int:
        """Do a change and log it; returns its number in the log."""
        from facespace.identification.stores.sql_changes import apply_change

        with self._write() as cursor:
            if undoes is not None and not cursor.change(
                "UPDATE log SET undone = 1 WHERE id = ? AND undone = 0 AND collection = ?",
                (undoes, self._collection_id),
            ):
                raise Conflict(f"{self.name}: change {undoes} was undone already")
            change, touched = apply_change(self, cursor, change)
            entry = self._log(cursor, change.kind, change.text, change_to_json(change))
            self._touch(cursor, touched)
        return entry

    def log(self, limit: int = 20) -> list[LogEntry]:
        """The last changes, the latest first."""
        from facespace.identification.stores.sql_changes import logged_change

        with self._read() as cursor:
            sql = "SELECT id, at, actor, kind, text, change, undone FROM log WHERE collection = ? ORDER BY id DESC LIMIT ?"
            entries = []
            for key, at, actor, kind, text, change, undone in cursor.rows(sql, (self._collection_id, limit)):
                what, told = logged_change(self, cursor, kind, change)
                entries.append(
                    LogEntry(self._integer(key), self._time(at), self._text(actor), self._text(kind),
                             told or self._opened(text), what, bool(undone))
                )  # fmt: skip
        return entries

    def erase(self, people: Sequence[int] | None = None, *, before: float | None = None) -> int:
        """Erase removed photos and people for good; returns how many photos there were."""
        from facespace.identification.stores.sql_changes import erase_removed

        with self._write() as cursor:
            n_photos, told, touched = erase_removed(self, cursor, people, before)
            for text in told:
                self._log(cursor, "erase", text, None)
            self._touch(cursor, touched)
        return n_photos

    def _log(self, cursor: Cursor, kind: str, text: str, change: str | None) -> int:
        sql = "INSERT INTO log (collection, at, actor, kind, text, change, undone) VALUES (?, ?, ?, ?, ?, ?, 0)"
        sealed = None if change is None else self._sealing.seal_text(change)
        values = (self._collection_id, int(time.time()), self._actor, kind, self._sealing.seal_text(text), sealed)
        entry = cursor.insert(sql, values)
        cursor.change("DELETE FROM log WHERE id = ? AND kind = 'enroll'", (entry - _KEPT_LOG,))
        return entry

    def _touch(self, cursor: Cursor, people: Sequence[int]) -> None:
        """Tell other processes that the templates of these people changed."""
        seq = self._seq(cursor)
        for person in people:
            seq += 1
            cursor.change("INSERT INTO touched VALUES (?, ?)", (seq, person))
            cursor.change("DELETE FROM touched WHERE seq = ?", (seq - _KEPT_TOUCHED,))
        cursor.change("UPDATE head SET seq = ? WHERE id = 1", (seq,))
        self._people_changed(cursor, people)

    def _seq(self, cursor: Cursor) -> int:
        rows = cursor.rows("SELECT seq FROM head WHERE id = 1")
        if not rows:
            raise self._damaged("its head is gone")
        return self._integer(rows[0][0])

    def _making(self, cursor: Cursor, text: str) -> int:
        """The number of what computed a vector and who enrolled it, which many photos share."""
        rows = cursor.rows("SELECT id FROM making WHERE text = ? AND actor = ?", (text, self._actor))
        if rows:
            return self._integer(rows[0][0])
        return cursor.insert("INSERT INTO making (text, actor) VALUES (?, ?)", (text, self._actor))

    # Values out of a file that anybody may have written

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
        if seconds >= 2**38:  # the year 10680
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


_COLUMNS = (
    "p.id, p.name, p.external_id, p.extra, p.added,"
    " (SELECT count(*) FROM face WHERE face.person = p.id AND face.gone IS NULL)"
)
_PERSON = f"SELECT {_COLUMNS} FROM person p"
# Joined with itself, so that names come from the table and from its index: in a torn copy of a file they may differ.
_INDEXED = f"SELECT {_COLUMNS}, p.gone, p.{{0}}, i.{{0}} FROM person p JOIN person i ON i.id = p.id"


def _parts(ids: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), _A_TIME):
        yield [int(one) for one in ids[start : start + _A_TIME]]


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _user() -> str:
    """Who changes the gallery, for its log."""
    try:
        return plain_text(getpass.getuser())[:100]
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"
