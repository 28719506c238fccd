"""The tables of a gallery's file, and the cursor on an SQLite connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from facespace.identification.stores.sql_tables import TABLES, VERSION, Row

APPLICATION_ID = 0x66616365  # "face"
PAGE = 8192  # bytes; with seven photos of 512 numbers a page, or 24 of 128, less space is lost than with pages of 4096
_WORDS = {
    "id": "INTEGER PRIMARY KEY AUTOINCREMENT", "integer": "INTEGER", "blob": "BLOB", "real": "REAL", "name": "TEXT",
}  # fmt: skip
SCHEMA = tuple(statement.format(**_WORDS) for statement in TABLES)


class SQLiteCursor:
    """Runs statements on an SQLite connection; see `sql_tables.Cursor`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of a SELECT."""
        return self._connection.execute(sql, tuple(values)).fetchall()

    def stream(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Return a cursor over the rows of a SELECT, which are read one by one."""
        return self._connection.execute(sql, tuple(values))

    def change(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run another statement; return the number of rows it changed."""
        return self._connection.execute(sql, tuple(values)).rowcount

    def insert(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run an INSERT; return the id of the new row."""
        key = self._connection.execute(sql, tuple(values)).lastrowid
        assert key is not None
        return key


def make_tables(connection: sqlite3.Connection) -> None:
    """Create the tables of an empty file, within a transaction."""
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO head VALUES (1, 0)")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
