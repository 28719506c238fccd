"""A gallery in one SQLite file, shared by several processes.

Every change is one transaction with a rollback journal and full synchronisation. When a call returns, its change is in the
file; between changes the file is complete by itself; and a process that is killed at any moment leaves a file that opens.
Deleted bytes are overwritten (`secure_delete`). Everything in a file is checked before it is used: see `sqlite_checks`.
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
from facespace.identification.stores.sqlite_rows import changed_rows, check_everybody, check_on_opening, read_index
from facespace.identification.stores.sqlite_tables import PAGE, SCHEMA, SQLiteCursor, make_tables
from facespace.io.files import remedy, sync_file, sync_folder
from facespace.io.text import one_line

_BUSY_SECONDS = 60.0
_BUSY_TIMEOUT_MS = 20  # how long SQLite itself retries to get a lock
_LOW_DISK_SPACE = 2**20  # bytes; SQLite's temporary files next to a gallery take a part of it
_MAX_VALUE = 64 * 2**20  # bytes of one value in a file


class SQLiteStore(SqlStore):
    """One collection of an SQLite file.

    With `create`, a missing file or collection is created; without, it raises `GalleryError`. A file that is not a
    gallery, is damaged, or was copied during a change also raises `GalleryError` and is left unchanged. A file of an
    older format is converted to the present one, and `remarks` says so. A store can be shared between threads; a child
    process must open the file again after `fork`.
    """

    def __init__(self, path: str | os.PathLike[str], *, collection: str = "default", create: bool = False) -> None:
        super().__init__(collection)
        self.path = Path(path)
        self.remarks: tuple[str, ...] = ()
        self._index: PeopleIndex | None = None
        self._index_seq = -1
        self._index_of: tuple[int, Any] = (0, None)  # dimension and the setting "templates"
        self._process = os.getpid()
        self._index_lock = threading.Lock()
        if self.path.is_dir():
            raise GalleryError(f"{self.path}: must be a gallery file, got a folder")
        if not self.path.exists():
            if not create:
                raise GalleryError(f"{self.path}: no such gallery; create one with facespace enroll")
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
        self._retried(functools.partial(self._bring_up, create))
        for pragma in ("synchronous = EXTRA", "secure_delete = ON", "trusted_schema = OFF", "cell_size_check = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        # SQLite itself retries more and more slowly, down to ten times a second, so with many processes one may wait for
        # half a minute. From here on `_retried` waits instead.
        self._connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        with self._read() as cursor:
            n_bytes = check_whole(self._connection, self.path, SCHEMA)
            stored = cursor.rows("SELECT value FROM setting WHERE collection = 0 AND key = 'sealing'")
        if os.path.getsize(self.path) > n_bytes and _is_writable(self.path):
            self._cut_off()
        self._sealing = sealing_of(self._json(stored[0][0], "the setting sealing") if stored else None, self.name)
        if not self._sealing.encrypted and os.environ.get(VARIABLE):
            self.remarks += (
                f"{self.path}: not encrypted although {VARIABLE} is set; facespace gallery copy makes an encrypted copy",
            )

    def _bring_up(self, create: bool) -> None:
        """Create the tables in an empty file, and convert an older file to the present format."""
        try:
            version = check_file(self._connection, self.path)
            if version == 0 and not create:  # its creation was interrupted, or it never was a gallery
                raise GalleryError(f"{self.path}: an empty file, not a gallery; facespace enroll makes a gallery of it")
            if version == 0:
                self._make()
            elif version < VERSION:
                from facespace.identification.stores.sqlite_migration import migrate

                migrate(self._connection, self.path, version)
                self.remarks = (
                    f"{self.path}: converted from format {version} to {VERSION}; older versions of facespace cannot open it",
                )
            # The file must be complete by itself, but another program may have switched on a write-ahead log.
            if self._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
                self._connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        except sqlite3.OperationalError:
            # A connection that has read a file with a log keeps a lock until it is closed: two such connections would
            # wait for each other.
            self._connection.close()
            self._connection = _connect(self.path)
            raise

    def _cut_off(self) -> None:
        """Truncate pages that a process left at the end of the file because it was killed while shortening it.

        The file is truncated by its name, not by a descriptor: by the rules of POSIX, closing a descriptor would
        release all locks that this process has on the file.
        """
        with self._write_raw() as connection:
            (n_pages,) = connection.execute("PRAGMA page_count").fetchone()
            (page,) = connection.execute("PRAGMA page_size").fetchone()
            if os.path.getsize(self.path) > n_pages * page:
                os.truncate(self.path, n_pages * page)

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
            _, parameters = new_sealing()
            if parameters is not None:
                connection.execute("INSERT INTO setting VALUES (0, 'sealing', ?)", (json.dumps(parameters),))

    # Transactions

    def _retried(self, work: Any) -> Any:
        """Return the result of `work`, retrying for a limited time while the file is locked.

        SQLite's own waiting is not enough: it fails at once if two processes would wait for each other.
        """
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
            if self._connection.in_transaction:  # within a change or another read
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
            if first:  # only the first statement locks the file against changes by others
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
                if self._connection.in_transaction:  # SQLite has already ended it if the disk is full
                    self._connection.execute("ROLLBACK")
                raise

    def _check_process(self) -> None:
        if os.getpid() != self._process:  # SQLite's locks belong to the process that took them
            raise GalleryError(f"{self.path}: opened before this process was forked; open it again in the child")

    @contextlib.contextmanager
    def _errors(self, written: Path | None = None) -> Iterator[None]:
        """Convert SQLite's errors to one-line `GalleryError`s, which name `written`, or the gallery if it is None."""
        path = written or self.path
        try:
            yield
        except sqlite3.OperationalError as error:  # locked, read-only, disk full: the file itself may be fine
            if "decode" in str(error):  # SQLite's message would quote the text
                raise GalleryError(f"{path}: damaged (a text in it is not UTF-8)") from None
            raise GalleryError(f"{path}: {one_line(str(error))[:200]}{_remedy(path, str(error))}") from None
        except sqlite3.Error as error:
            if "closed database" in str(error):
                raise GalleryError(f"{self.path}: the gallery was closed; open it again") from None
            raise GalleryError(
                f"{self.path}: damaged, or not a gallery of facespace ({one_line(str(error))[:200]})"
            ) from None
        except UnicodeDecodeError:
            raise GalleryError(f"{self.path}: damaged (a text in it is not UTF-8)") from None

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    def close(self) -> None:
        """Close the connection; all changes are already stored."""
        with self._lock:
            self._connection.close()
            self._index = None

    def problems(self) -> list[str]:
        """Return the problems of the file, found by reading all of it; an empty list if it is intact."""
        with self._read() as cursor:
            lines = [self._text(row[0]) for row in cursor.rows("PRAGMA integrity_check(10)")]
            found = [] if lines == ["ok"] else lines
            ((n_lost,),) = cursor.rows("SELECT count(*) FROM face WHERE person NOT IN (SELECT id FROM person)")
            if n_lost:
                found.append(f"{n_lost} photos have no owner")
            try:
                check_everybody(self, cursor)
            except GalleryError as error:
                found.append(str(error).removeprefix(f"{self.name}: "))
        return found

    # Search

    def nearest(self, probes: npt.NDArray[np.float32], k: int) -> Nearest:
        """Return the k most similar people of each probe (N,D)."""
        return self._people(probes.shape[1]).nearest(probes, k)

    def _people(self, dimension: int) -> PeopleIndex:
        """Return an index of all people in the collection; reads them completely once, later only the changes."""
        with self._index_lock:
            index, changes = self._index, None
            with self._read() as cursor:
                seq, of = self._seq(cursor), (dimension, self.setting("templates"))
                if index is not None and of == self._index_of:
                    if seq == self._index_seq:
                        return index
                    changes = changed_rows(self, cursor, dimension, self._index_seq, seq)
                if index is None or changes is None:  # the first search, or too many changes since the last one
                    index = read_index(self, cursor, dimension, self._second_cursor)
            if changes is not None:  # outside of the transaction, so that no writer waits for this
                index = index.changed(*changes)
            self._index, self._index_seq, self._index_of = index, seq, of
            return index

    def _second_cursor(self, cursor: SQLiteCursor) -> SQLiteCursor | None:
        """Return a cursor for another thread, on its own connection, reading the same state as `cursor`, or None."""
        connection = None
        try:
            connection = _connect(self.path, seconds=0)
            for pragma in ("trusted_schema = OFF", "cell_size_check = ON"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("BEGIN")
            second = SQLiteCursor(connection)
            # The file cannot be changed while it is being read, but it may have been replaced by another file.
            if self._seq(second) == self._seq(cursor):
                return second
        except (sqlite3.Error, OSError, GalleryError):
            pass
        if connection is not None:
            connection.close()
        return None

    def _people_changed(self, cursor: Any, people: Sequence[int]) -> None:
        """Do nothing: the index is updated at the next search."""

    def copy_to(self, path: str | os.PathLike[str]) -> None:
        """Copy the whole file in a consistent state, even if it is changed meanwhile; `path` appears when complete."""
        target = Path(path)
        if target.exists():
            raise GalleryError(f"{target}: already exists; choose another name")
        unfinished = target.with_name(f".facespace-{secrets.token_hex(8)}-{target.name}"[:255])
        try:
            os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            with self._lock, self._errors(target), contextlib.closing(sqlite3.connect(unfinished)) as copy:
                self._connection.backup(copy)
            sync_file(unfinished)
            _link(unfinished, target)
            sync_folder(target.parent)
        except FileExistsError:
            raise GalleryError(f"{target}: already exists; choose another name") from None
        except OSError as error:
            raise GalleryError(f"{target}: cannot be written ({error.strerror}){remedy(error)}") from None
        finally:
            unfinished.unlink(missing_ok=True)


def _link(unfinished: Path, target: Path) -> None:
    """Rename a file; raise `FileExistsError` if another file has the name."""
    try:
        os.link(unfinished, target)
    except FileExistsError:
        raise
    except OSError:  # a FAT file system, as on memory cards, has no hard links
        if target.exists():
            raise FileExistsError from None
        unfinished.rename(target)


def _remedy(path: Path, said: str) -> str:
    """Return the advice at the end of a message about SQLite's error text `said`.

    SQLite reports a full disk as such only when it writes the gallery itself, so the free space is checked too.
    """
    if "full" in said or ("disk I/O" in said and shutil.disk_usage(path.parent).free < _LOW_DISK_SPACE):
        return "; make room and start the same command again"
    if "disk I/O" in said:
        return "; its disk fails or limits the size of files, copy it to another place"
    if "readonly" in said or "unable to open" in said:
        return "; get the right to write to it and its folder, or copy it to another place"
    return "; end the other program that uses it" if "locked" in said else ""


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _connect(path: Path, seconds: float = _BUSY_SECONDS) -> sqlite3.Connection:
    """Return a connection; it is read-only if the user cannot write the file or its folder."""
    uri = f"{path.absolute().as_uri()}{'' if not path.exists() or _is_writable(path) else '?mode=ro'}"
    connection = sqlite3.connect(uri, uri=True, timeout=seconds, isolation_level=None, check_same_thread=False)
    if hasattr(connection, "setlimit"):  # Python 3.11
        connection.setlimit(0, _MAX_VALUE)  # SQLITE_LIMIT_LENGTH
    return connection
