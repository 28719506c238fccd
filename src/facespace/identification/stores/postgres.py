"""A gallery on a PostgreSQL server with the extension pgvector, shared by many machines.

The tables are those of `sql_tables.TABLES`, in a separate schema, and the table `template`. `nearest` searches
`template`, and every change updates it within its transaction (see `postgres_templates`). A lock on the row of `head`
serialises changes, so that the number in `head` grows in the order of commits. When a call returns, its change is
committed. If the connection breaks during a commit, the server is asked by the transaction's id whether it was committed.
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
    """Return a read-only method that is retried once if the connection is lost, for example by a server restart."""

    @functools.wraps(method)
    def retried(self: PostgresStore, *values: Any, **named: Any) -> R:
        try:
            return method(self, *values, **named)
        except Lost:
            if self._cursor() is not None:  # within a change, which is lost completely
                raise
            return method(self, *values, **named)

    return retried


class PostgresStore(SqlStore):
    """One collection of the gallery at `address`, such as `postgresql://user@host/database` (see `parse_address`).

    `create` creates missing tables and a missing collection; without it, raise `GalleryError` if they are missing. A store
    can be shared between threads; a child process opens its own connections after `fork`. `remarks` are messages for the
    user.
    """

    def __init__(self, address: str, *, collection: str = "default", create: bool = False) -> None:
        super().__init__(collection)
        self._connections = Connections(parse_address(address))
        self._thread = threading.local()
        self._builder: threading.Thread | None = None
        self.remarks: tuple[str, ...] = ()
        if os.environ.get(VARIABLE):
            self.remarks = (f"{self.name}: not encrypted although {VARIABLE} is set; only files can be encrypted",)
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
            raise GalleryError(f"{self.name}: no gallery there; create one with facespace enroll")
        if version < postgres_schema.VERSION:
            with self._connections.lent(_WRITE) as cursor:
                before = postgres_schema.migrate(cursor, self._connections.address)
                cursor.once("COMMIT")
            if 0 < before < postgres_schema.VERSION:
                self.remarks += (
                    f"{self.name}: its tables were converted from version {before} to {postgres_schema.VERSION}",
                )

    @property
    def name(self) -> str:
        """The address without its password."""
        return self._connections.address.name

    def close(self) -> None:
        """Close the connections; all changes are already stored."""
        self._connections.close()

    # Transactions

    def _cursor(self) -> Cursor | None:
        """Return the cursor of this thread's transaction, or None outside of one."""
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
        if outer is not None:  # within a change or another read
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
                    raise self._damaged("the row of its table head is missing")
                transaction = str(rows[0][0])
                # A body that ends without an error is committed, including one that returns early, as in `add`.
                yield cursor
                done = True
                cursor.once("COMMIT")
        except Lost as error:
            if not done:
                raise GalleryError(f"{error.args[0]}; nothing was changed, try again") from None
            self._settle(transaction, error)

    def _settle(self, transaction: str, error: Lost) -> None:
        """Find out whether a commit without an answer succeeded; raise `GalleryError` if it did not."""
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
            f"{error.args[0]}; the last change may or may not be stored: check facespace gallery log before trying again"
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
        """Return the k most similar people of each probe (N,D).

        Without an index the result is exact. With an index a person may be missed (see `postgres_templates`), but the
        similarities are exact. If a large collection has no index, a background thread starts to build it.
        """
        with self._read() as cursor:
            found, needs_index = postgres_templates.nearest(self, cursor, probes, k)
        if needs_index and (self._builder is None or not self._builder.is_alive()):
            self._builder = threading.Thread(
                target=self._build, args=(probes.shape[1],), name="facespace-index", daemon=True
            )
            self._builder.start()
        return found

    def build_index(self, dimension: int) -> bool:
        """Build the collection's search index; return True when it is complete, False if another process is building it.

        Building does not block reads or writes. An unfinished index is built again from the start.
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
            remark = f"{error} (no search index could be built; searches compare with all people)"
            if remark not in self.remarks:
                self.remarks += (remark,)

    def _forget_collection(self, cursor: Any) -> None:
        cursor.change("DELETE FROM template WHERE collection = ?", (self._collection_id,))

    def _people_changed(self, cursor: Any, people: Sequence[int]) -> None:
        postgres_templates.update_templates(self, cursor, people)

    def set_once(self, key: str, value: Any) -> Any:
        """Store a setting unless it already has a value; return the stored value."""
        with self._write():
            if self.setting(key) is None:
                self._set(key, value)
        return self.setting(key)

    def set(self, key: str, value: Any) -> None:
        """Store a setting, replacing the old value; changing `templates` recomputes the templates of all people."""
        with self._write():
            self._set(key, value)

    def _set(self, key: str, value: Any) -> None:
        cursor = self._cursor()
        assert cursor is not None
        before = self.setting(key)
        sql = "INSERT INTO setting VALUES (?, ?, ?) ON CONFLICT (collection, key) DO UPDATE SET value = excluded.value"
        cursor.change(sql, (self._collection_id, key, json.dumps(value, sort_keys=True)))
        if key == "templates" and (before or "mean") != (value or "mean"):
            postgres_templates.update_all_templates(self, cursor)

    def erase(self, people: Sequence[int] | None = None, *, before: float | None = None) -> int:
        """Erase removed photos and people permanently; return how many photos were erased.

        No query finds them any more. Their bytes stay in free space of the server's files until it is reused or `VACUUM
        FULL` rewrites them, and in the write-ahead log and backups as long as these are kept.
        """
        n_photos = super().erase(people, before=before)
        cursor = self._connections.connect(statement_timeout=0)
        try:
            cursor.once(f"VACUUM (SKIP_LOCKED) {', '.join(_ERASED_FROM)}")
        finally:
            cursor.close()
        return n_photos
