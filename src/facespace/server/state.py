"""The service's own file: its keys, settings, events, webhooks, answers kept for retries and audit log.

Faces and names are in the gallery. What only the service needs is in `service.sqlite` in its state folder, a file that all
workers of one service share. Each module makes the tables it uses by `State.table`. Where `FACESPACE_GALLERY_KEY` holds a
key, what names people here for a while (events, kept answers, deliveries) is encrypted with it too: `State.sealed`.
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
_APPLICATION = 0x46535356  # "FSSV", how SQLite files say whose they are
_BUSY_MS = 10_000
_LITTLE_ROOM = 2**20  # bytes
MAX_VALUE = 64 * 2**20  # bytes of one value in the file
_SEALED = "sealed:"  # how a text begins that is encrypted; JSON never does
_LEFT = ("export-*", "import-*")  # files of requests, which a killed process leaves behind


class StateError(FacespaceError):
    """The service's state folder or its file cannot be used; the text says what to do."""


class State:
    """The state file of a service, made when it is missing. Safe to share between threads and processes.

    `folder` is made with mode 0700, the file with 0600. A folder that other users can write, a damaged file, and a file of
    a newer version raise `StateError`. All methods raise it where the file cannot be read or written, as on a full disk.

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
            # Two connections: a reader of a write-ahead log never waits for a writer's disk.
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
            raise StateError(f"{self.path}: no state file of facespace; give another folder (--state)")
        if version > VERSION:
            raise StateError(
                f"{self.path}: made by a newer version of facespace (format {version}, this one reads {VERSION});"
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
            f"{self.path}: damaged ({one_line(what)[:200]}); bring it back from a backup, or move it away and make new keys"
        )

    # Use

    def table(self, ddl: str) -> None:
        """Make a table, and its indices, unless they are there.

        `ddl` is one or more `CREATE TABLE IF NOT EXISTS …` and `CREATE INDEX IF NOT EXISTS …`, separated by semicolons.
        """
        with self.transaction() as connection:
            for statement in filter(None, (part.strip() for part in ddl.split(";"))):
                if not statement.upper().startswith("CREATE") or "IF NOT EXISTS" not in statement.upper():
                    raise ValueError(f"a table must be made by CREATE … IF NOT EXISTS, got {statement[:60]!r}")
                connection.execute(statement)

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One change, whole or not at all, alone among all that change the file; an inner one is a part of the outer.

        It is on the disk when the block ends without an error. With `durable=False` the file is as safe, but the last
        changes before a power cut may be missing: for what nobody was told is kept.
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
                if self._writer.in_transaction:  # SQLite ends it itself where the disk is full
                    self._writer.execute("ROLLBACK")
                raise

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of one SELECT, as they are when it is called; it does not wait for changes in progress."""
        with self._read_lock, self._errors():
            self._check_process()
            return self._reader.execute(sql, values).fetchall()

    def version(self) -> int:
        """A number that differs whenever anybody, this process too, has changed the file since this was last called."""
        ((version,),) = self.rows("PRAGMA data_version")
        return int(version)

    def setting(self, key: str, default: Any = None) -> Any:
        """A stored setting (JSON), or `default`."""
        found = self.rows("SELECT value FROM setting WHERE key = ?", (key,))
        if not found:
            return default
        try:
            return json.loads(found[0][0])
        except (TypeError, ValueError):
            raise self._damaged(f"the setting {key!r} is no JSON") from None

    def set(self, key: str, value: Any) -> None:
        """Store a setting in place of what it was."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO setting VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (key, json.dumps(value, sort_keys=True)),
            )

    def sealed(self, text: str) -> str:
        """A text that may name people, as it is written: encrypted where the gallery's key is set."""
        sealing = self.sealing()
        return _SEALED + sealing.seal_text(text) if sealing.encrypted else text

    def opened(self, text: str) -> str:
        """The text that `sealed` was given; one that was written before a key was set is as it is."""
        if not text.startswith(_SEALED):
            return text
        try:
            return self.sealing().open_text(text[len(_SEALED) :])
        except ValueError as error:
            raise self._damaged(str(error)) from None

    def sealing(self) -> Sealing:
        """How texts are sealed; `StateError` where some were with a key that is not set any more."""
        with self._write_lock:
            if self._sealing is not None:
                return self._sealing
            told = self.setting("sealing")
            try:
                if told is None and os.environ.get(VARIABLE):
                    with self.transaction():
                        sealing, made = new_sealing()
                        told = self._told_of_sealing()
                        if told is None:
                            self.set("sealing", made)
                            self._sealing = sealing
                            return sealing
                self._sealing = sealing_of(told, str(self.path))
            except GalleryError as error:
                raise StateError(f"{error}, or give another folder (--state) and make new keys") from None
            return self._sealing

    def _told_of_sealing(self) -> Any:
        """What the file tells by now, within a change: another worker may have been first."""
        found = self._writer.execute("SELECT value FROM setting WHERE key = 'sealing'").fetchone()
        return None if found is None else json.loads(found[0])

    def scrub(self) -> None:
        """Move the log into the file and empty it: what was deleted is overwritten on the disk, unless somebody reads."""
        with self._write_lock, self._errors():
            self._check_process()
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def size(self) -> int:
        """Bytes of the state file and of its log."""
        return sum(path.stat().st_size for path in (self.path, _beside(self.path, "-wal")) if path.exists())

    def close(self) -> None:
        """Close the file; nothing is pending."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:  # SQLite's locks belong to the process that took them
            raise StateError(f"{self.path}: opened before this process was forked; open it again in the child")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of SQLite as one line that says what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            said = str(error)
            if "malformed" in said or "decode" in said:
                raise self._damaged(said.split(" with text")[0]) from None
            raise StateError(f"{self.path}: {one_line(said)[:200]}{_remedy(self.folder, said)}") from None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if isinstance(error, sqlite3.IntegrityError):  # the caller's own rules, as of a unique column
                raise
            if "closed database" in str(error):
                raise StateError(f"{self.path}: closed already") from None
            raise self._damaged(str(error)) from None


def prepare_folder(folder: Path) -> None:
    """Make the state folder (mode 0700) unless it is there; `StateError` for one that others can write."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        raise StateError(
            f"{folder}: the folder {folder.parent} does not exist; make it, or give another (--state)"
        ) from None
    except FileExistsError:
        raise StateError(f"{folder}: a file, where the state folder was expected; give another (--state)") from None
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
    """Mark the state folder as served by this process until the block ends; `StateError` where another one serves it.

    The mark is a lock of the system: it is gone when the process ends, however it ends.
    """
    import filelock

    prepare_folder(folder)
    lock = filelock.FileLock(folder / LOCK, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise StateError(
            f"{folder}: another facespace serve uses this state folder; end it, or give another folder (--state)."
            " Several processes on one gallery: --workers N"
        ) from None
    except OSError as error:
        raise StateError(f"{folder}: cannot be locked ({error.strerror}){_remedy(folder, str(error))}") from None
    try:
        _clear(folder)
        yield
    finally:
        lock.release()


def _clear(folder: Path) -> None:
    """Delete files of requests that a killed process has left: they may hold everybody, not encrypted."""
    for left in (path for pattern in _LEFT for path in folder.glob(pattern)):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink()


def _make_private(path: Path) -> None:
    """Make an empty file that only its owner can read, or take the rights of others from one that is there."""
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


def _remedy(folder: Path, said: str) -> str:
    """What to do, as the end of a message."""
    low = said.lower()
    if "full" in low or "no space" in low or ("disk i/o" in low and shutil.disk_usage(folder).free < _LITTLE_ROOM):
        return "; make room on its disk"
    if "disk i/o" in low:
        return "; its disk fails, or limits files: give another folder (--state)"
    if "readonly" in low or "unable to open" in low or "denied" in low or "not permitted" in low:
        return "; get the right to write to it and its folder, or give another folder (--state)"
    return "; end the other program that uses it" if "locked" in low else ""
