"""A gallery in one SQLite file, shared by several processes.

Every change is one transaction with a rollback journal and full synchronisation: what a call returned from is in the file
itself, which is complete whenever no change runs, and a process killed at any moment leaves a file that opens. Deleted
bytes are overwritten (`secure_delete`). Nothing in a file is believed before it was checked: see `sqlite_checks`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import GalleryError
from facespace.identification.people_index import Nearest, PeopleIndex
from facespace.identification.stores.sealing import VARIABLE, new_sealing, sealing_of
from facespace.identification.stores.sql import SqlStore
from facespace.identification.stores.sql_tables import VERSION
from facespace.identification.stores.sqlite_checks import check_file, check_whole
from facespace.identification.stores.sqlite_rows import changed_rows, check_everybody, check_on_opening, everybody
from facespace.identification.stores.sqlite_tables import PAGE, SCHEMA, SQLiteCursor, make_tables
from facespace.io.files import remedy, sync_file, sync_folder
from facespace.io.text import one_line

_BUSY_SECONDS = 60.0
_ASKED_MS = 20  # milliseconds in which SQLite itself asks for a lock again
_LITTLE_ROOM = 2**20  # bytes; SQLite's own files beside a gallery take a part of it
_MAX_VALUE = 64 * 2**20  # bytes of one value in a file


class SQLiteStore(SqlStore):
    """One collection of an SQLite file.

    `create` makes a missing file and a missing collection; otherwise `GalleryError` says it is missing. A file that is no
    gallery, is damaged, or is a copy that was made while somebody wrote, raises `GalleryError` too and is left as it is.
    Files of older formats are brought to this one; `remarks` say so. Safe to share between threads; in a child process after
    `fork` open the file again.
    """

    def __init__(self, path: str | os.PathLike[str], *, collection: str = "default", create: bool = False) -> None:
        super().__init__(collection)
        self.path = Path(path)
        self.remarks: tuple[str, ...] = ()
        self._index: PeopleIndex | None = None
        self._index_seq = -1
        self._index_of: tuple[int, Any] = (0, None)  # numbers of a vector, and the setting "templates"
        self._process = os.getpid()
        self._index_lock = threading.Lock()
        if self.path.is_dir():
            raise GalleryError(f"{self.path}: a folder, where a gallery file was expected")
        if not self.path.exists():
            if not create:
                raise GalleryError(f"{self.path}: no such gallery; enrolling somebody makes one (facespace enroll)")
            if not self.path.parent.is_dir():
                raise GalleryError(f"{self.path}: the folder {self.path.parent} does not exist")
        with self._errors():
            self._connection = _connect(self.path)
            try:
                self._prepare(create)
                self._open_collection(create)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, create: bool) -> None:
        version = self._retried(functools.partial(check_file, self._connection, self.path))
        if version == 0 and not create:  # whoever was making it was stopped, or it never was one
            raise GalleryError(f"{self.path}: an empty file, no gallery; enrolling somebody makes one of it")
        if version == 0:
            self._make()
        elif version < VERSION:
            from facespace.identification.stores.sqlite_migration import migrate

            self._retried(functools.partial(migrate, self._connection, self.path, version))
            self.remarks = (f"{self.path}: brought from format {version} to {VERSION}; older versions do not open it",)
        self._without_log()
        for pragma in ("synchronous = EXTRA", "secure_delete = ON", "trusted_schema = OFF", "cell_size_check = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        # SQLite asks for a lock ten times a second in the end, and among many processes is the last one for half a minute.
        # From here on `_retried` waits instead.
        self._connection.execute(f"PRAGMA busy_timeout = {_ASKED_MS}")
        with self._read() as cursor:
            check_whole(self._connection, self.path, SCHEMA)
            told = cursor.rows("SELECT value FROM setting WHERE collection = 0 AND key = 'sealing'")
        self._sealing = sealing_of(
            self._json(told[0][0], "what it tells of its encryption") if told else None, self.name
        )
        if not self._sealing.encrypted and os.environ.get(VARIABLE):
            self.remarks += (
                f"{self.path}: not encrypted though {VARIABLE} is set; a copy of it will be (facespace gallery copy)",
            )

    def _without_log(self) -> None:
        """Keep the file complete by itself: another program may have switched on a write-ahead log beside it."""
        if self._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
            self._retried(lambda: self._connection.execute("PRAGMA journal_mode = DELETE").fetchone())

    def _open_collection(self, create: bool) -> None:
        super()._open_collection(create)
        with self._read() as cursor:
            check_on_opening(self, cursor)

    def _make(self) -> None:
        self._connection.execute(f"PRAGMA page_size = {PAGE}")
        with self._write_raw() as connection:
            (n_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if n_tables:  # another process was first
                return
            make_tables(connection)
            _, told = new_sealing()
            if told is not None:
                connection.execute("INSERT INTO setting VALUES (0, 'sealing', ?)", (json.dumps(told),))

    # Transactions

    def _retried(self, work: Any) -> Any:
        """What `work` gives; SQLite says at once that a file is locked where two processes wait for each other."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return work()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.001, 0.02))  # noqa: S311 - not a secret

    @contextlib.contextmanager
    def _read(self) -> Iterator[SQLiteCursor]:
        with self._lock, self._errors():
            self._check_process()
            if self._connection.in_transaction:  # within a change, or within another reading
                yield SQLiteCursor(self._connection)
                return
            self._retried(lambda: self._begin("BEGIN", "SELECT count(*) FROM sqlite_master WHERE rowid = 1"))
            try:
                yield SQLiteCursor(self._connection)
            finally:
                self._connection.execute("COMMIT")

    def _begin(self, begin: str, first: str = "") -> None:
        self._connection.execute(begin)
        try:
            if first:  # only now the file is locked for others' changes
                self._connection.execute(first).fetchall()
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _write(self) -> Iterator[SQLiteCursor]:
        with self._write_raw() as connection:
            yield SQLiteCursor(connection)

    @contextlib.contextmanager
    def _write_raw(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            self._check_process()
            self._retried(lambda: self._begin("BEGIN IMMEDIATE"))
            try:
                yield self._connection
                self._retried(lambda: self._connection.execute("COMMIT"))
            except BaseException:
                if self._connection.in_transaction:  # SQLite ends it itself where the disk is full
                    self._connection.execute("ROLLBACK")
                raise

    def _check_process(self) -> None:
        if os.getpid() != self._process:  # SQLite's locks belong to the process that took them
            raise GalleryError(f"{self.path}: opened before this process was forked; open it again in the child")

    @contextlib.contextmanager
    def _errors(self, written: Path | None = None) -> Iterator[None]:
        """Errors of SQLite as one line; `written` is what was written, where that was another file."""
        path = written or self.path
        try:
            yield
        except sqlite3.OperationalError as error:  # locked, read-only, disk full: the file itself may be good
            if "decode" in str(error):  # which quotes the text
                raise GalleryError(f"{path}: damaged (a text in it is not UTF-8)") from None
            raise GalleryError(f"{path}: {one_line(str(error))[:200]}{_remedy(path, str(error))}") from None
        except sqlite3.Error as error:
            if "closed database" in str(error):
                raise GalleryError(f"{self.path}: the gallery was closed; open it again") from None
            raise GalleryError(
                f"{self.path}: damaged, or no gallery of facespace ({one_line(str(error))[:200]})"
            ) from None
        except UnicodeDecodeError:
            raise GalleryError(f"{self.path}: damaged (a text in it is not UTF-8)") from None

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    def close(self) -> None:
        """Close the connection; nothing is pending."""
        with self._lock:
            self._connection.close()
            self._index = None

    def problems(self) -> list[str]:
        """What is wrong with the file, found by reading all of it; empty for a whole one."""
        with self._read() as cursor:
            told = [self._text(row[0]) for row in cursor.rows("PRAGMA integrity_check(10)")]
            found = [] if told == ["ok"] else told
            ((n_lost,),) = cursor.rows("SELECT count(*) FROM face WHERE person NOT IN (SELECT id FROM person)")
            if n_lost:
                found.append(f"{n_lost} photos belong to nobody")
            try:
                check_everybody(self, cursor)
            except GalleryError as error:
                found.append(str(error).removeprefix(f"{self.name}: "))
        return found

    # Search

    def nearest(self, probes: npt.NDArray[np.float32], k: int) -> Nearest:
        """The k most similar people of each probe (N,D)."""
        return self._people(probes.shape[1]).nearest(probes, k)

    def _people(self, dimension: int) -> PeopleIndex:
        """Everybody, as the file holds them now: read whole once, then only what has changed."""
        with self._index_lock:
            index, changes = self._index, None
            with self._read() as cursor:
                seq, of = self._seq(cursor), (dimension, self.setting("templates"))
                if index is not None and of == self._index_of:
                    if seq == self._index_seq:
                        return index
                    changes = changed_rows(self, cursor, dimension, self._index_seq, seq)
                if index is None or changes is None:  # the first search, or too much has changed since the last one
                    index = everybody(self, cursor, dimension, self._beside)
            if changes is not None:  # nobody who writes waits for this
                index = index.changed(*changes)
            self._index, self._index_seq, self._index_of = index, seq, of
            return index

    def _beside(self, cursor: SQLiteCursor) -> SQLiteCursor | None:
        """Another connection that reads the state which `cursor` is reading, for another thread; None where there is none."""
        connection = None
        try:
            connection = _connect(self.path, seconds=0)
            for pragma in ("trusted_schema = OFF", "cell_size_check = ON"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("BEGIN")
            beside = SQLiteCursor(connection)
            # Nobody can change the file while it is being read, but it may have been replaced by another one.
            if self._seq(beside) == self._seq(cursor):
                return beside
        except (sqlite3.Error, OSError, GalleryError):
            pass
        if connection is not None:
            connection.close()
        return None

    def _people_changed(self, cursor: Any, people: Sequence[int]) -> None:
        """The index follows at the next search."""

    def copy_to(self, path: str | os.PathLike[str]) -> None:
        """Write a copy of the whole file, whatever is changed meanwhile; it takes its place when it is whole."""
        target = Path(path)
        if target.exists():
            raise GalleryError(f"{target}: exists already; choose another name")
        unfinished = target.with_name(f".facespace-{secrets.token_hex(8)}-{target.name}"[:255])
        try:
            os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            with self._lock, self._errors(target), contextlib.closing(sqlite3.connect(unfinished)) as copy:
                self._connection.backup(copy)
            sync_file(unfinished)
            _link(unfinished, target)
            sync_folder(target.parent)
        except FileExistsError:
            raise GalleryError(f"{target}: exists already; choose another name") from None
        except OSError as error:
            raise GalleryError(f"{target}: cannot be written ({error.strerror}){remedy(error)}") from None
        finally:
            unfinished.unlink(missing_ok=True)


def _link(unfinished: Path, target: Path) -> None:
    """Give a file its name where no other has it."""
    try:
        os.link(unfinished, target)
    except FileExistsError:
        raise
    except OSError:  # a FAT file system, as on memory cards, has no links
        if target.exists():
            raise FileExistsError from None
        unfinished.rename(target)


def _remedy(path: Path, said: str) -> str:
    """What to do, as the end of a message. SQLite names a full disk as such only where it writes the gallery itself."""
    if "full" in said or ("disk I/O" in said and shutil.disk_usage(path.parent).free < _LITTLE_ROOM):
        return "; make room and start the same command again"
    if "disk I/O" in said:
        return "; its disk fails, or limits files: copy it to another place"
    if "readonly" in said or "unable to open" in said:
        return "; get the right to write to it and its folder, or copy it to another place"
    return "; end the other program that uses it" if "locked" in said else ""


def _connect(path: Path, seconds: float = _BUSY_SECONDS) -> sqlite3.Connection:
    """A connection that can write where this user may, and only reads where not, as from a read-only folder."""
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) if path.exists() else True
    uri = f"{path.absolute().as_uri()}{'' if writable else '?mode=ro'}"
    connection = sqlite3.connect(uri, uri=True, timeout=seconds, isolation_level=None, check_same_thread=False)
    if hasattr(connection, "setlimit"):  # Python 3.11
        connection.setlimit(0, _MAX_VALUE)  # SQLITE_LIMIT_LENGTH
    return connection
