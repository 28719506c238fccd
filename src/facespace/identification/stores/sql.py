"""The part of a store that SQLite and PostgreSQL have in common: the tables and the statements on them."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import GalleryError
from facespace.identification.people_index import Nearest
from facespace.identification.stores import tally
from facespace.identification.stores.actors import actor_name
from facespace.identification.stores.changes import change_to_json
from facespace.identification.stores.protocol import (
    Change,
    Conflict,
    Entry,
    LogEntry,
    NoSuchCollection,
    PersonState,
    StoredPerson,
    StoredPhoto,
    StoredVectors,
)
from facespace.identification.stores.sql_tables import Cursor, Row
from facespace.identification.stores.sql_values import SqlValues

_KEPT_TOUCHED = 100_000  # changes that are kept; a process that missed more must read all people again
_KEPT_LOG = 1_000  # enrolments that can be undone; other changes stay in the log
_VALUES_PER_STATEMENT = 500  # ids in one statement


class SqlStore(SqlValues):
    """A store in an SQL database. Subclasses implement `_read` and `_write`, which give cursors of the database."""

    def __init__(self, collection: str) -> None:
        super().__init__(collection)
        self._lock = threading.RLock()

    @abstractmethod
    def _read(self) -> contextlib.AbstractContextManager[Cursor]:
        """Enter a read transaction, which sees one consistent state of the database."""

    @abstractmethod
    def _write(self) -> contextlib.AbstractContextManager[Cursor]:
        """Enter an atomic write transaction; others wait. Changes are on disk once the context ends without error."""

    @abstractmethod
    def _people_changed(self, cursor: Cursor, people: Sequence[int]) -> None:
        """Update data derived from the photos of these people, within the same transaction."""

    @abstractmethod
    def nearest(self, probes: npt.NDArray[np.float32], k: int) -> Nearest:
        """Return the k most similar people of each probe (N,D)."""

    # Settings and collections

    def _open_collection(self, create: bool) -> None:
        with self._read() as cursor:
            found = cursor.rows("SELECT id FROM collection WHERE name = ?", (self.collection,))
        if not found and not create:
            there = self.collections()
            has = ", ".join(there[:5]) or "none"
            raise NoSuchCollection(f"{self.name}: no collection {self.collection!r}; it has: {has}", there)
        if not found:
            with self._write() as cursor:
                found = cursor.rows("SELECT id FROM collection WHERE name = ?", (self.collection,))
                if not found:  # no other process has created it meanwhile
                    sql = "INSERT INTO collection (name, n_people, n_photos) VALUES (?, 0, 0)"
                    found = [(cursor.insert(sql, (self.collection,)),)]
        self._collection_id = self._integer(found[0][0])

    def collections(self) -> list[str]:
        """Return the names of all collections."""
        with self._read() as cursor:
            return [self._text(name) for (name,) in cursor.rows("SELECT name FROM collection ORDER BY name")]

    def version(self) -> int:
        """Return a number that changes with every change of the people of any collection."""
        with self._read() as cursor:
            return self._seq(cursor)

    def setting(self, key: str) -> Any:
        """Return a stored setting, or None."""
        with self._read() as cursor:
            sql = "SELECT value FROM setting WHERE collection = ? AND key = ?"
            found = cursor.rows(sql, (self._collection_id, key))
        return self._json(found[0][0], f"the setting {key}") if found else None

    def set_once(self, key: str, value: Any) -> Any:
        """Store a setting unless it already has a value; return the stored value."""
        with self._write() as cursor:
            sql = "INSERT INTO setting VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
            cursor.change(sql, (self._collection_id, key, json.dumps(value, sort_keys=True)))
        return self.setting(key)

    def set(self, key: str, value: Any) -> None:
        """Store a setting, replacing the old value."""
        with self._write() as cursor:
            cursor.change("DELETE FROM setting WHERE collection = ? AND key = ?", (self._collection_id, key))
            sql = "INSERT INTO setting VALUES (?, ?, ?)"
            cursor.change(sql, (self._collection_id, key, json.dumps(value, sort_keys=True)))

    # Reading people

    def count(self, *, photos: bool = False) -> int:
        """Return the number of people, or with `photos` the number of all their photos."""
        with self._read() as cursor:
            return self._counts(cursor)[1 if photos else 0]

    def people(self, *, after: str = "", limit: int | None = None) -> list[StoredPerson]:
        """Return people sorted by name: at most `limit` after the name `after`."""
        if self._sealing.encrypted:  # the database cannot sort encrypted names
            with self._read() as cursor:
                rows = cursor.rows(f"{_PERSON} WHERE p.collection = ? AND p.gone IS NULL", (self._collection_id,))
            people = sorted(self._people_of(rows), key=lambda one: one.state.name)
            return [one for one in people if one.state.name > after][:limit]
        with self._read() as cursor:
            rows = cursor.rows(
                f"{_INDEXED.format('name')} WHERE i.collection = ? AND i.gone IS NULL AND i.name > ? ORDER BY i.name LIMIT ?",
                (self._collection_id, after, 2**62 if limit is None else limit),
            )
            return self._people_of(self._of_table(rows))

    def get(self, ids: Sequence[int]) -> list[StoredPerson]:
        """Return the people with these ids, in the order of `ids`, leaving out unknown ids."""
        found: dict[int, StoredPerson] = {}
        with self._read() as cursor:
            for part in _parts(ids):
                sql = f"{_PERSON} WHERE p.gone IS NULL AND p.collection = ? AND p.id IN ({_marks(part)})"
                found |= {one.id: one for one in self._people_of(cursor.rows(sql, (self._collection_id, *part)))}
        return [found[one] for one in ids if one in found]

    def find(self, name: str) -> StoredPerson | None:
        """Return the person with that name, or None."""
        return self._found("name", name)

    def find_external(self, external_id: str) -> StoredPerson | None:
        """Return the person with that external id, or None."""
        return self._found("external_id", external_id)

    def _found(self, column: str, value: str) -> StoredPerson | None:
        with self._read() as cursor:
            return self._find_by(cursor, column, value)

    def _find_by(self, cursor: Cursor, column: str, value: str) -> StoredPerson | None:
        """Return the person who has that name or external id, or None."""
        sql = f"{_INDEXED.format(column)} WHERE i.collection = ? AND i.gone IS NULL AND i.{column} = ?"
        rows = cursor.rows(sql, (self._collection_id, self._sealing.key_of_text(value)))
        people = self._people_of(self._of_table(rows))
        return people[0] if people else None

    def _of_table(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows that an index has found, without their last three columns, which serve only the check.

        Raises `GalleryError` if the table and the index disagree about a row.
        """
        for *columns, gone, name, indexed in rows:
            if gone is not None or name != indexed:
                raise self._damaged("names in the table and in its index differ; was it copied during a change?")
            yield tuple(columns)

    def _people_of(self, rows: Iterable[Row]) -> list[StoredPerson]:
        return [
            StoredPerson(self._integer(key), self._state(name, external, extra), self._integer(n), self._time(added))
            for key, name, external, extra, added, n in rows
        ]

    def find_digest(self, digest: str) -> list[int]:
        """Return the ids of the people who have a photo with that digest."""
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
        """Return the photos of the person with that id, in the order they were added."""
        with self._read() as cursor:
            rows = cursor.rows(
                "SELECT face.id, face.person, face.digest, face.source, making.text, making.actor, face.added, face.quality, face.extra,"
                " crop.face FROM face LEFT JOIN making ON making.id = face.making LEFT JOIN crop ON crop.face = face.id"
                " WHERE face.person = ? AND face.gone IS NULL ORDER BY face.id",
                (person,),
            )
        return [
            StoredPhoto(
                self._integer(key), self._integer(owner), *self._photo_fields(digest, extra)[:1], self._opened(source),
                self._text(making), self._text(actor), self._time(added), self._quality(quality),
                self._photo_fields(digest, extra)[1], crop is not None,
            )
            for key, owner, digest, source, making, actor, added, quality, extra, crop in rows
        ]  # fmt: skip

    def embeddings(self, photos: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the vectors (n,D) of photos, including removed photos."""
        found: dict[int, bytes] = {}
        with self._read() as cursor:
            for part in _parts(photos):
                found |= dict(cursor.rows(f"SELECT id, vector FROM face WHERE id IN ({_marks(part)})", part))
        missing = [one for one in photos if one not in found]
        if missing:
            raise GalleryError(f"{self.name}: no photo has the id {missing[0]}")
        blobs = [found[one] for one in photos]
        dimension = len(self._opened_bytes(blobs[0])) // 2 if blobs else 0
        return self._vectors_of(blobs, dimension).astype(np.float32)

    def crop(self, photo: int) -> bytes | None:
        """Return the encoded crop of a photo, or None if it was not stored."""
        with self._read() as cursor:
            rows = cursor.rows("SELECT data FROM crop WHERE face = ?", (photo,))
        return self._opened_bytes(rows[0][0]) if rows else None

    def vectors(self, dimension: int) -> StoredVectors:
        """Return all people and embeddings; raise `GalleryError` if they are damaged."""
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

    def add(self, name: str, entry: Entry, person: int | None = None) -> bool:
        """Store one photo under a name; return False if the person already has this crop."""
        digest, now = self._sealing.key_of(bytes.fromhex(entry.digest)), int(time.time())
        with self._write() as cursor:
            found = self._find_by(cursor, "name", name)
            if person is not None and person != (0 if found is None else found.id):
                raise Conflict(f"{self.name}: {name!r} was changed meanwhile; try again")
            new, stamp = found is None, 0
            if found is not None:
                owner = found.id
                same = "SELECT id FROM face WHERE person = ? AND digest = ? AND gone IS NULL"
                if entry.digest in found.state.rejected:
                    raise GalleryError(f"{self.name}: somebody said that this photo does not show {name}; left out")
                if cursor.rows(same, (owner, digest)):
                    return False
            else:
                owner, stamp = self._new_person(cursor, PersonState(name), now)
            photo = self._new_photo(cursor, owner, entry, self._making(cursor, entry.made_by), now)
            sum_ = tally.added(self._tally(cursor), tally.of_photos([photo], [owner]), stamp)
            sql = "UPDATE collection SET n_people = n_people + ?, n_photos = n_photos + 1, tally = ? WHERE id = ?"
            cursor.change(sql, (int(new), sum_, self._collection_id))
            what = {"photo": photo, "person": owner} | ({"new": True} if new else {})
            self._log(cursor, "enroll", "", json.dumps(what))
            self._touch(cursor, [owner])
        return True

    def _new_photo(self, cursor: Cursor, owner: int, entry: Entry, making: int, added: int) -> int:
        """Insert a new photo of a person within a change; return its id."""
        fields: dict[str, Any] = entry.metadata
        if self._sealing.encrypted:
            fields = {"digest": entry.digest, "metadata": entry.metadata}
        vector = np.ascontiguousarray(entry.embedding, "<f2").tobytes()
        photo = cursor.insert(
            "INSERT INTO face (person, making, added, quality, digest, source, extra, vector) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (owner, making, added, entry.quality, self._sealing.key_of(bytes.fromhex(entry.digest)),
             self._sealing.seal_text(entry.source),
             self._sealing.seal_text(json.dumps(fields, sort_keys=True)) if fields else None, self._sealing.seal(vector)),
        )  # fmt: skip
        if entry.crop is not None:
            cursor.change("INSERT INTO crop VALUES (?, ?)", (photo, self._sealing.seal(entry.crop)))
        return photo

    def apply(self, change: Change, *, undoes: int | None = None) -> int:
        """Apply a change and log it; return its number in the log."""
        from facespace.identification.stores.sql_changes import apply_change

        with self._write() as cursor:
            if undoes is not None and not cursor.change(
                "UPDATE log SET undone = 1 WHERE id = ? AND undone = 0 AND collection = ?",
                (undoes, self._collection_id),
            ):
                raise Conflict(f"{self.name}: change {undoes} was already undone")
            change, touched = apply_change(self, cursor, change)
            entry = self._log(cursor, change.kind, change.text, change_to_json(change))
            self._touch(cursor, touched)
        return entry

    def log(self, limit: int = 20) -> list[LogEntry]:
        """Return the last changes, latest first."""
        from facespace.identification.stores.sql_changes import logged_change

        with self._read() as cursor:
            sql = "SELECT id, at, actor, kind, text, change, undone FROM log WHERE collection = ? ORDER BY id DESC LIMIT ?"
            entries = []
            for key, at, actor, kind, text, change, undone in cursor.rows(sql, (self._collection_id, limit)):
                logged, line = logged_change(self, cursor, kind, change)
                entries.append(
                    LogEntry(self._integer(key), self._time(at), self._text(actor), self._text(kind),
                             line or self._opened(text), logged, bool(undone))
                )  # fmt: skip
        return entries

    def erase(self, people: Sequence[int] | None = None, *, before: float | None = None) -> int:
        """Erase removed photos and people permanently; return how many photos were erased."""
        from facespace.identification.stores.sql_changes import erase_removed

        with self._write() as cursor:
            n_photos, texts, touched = erase_removed(self, cursor, people, before)
            for text in texts:
                self._log(cursor, "erase", text, None)
            self._touch(cursor, touched)
        return n_photos

    def drop(self) -> None:
        """Erase the whole collection: all people, settings and the log."""
        people = "SELECT id FROM person WHERE collection = ?"
        own = (self._collection_id,)
        with self._write() as cursor:
            self._counts(cursor)
            cursor.change(f"DELETE FROM crop WHERE face IN (SELECT id FROM face WHERE person IN ({people}))", own)
            cursor.change(f"DELETE FROM face WHERE person IN ({people})", own)
            for table in ("person", "setting", "log"):
                cursor.change(f"DELETE FROM {table} WHERE collection = ?", own)
            self._forget_collection(cursor)
            cursor.change("DELETE FROM collection WHERE id = ?", own)
            # A skipped number makes other processes, which read the changes in order, read everything again and notice
            # that the collection is gone.
            seq = self._seq(cursor) + 2
            cursor.change("INSERT INTO touched VALUES (?, 0)", (seq,))
            cursor.change("UPDATE head SET seq = ? WHERE id = 1", (seq,))

    def _forget_collection(self, cursor: Cursor) -> None:
        """Delete other data that the database keeps for the collection, within a change."""

    def _log(self, cursor: Cursor, kind: str, text: str, change: str | None) -> int:
        sql = "INSERT INTO log (collection, at, actor, kind, text, change, undone) VALUES (?, ?, ?, ?, ?, ?, 0)"
        sealed = None if change is None else self._sealing.seal_text(change)
        values = (self._collection_id, int(time.time()), actor_name(), kind, self._sealing.seal_text(text), sealed)
        entry = cursor.insert(sql, values)
        cursor.change("DELETE FROM log WHERE id = ? AND kind = 'enroll'", (entry - _KEPT_LOG,))
        return entry

    def _touch(self, cursor: Cursor, people: Sequence[int]) -> None:
        """Record for other processes that the templates of these people changed."""
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
            raise self._damaged("the row of its table head is missing")
        return self._integer(rows[0][0])

    def _making(self, cursor: Cursor, text: str, actor: str = "") -> int:
        """Return the id of the row in the table `making` with this `text` and actor; insert the row if it is missing.

        `text` is the runtime that computed an embedding; the actor is who enrolled the photo.
        """
        actor = actor or actor_name()
        rows = cursor.rows("SELECT id FROM making WHERE text = ? AND actor = ?", (text, actor))
        if rows:
            return self._integer(rows[0][0])
        return cursor.insert("INSERT INTO making (text, actor) VALUES (?, ?)", (text, actor))


_COLUMNS = (
    "p.id, p.name, p.external_id, p.extra, p.added,"
    " (SELECT count(*) FROM face WHERE face.person = p.id AND face.gone IS NULL)"
)
_PERSON = f"SELECT {_COLUMNS} FROM person p"
# The self-join reads names from both the table and its index: they may differ in a copy made during a change.
_INDEXED = f"SELECT {_COLUMNS}, p.gone, p.{{0}}, i.{{0}} FROM person p JOIN person i ON i.id = p.id"


def _parts(ids: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), _VALUES_PER_STATEMENT):
        yield [int(one) for one in ids[start : start + _VALUES_PER_STATEMENT]]


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
