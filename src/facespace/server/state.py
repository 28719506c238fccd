"""The service's own SQLite file: keys, events and whatever else is no part of the gallery."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator


class State:
    """The file `service.sqlite` in a folder; safe to share between threads and processes."""

    def __init__(self, folder: str) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.path = os.path.join(folder, "service.sqlite")
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        os.chmod(self.path, 0o600)
        self._connection.execute("PRAGMA journal_mode = WAL")

    def table(self, ddl: str) -> None:
        """Make a table unless it is there; `ddl` says CREATE TABLE IF NOT EXISTS."""
        with self._lock:
            self._connection.execute(ddl)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection within BEGIN IMMEDIATE, committed at the end and rolled back after an error."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()
