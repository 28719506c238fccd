"""A gallery on a PostgreSQL server with the extension pgvector, shared by many machines.

The tables are those of `sql.TABLES` in a schema of their own, and `template`, what `nearest` compares with, which every change
keeps up to date within its transaction (see `postgres_templates`). Changes are serialised by the row of `head`, so that its
number grows in the order of commits. What a call returned from is committed. Where the connection breaks while a commit is
under way, the server is asked whether it did commit, by the transaction's number.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from facespace.errors import GalleryError
from facespace.identification.people_index import Nearest
from facespace.identification.stores import postgres_schema, postgres_templates
from facespace.identification.stores.postgres_address import parse_address
from facespace.identification.stores.postgres_connections import Connections, Cursor, Lost
from facespace.identification.stores.sealing import VARIABLE
from facespace.identification.stores.sql import SqlStore

_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
# Every statement of a change sees what was committed before `head` was locked.
_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED"
_ERASED_FROM = ("person", "face", "crop", "log", "template")

R = TypeVar("R")


def _read_again(method: Callable[..., R]) -> Callable[..., R]:
    """A method that only reads, tried once more where the server was restarted in the middle of it."""

    @functools.wraps(method)
    def tried(self: PostgresStore, *values: Any, **named: Any) -> R:
        try:
            return method(self, *values, **named)
        except Lost:
            if self._cursor() is not None:  # within a change, which is lost as a whole
                raise
            return method(self, *values, **named)

    return tried


class PostgresStore(SqlStore):
    """One collection of the gallery at `address`, such as `postgresql://user@host/database` (see `parse_address`).

    `create` makes missing tables and a missing collection; otherwise `GalleryError` says they are missing. Safe to share
    between threads; a child process after `fork` makes connections of its own. `remarks` tell what a user should know.
    """

    def __init__(self, address: str, *, collection: str = "default", create: bool = False) -> None:
        super().__init__(collection)
        self._connections = Connections(parse_address(address))
        self._thread = threading.local()
        self._builder: threading.Thread | None = None
        self.remarks: tuple[str, ...] = ()
        if os.environ.get(VARIABLE):
            self.remarks = (f"{self.name}: not encrypted though {VARIABLE} is set; that is for files",)
        try:
            self._prepare(create)
            self._connections.greet = postgres_schema.search_vector
            self._open_collection(create)
        except BaseException:
            self._connections.close()
            raise

    def _prepare(self, create: bool) -> None:
        with self._connections.lent(_READ) as cursor:
            version = postgres_schema.check(cursor, self._connections.address)
            cursor.once("COMMIT")
        if version == 0 and not create:
            raise GalleryError(f"{self.name}: no gallery there; enrolling somebody makes one (facespace enroll)")
        if version < postgres_schema.VERSION:
            with self._connections.lent(_WRITE) as cursor:
                before = postgres_schema.migrate(cursor, self._connections.address)
                cursor.once("COMMIT")
            if 0 < before < postgres_schema.VERSION:
                self.remarks += (
                    f"{self.name}: its tables were brought from version {before} to {postgres_schema.VERSION}",
                )

    @property
    def name(self) -> str:
        """The address without its password."""
        return self._connections.address.name

    def close(self) -> None:
        """Close the connections; nothing is pending."""
        self._connections.close()

    # Transactions

    def _cursor(self) -> Cursor | None:
        """That of the transaction which this thread is in."""
        cursor: Cursor | None = getattr(self._thread, "cursor", None)
        return cursor

    @contextlib.contextmanager
    def _entered(self, begin: str) -> Iterator[Cursor]:
        with self._connections.lent(begin) as cursor:
            self._thread.cursor = cursor
            try:
                yield cursor
            finally:
                self._thread.cursor = None

    @contextlib.contextmanager
    def _read(self) -> Iterator[Cursor]:
        outer = self._cursor()
        if outer is not None:  # within a change, or within another reading
            yield outer
            return
        with self._entered(_READ) as cursor:
            yield cursor
            cursor.once("COMMIT")

    @contextlib.contextmanager
    def _write(self) -> Iterator[Cursor]:
        done = False
        transaction = ""
        try:
            with self._entered(_WRITE) as cursor:
                rows = cursor.rows("SELECT pg_current_xact_id()::text FROM head WHERE id = 1 FOR UPDATE")
                if not rows:
                    raise self._damaged("its head is gone")
                transaction = str(rows[0][0])
                # What the body returns is decided: `add` may leave it without a change.
                yield cursor
                done = True
                cursor.once("COMMIT")
        except Lost as error:
            if not done:
                raise GalleryError(f"{error.args[0]}; nothing was changed, try again") from None
            self._settle(transaction, error)

    def _settle(self, transaction: str, error: Lost) -> None:
        """After a commit without an answer: return if it is done, and raise what is known otherwise."""
        deadline = time.monotonic() + self._connections.address.connect_timeout
        status = None
        with contextlib.suppress(GalleryError):
            while True:
                with self._connections.lent(_READ) as cursor:
                    ((status,),) = cursor.rows("SELECT pg_xact_status(?::text::xid8)", (transaction,))
                    cursor.once("COMMIT")
                if status != "in progress" or time.monotonic() > deadline:
                    break
                time.sleep(0.05)
        if status == "committed":
            return
        if status == "aborted":
            raise GalleryError(f"{error.args[0]}; the change was not stored, try again") from None
        raise GalleryError(
            f"{error.args[0]}; the last change may be stored or not: look (facespace gallery log) before trying again"
        ) from None

    version = _read_again(SqlStore.version)
    collections = _read_again(SqlStore.collections)
    setting = _read_again(SqlStore.setting)
    count = _read_again(SqlStore.count)
    people = _read_again(SqlStore.people)
    get = _read_again(SqlStore.get)
    find = _read_again(SqlStore.find)
    find_external = _read_again(SqlStore.find_external)
    find_digest = _read_again(SqlStore.find_digest)
    photos = _read_again(SqlStore.photos)
    embeddings = _read_again(SqlStore.embeddings)
    crop = _read_again(SqlStore.crop)
    vectors = _read_again(SqlStore.vectors)
    log = _read_again(SqlStore.log)

    # Search

    @_read_again
    def nearest(self, probes: npt.NDArray[np.float32], k: int) -> Nearest:
        """The k most similar people of each probe (N,D).

        Without an index, or until it is made, exact. With one, a person may be missed (see `postgres_templates`), but the
        similarities are exact. A large collection that has no index gets one, meanwhile, by a thread.
        """
        with self._read() as cursor:
            found, wants_index = postgres_templates.nearest(self, cursor, probes, k)
        if wants_index and (self._builder is None or not self._builder.is_alive()):
            self._builder = threading.Thread(
                target=self._build, args=(probes.shape[1],), name="facespace-index", daemon=True
            )
            self._builder.start()
        return found

    def build_index(self, dimension: int) -> bool:
        """Make the collection's search index; returns when it is there, False where another process is making it.

        Nobody who reads or writes waits for it. One that was left unfinished is made again.
        """
        cursor = self._connections.connect(statement_timeout=0)
        try:
            return postgres_templates.build_index(self, cursor, dimension)
        finally:
            cursor.close()

    def _build(self, dimension: int) -> None:
        try:
            self.build_index(dimension)
        except GalleryError as error:  # search stays exact
            remark = f"{error} (no search index could be made; searching compares with everybody)"
            if remark not in self.remarks:
                self.remarks += (remark,)

    def _forget_collection(self, cursor: Any) -> None:
        cursor.change("DELETE FROM template WHERE collection = ?", (self._collection_id,))

    def _people_changed(self, cursor: Any, people: Sequence[int]) -> None:
        postgres_templates.follow(self, cursor, people)

    def set_once(self, key: str, value: Any) -> Any:
        """Store a setting unless it has a value; returns the value that holds."""
        with self._write():
            if self.setting(key) is None:
                self._set(key, value)
        return self.setting(key)

    def set(self, key: str, value: Any) -> None:
        """Store a setting in place of what it was; `templates` makes again what everybody is compared by."""
        with self._write():
            self._set(key, value)

    def _set(self, key: str, value: Any) -> None:
        cursor = self._cursor()
        assert cursor is not None
        before = self.setting(key)
        sql = "INSERT INTO setting VALUES (?, ?, ?) ON CONFLICT (collection, key) DO UPDATE SET value = excluded.value"
        cursor.change(sql, (self._collection_id, key, json.dumps(value, sort_keys=True)))
        if key == "templates" and (before or "mean") != (value or "mean"):
            postgres_templates.follow_everybody(self, cursor)

    def erase(self, people: Sequence[int] | None = None, *, before: float | None = None) -> int:
        """Erase removed photos and people for good; returns how many photos there were.

        No query finds them any more. Their bytes lie in freed parts of the server's files until these are used again or `VACUUM
        FULL` rewrites them, and in its write-ahead log and backups as long as these are kept.
        """
        n_photos = super().erase(people, before=before)
        cursor = self._connections.connect(statement_timeout=0)
        try:
            cursor.once(f"VACUUM (SKIP_LOCKED) {', '.join(_ERASED_FROM)}")
        finally:
            cursor.close()
        return n_photos
