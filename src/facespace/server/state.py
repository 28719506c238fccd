"""The service's own file: its keys, settings, events, webhooks, kept answers and audit log.

Faces and names are in the gallery. Data that only the service needs is in `service.sqlite` in its state folder, which all
workers of one service share. Each module makes its tables by `State.table`. If `FACESPACE_GALLERY_KEY` contains a key, the
data here that names people (events, kept answers, deliveries) is encrypted with it too, by `State.sealed`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from facespace.errors import FacespaceError, GalleryError
from facespace.identification.stores.sealing import VARIABLE, Sealing, new_sealing, sealing_of
from facespace.io.text import one_line

FILE = "service.sqlite"
LOCK = "serving.lock"
VERSION = 1
_APPLICATION = 0x46535356  # "FSSV", which marks SQLite files as the service's
_BUSY_MS = 10_000
_LITTLE_SPACE = 2**20  # bytes
MAX_VALUE = 64 * 2**20  # bytes of one value in the file
_SEALED = "sealed:"  # the prefix of encrypted texts; JSON never begins with it
_LEFTOVERS = ("export-*", "import-*")  # files of requests that a killed process leaves behind


class StateError(FacespaceError):
    """The service's state folder or its file cannot be used. The message says what to do."""


class State:
    """The state file of a service, created if missing. It is safe to share between threads and processes.

    `folder` is made with mode 0700, and the file with 0600. `StateError` is raised if other users can write to the
    folder, or if the file is damaged or was written by a newer version. All methods raise it if the file cannot be read
    or written, for example on a full disk.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     state = State(folder)
    ...     state.set("greeting", "hello")
    ...     state.setting("greeting")
    ...     state.close()
    'hello'
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        prepare_folder(self.folder)
        self.path = self.folder / FILE
        self._process = os.getpid()
        self._write_lock = threading.RLock()
        self._read_lock = threading.RLock()
        self._sealing: Sealing | None = None
        _make_private(self.path)
        with self._errors():
            # Two connections: with a write-ahead log, a reader never waits for a writer's disk.
            self._writer = self._connect()
            try:
                self._reader = self._connect()
                try:
                    self._prepare()
                except BaseException:
                    self._reader.close()
                    raise
            except BaseException:
                self._writer.close()
                raise

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        if hasattr(connection, "setlimit"):  # Python 3.11
            connection.setlimit(0, MAX_VALUE)  # SQLITE_LIMIT_LENGTH
        return connection

    def _prepare(self) -> None:
        (application,) = self._writer.execute("PRAGMA application_id").fetchone()
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        (n_tables,) = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != _APPLICATION and (application or n_tables):
            raise StateError(f"{self.path}: not a state file of facespace; give another folder (--state)")
        if version > VERSION:
            raise StateError(
                f"{self.path}: made by a newer version of facespace (format {version}, this one reads up to {VERSION});"
                " update facespace, or give another folder (--state)"
            )
        for connection in (self._writer, self._reader):
            for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "synchronous = FULL"):
                connection.execute(f"PRAGMA {pragma}")
        self._writer.execute("PRAGMA secure_delete = ON")
        self._writer.execute("PRAGMA journal_mode = WAL").fetchone()
        found = self._writer.execute("PRAGMA quick_check(1)").fetchall()
        if found != [("ok",)]:
            raise self._damaged(str(found[0][0]))
        if application == 0:
            with self.transaction() as connection:
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
        self.table("CREATE TABLE IF NOT EXISTS setting (key TEXT PRIMARY KEY, value TEXT NOT NULL)")

    def _damaged(self, what: str) -> StateError:
        return StateError(
            f"{self.path}: damaged ({one_line(what)[:200]}); restore it from a backup, or move it away and make new keys"
        )

    # Use

    def table(self, ddl: str) -> None:
        """Make a table and its indices, unless they exist.

        `ddl` is one or more `CREATE TABLE IF NOT EXISTS …` and `CREATE INDEX IF NOT EXISTS …`, separated by semicolons.
        """
        with self.transaction() as connection:
            for statement in filter(None, (part.strip() for part in ddl.split(";"))):
                if not statement.upper().startswith("CREATE") or "IF NOT EXISTS" not in statement.upper():
                    raise ValueError(f"a table must be made by CREATE … IF NOT EXISTS, got {statement[:60]!r}")
                connection.execute(statement)

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Open a transaction that excludes all other writers. An inner transaction is a part of the outer one.

        The changes are on the disk when the block ends without an error. With `durable=False` the file stays consistent,
        but a power cut may lose the last changes: use it only for data that no client relies on.
        """
        with self._write_lock, self._errors():
            self._check_process()
            if self._writer.in_transaction:
                yield self._writer
                return
            self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # SQLite rolls back by itself if the disk is full
                    self._writer.execute("ROLLBACK")
                raise

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of one SELECT. It sees the last committed state, and does not wait for changes in progress."""
        with self._read_lock, self._errors():
            self._check_process()
            return self._reader.execute(sql, values).fetchall()

    def version(self) -> int:
        """Return a number that changes whenever any process, including this one, has changed the file."""
        ((version,),) = self.rows("PRAGMA data_version")
        return int(version)

    def setting(self, key: str, default: Any = None) -> Any:
        """Return a stored setting (JSON), or `default`."""
        found = self.rows("SELECT value FROM setting WHERE key = ?", (key,))
        if not found:
            return default
        try:
            return json.loads(found[0][0])
        except (TypeError, ValueError):
            raise self._damaged(f"the setting {key!r} is not JSON") from None

    def set(self, key: str, value: Any) -> None:
        """Store a setting, replacing its old value."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO setting VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (key, json.dumps(value, sort_keys=True)),
            )

    def sealed(self, text: str) -> str:
        """Return the text to store for a text that may name people: encrypted if the gallery's key is set."""
        sealing = self.sealing()
        return _SEALED + sealing.seal_text(text) if sealing.encrypted else text

    def opened(self, text: str) -> str:
        """Decrypt a text from `sealed`. Return a text that is not encrypted unchanged."""
        if not text.startswith(_SEALED):
            return text
        try:
            return self.sealing().open_text(text[len(_SEALED) :])
        except ValueError as error:
            raise self._damaged(str(error)) from None

    def sealing(self) -> Sealing:
        """Return the object that encrypts and decrypts texts.

        Raise `StateError` if the file contains encrypted texts, and the variable with their key is unset or wrong.
        """
        with self._write_lock:
            if self._sealing is not None:
                return self._sealing
            stored = self.setting("sealing")
            try:
                if stored is None and os.environ.get(VARIABLE):
                    with self.transaction():
                        sealing, made = new_sealing()
                        stored = self._stored_sealing()
                        if stored is None:
                            self.set("sealing", made)
                            self._sealing = sealing
                            return sealing
                self._sealing = sealing_of(stored, str(self.path))
            except GalleryError as error:
                raise StateError(f"{error}, or give another folder (--state) and make new keys") from None
            return self._sealing

    def _stored_sealing(self) -> Any:
        """Return the setting `sealing`, within a transaction: another worker may have stored it first."""
        found = self._writer.execute("SELECT value FROM setting WHERE key = 'sealing'").fetchone()
        return None if found is None else json.loads(found[0])

    def scrub(self) -> None:
        """Copy the write-ahead log into the file and empty it, so that deleted data is overwritten on the disk.

        While another connection reads the deleted data, it stays on the disk.
        """
        with self._write_lock, self._errors():
            self._check_process()
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def size(self) -> int:
        """Return the size in bytes of the state file and its write-ahead log."""
        return sum(path.stat().st_size for path in (self.path, _beside(self.path, "-wal")) if path.exists())

    def close(self) -> None:
        """Close the file. All changes are already written."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:  # SQLite's locks belong to the process that took them
            raise StateError(f"{self.path}: opened before this process was forked; open it again in the child")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise errors of SQLite as `StateError`, in one line that says what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "malformed" in text or "decode" in text:
                raise self._damaged(text.split(" with text")[0]) from None
            raise StateError(f"{self.path}: {one_line(text)[:200]}{_remedy(self.folder, text)}") from None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if isinstance(error, sqlite3.IntegrityError):  # one of the caller's own rules, such as a unique column
                raise
            if "closed database" in str(error):
                raise StateError(f"{self.path}: already closed") from None
            raise self._damaged(str(error)) from None


def prepare_folder(folder: Path) -> None:
    """Make the state folder (mode 0700) unless it exists. Raise `StateError` if other users can write to it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        raise StateError(
            f"{folder}: the folder {folder.parent} does not exist; make it, or give another (--state)"
        ) from None
    except FileExistsError:
        raise StateError(f"{folder}: the state folder must be a folder, got a file; give another (--state)") from None
    except OSError as error:
        raise StateError(
            f"{folder}: the state folder cannot be made ({error.strerror}); give another (--state)"
        ) from None
    if os.name != "posix":
        return
    about = folder.stat()
    if about.st_uid not in (os.geteuid(), 0):
        raise StateError(
            f"{folder}: belongs to another user, who could read the service's keys; give another (--state)"
        )
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StateError(
            f"{folder}: other users can write to it and could add keys;"
            f" run chmod 700 {one_line(str(folder))}, or give another (--state)"
        )


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[None]:
    """Mark the state folder as served by this process until the block ends. Raise `StateError` if it is served already.

    The mark is a file lock, which the system releases when the process ends, even if it is killed.
    """
    import filelock

    prepare_folder(folder)
    lock = filelock.FileLock(folder / LOCK, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise StateError(
            f"{folder}: another facespace serve uses this state folder; end it, or give another folder (--state)."
            " To serve one gallery with several processes, use --workers N"
        ) from None
    except OSError as error:
        raise StateError(f"{folder}: cannot be locked ({error.strerror}){_remedy(folder, str(error))}") from None
    try:
        _clear(folder)
        yield
    finally:
        lock.release()


def _clear(folder: Path) -> None:
    """Delete the temporary files of requests that a killed process left. They may contain all people, unencrypted."""
    for left in (path for pattern in _LEFTOVERS for path in folder.glob(pattern)):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink()


def _make_private(path: Path) -> None:
    """Make an empty file that only its owner can read, or remove other users' rights from an existing one."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o600))
        if os.name == "posix":
            for one in (path, _beside(path, "-wal"), _beside(path, "-shm")):
                if one.exists() and stat.S_IMODE(one.stat().st_mode) != 0o600:
                    one.chmod(0o600)
    except OSError as error:
        raise StateError(f"{path}: cannot be opened ({error.strerror}){_remedy(path.parent, str(error))}") from None


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _remedy(folder: Path, text: str) -> str:
    """Return what to do about an error, as the end of a message."""
    low = text.lower()
    if "full" in low or "no space" in low or ("disk i/o" in low and shutil.disk_usage(folder).free < _LITTLE_SPACE):
        return "; make room on its disk"
    if "disk i/o" in low:
        return "; its disk fails, or limits files: give another folder (--state)"
    if "readonly" in low or "unable to open" in low or "denied" in low or "not permitted" in low:
        return "; get the right to write to it and its folder, or give another folder (--state)"
    return "; end the other program that uses it" if "locked" in low else ""
