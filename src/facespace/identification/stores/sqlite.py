"""A gallery's vectors in one SQLite file, shared by several processes.

Every write is one transaction on a write-ahead log with full synchronisation: what a call returned from is on
disk, and a process killed at any moment leaves a file that opens. Deleted bytes are overwritten (`secure_delete`)
and the log is folded back, so an erased vector is in no file.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from facespace.errors import GalleryError, UnknownPerson
from facespace.identification.stores.protocol import Entry, StoredVectors

APPLICATION_ID = 0x66616365  # "face"
VERSION = 2  # 1 had no quality
_BUSY_SECONDS = 60.0
_LITTLE_ROOM = 2**20  # bytes; SQLite's own files beside a gallery take a part of it

_SCHEMA = (
    "CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, added TEXT NOT NULL)",
    "CREATE TABLE face ("
    " id INTEGER PRIMARY KEY,"
    " person INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,"
    " digest TEXT NOT NULL,"  # SHA-256 of the crop: the same photo enrolled twice counts once
    " source TEXT NOT NULL,"
    " made_by TEXT NOT NULL,"  # runtime and precision
    " embedding BLOB NOT NULL,"
    " added TEXT NOT NULL,"
    " quality REAL,"  # of the face, from 0 to 1; NULL where it is unknown
    " UNIQUE (person, digest))",
)


class SQLiteStore:
    """Embeddings by person's name in one SQLite file.

    `create` makes a missing file; otherwise `GalleryError` says it is missing. A file that is no gallery, or is
    damaged, raises `GalleryError` too and is left as it is. Safe to share between threads.
    """

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        if self.path.is_dir():
            raise GalleryError(f"{self.path}: a folder, where a gallery file was expected")
        if not self.path.exists():
            if not create:
                raise GalleryError(f"{self.path}: no such gallery; enrolling somebody makes one (facespace enroll)")
            if not self.path.parent.is_dir():
                raise GalleryError(f"{self.path}: the folder {self.path.parent} does not exist")
        with self._errors():
            self._connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(create)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, create: bool) -> None:
        # In this order: another process may be making the tables, and gives the file its id with them.
        (n_tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (application_id,) = self._connection.execute("PRAGMA application_id").fetchone()
        if application_id != APPLICATION_ID and (n_tables or application_id):
            raise GalleryError(f"{self.path}: an SQLite file, but not a gallery of facespace")
        if not n_tables and not create:  # whoever was making it was stopped, or it never was one
            raise GalleryError(f"{self.path}: an empty file, no gallery; enrolling somebody makes one of it")
        self._use_log()
        for pragma in ("synchronous = FULL", "secure_delete = ON", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        if not n_tables:
            with self._transaction():
                (n_tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if not n_tables:  # another process may have been first
                    for statement in _SCHEMA:
                        self._connection.execute(statement)
                    self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    self._connection.execute(f"PRAGMA user_version = {VERSION}")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise GalleryError(
                f"{self.path}: written by a newer facespace (format {version}, this one reads up to {VERSION}); upgrade"
            )
        if version < VERSION:
            with self._transaction():
                (version,) = self._connection.execute("PRAGMA user_version").fetchone()
                if version < VERSION:  # another process may have been first
                    self._connection.execute("ALTER TABLE face ADD COLUMN quality REAL")
                    self._connection.execute(f"PRAGMA user_version = {VERSION}")

    def _use_log(self) -> None:
        """Processes that make the file together may each hold what the other waits for: SQLite then says so at once."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.005, 0.05))  # noqa: S311 - not a secret
            else:
                return

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # locked, read-only, disk full: the file itself may be good
            raise GalleryError(f"{self.path}: {error}{self._remedy(str(error))}") from None
        except sqlite3.Error as error:
            if "closed database" in str(error):
                raise GalleryError(f"{self.path}: the gallery was closed; open it again") from None
            raise GalleryError(f"{self.path}: damaged, or no gallery of facespace ({error})") from None
        except UnicodeDecodeError:
            raise GalleryError(f"{self.path}: damaged (a text in it is not UTF-8)") from None

    def _remedy(self, said: str) -> str:
        """What to do, as the end of a message. SQLite names a full disk as such only where it writes the gallery itself."""
        if "full" in said or ("disk I/O" in said and shutil.disk_usage(self.path.parent).free < _LITTLE_ROOM):
            return "; make room and start the same command again"
        if "disk I/O" in said:
            return "; its disk fails, or limits files: copy it to another place"
        if "readonly" in said or "unable to open" in said:
            return "; get the right to write to it and its folder, or copy it to another place"
        return "; end the other program that uses it" if "locked" in said else ""

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One atomic change, alone among all processes."""
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite ends it itself where the disk is full
                    self._connection.execute("ROLLBACK")
                raise

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    def close(self) -> None:
        """Close the connection; nothing is pending."""
        with self._lock:
            self._connection.close()

    def version(self) -> int:
        """A number that changes whenever this or another process has changed the file."""
        with self._lock, self._errors():
            (elsewhere,) = self._connection.execute("PRAGMA data_version").fetchone()
            return int(elsewhere) + (self._connection.total_changes << 32)

    def setting(self, key: str) -> Any:
        """A stored setting, or None."""
        with self._lock, self._errors():
            row = self._connection.execute("SELECT value FROM setting WHERE key = ?", (key,)).fetchone()
        try:
            return None if row is None else json.loads(row[0])
        except ValueError:
            raise GalleryError(f"{self.path}: damaged (the setting {key} is not JSON)") from None

    def set_once(self, key: str, value: Any) -> Any:
        """Store a setting unless it has a value; returns the value that holds."""
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO setting VALUES (?, ?)", (key, json.dumps(value, sort_keys=True)))
        return self.setting(key)

    def set(self, key: str, value: Any) -> None:
        """Store a setting in place of what it was."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, json.dumps(value, sort_keys=True)))

    def add(self, name: str, entry: Entry) -> bool:
        """Store one embedding under a name; False when this crop is there already."""
        blob = np.ascontiguousarray(entry.embedding, "<f4").tobytes()
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO person (name, added) VALUES (?, ?)", (name, now))
            cursor = connection.execute(
                "INSERT OR IGNORE INTO face (person, digest, source, made_by, embedding, added, quality)"
                " SELECT id, ?, ?, ?, ?, ?, ? FROM person WHERE name = ?",
                (entry.digest, entry.source, entry.made_by, blob, now, entry.quality, name),
            )
            return cursor.rowcount == 1

    def people(self) -> list[tuple[str, int, str]]:
        """(name, number of photos, day added) of everyone, by name."""
        with self._lock, self._errors():
            return self._connection.execute(
                "SELECT name, count(face.id), person.added FROM person LEFT JOIN face ON face.person = person.id"
                " GROUP BY person.id ORDER BY name"
            ).fetchall()

    def rename(self, old: str, new: str) -> None:
        """Give a person another name; `GalleryError` when somebody has it."""
        with self._transaction() as connection:
            if connection.execute("SELECT 1 FROM person WHERE name = ?", (new,)).fetchone() and new != old:
                raise GalleryError(f"{self.path}: somebody is called {new!r} already")
            if connection.execute("UPDATE person SET name = ? WHERE name = ?", (new, old)).rowcount == 0:
                raise UnknownPerson(f"{self.path}: nobody is called {old!r}")

    def remove(self, name: str) -> int:
        """Erase a person and every embedding, from the disk too; returns how many embeddings there were."""
        with self._transaction() as connection:
            row = connection.execute("SELECT id FROM person WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise UnknownPerson(f"{self.path}: nobody is called {name!r}")
            n_faces = connection.execute("DELETE FROM face WHERE person = ?", row).rowcount
            connection.execute("DELETE FROM person WHERE id = ?", row)
        with self._lock, self._errors():
            (busy, _, _) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise GalleryError(
                f"{self.path}: {name!r} is removed, but another program keeps the file busy and the bytes are still "
                "on disk; they go when the last program closes the gallery"
            )
        return int(n_faces)

    def vectors(self, dimension: int) -> StoredVectors:
        """Everything that is compared; `GalleryError` where it is damaged."""
        with self._lock, self._errors():
            rows = self._connection.execute(
                "SELECT person.name, face.embedding, face.quality FROM face JOIN person ON person.id = face.person"
                " ORDER BY person.id, face.id"
            ).fetchall()
        if any(len(blob) != 4 * dimension for _, blob, _ in rows):
            raise GalleryError(f"{self.path}: damaged (an embedding is not of {dimension} numbers)")
        names = list(dict.fromkeys(name for name, _, _ in rows))
        index = {name: k for k, name in enumerate(names)}
        owners = np.array([index[name] for name, _, _ in rows], np.int64)
        matrix = np.frombuffer(b"".join(blob for _, blob, _ in rows), "<f4").reshape(len(rows), dimension)
        if not (np.abs(np.linalg.norm(matrix, axis=1) - 1) < 1e-3).all():  # so written, NaN fails it too
            raise GalleryError(f"{self.path}: damaged (an embedding is not of length 1)")
        qualities = np.array([quality if isinstance(quality, float) else np.nan for *_, quality in rows], np.float32)
        if ((qualities < 0) | (qualities > 1)).any():
            raise GalleryError(f"{self.path}: damaged (the quality of a face is not between 0 and 1)")
        return StoredVectors(names, owners, matrix.astype(np.float32), qualities)
