"""The tables of a gallery's file, and SQLite's answers."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from facespace.identification.stores.sql_tables import TABLES, VERSION, Row

APPLICATION_ID = 0x66616365  # "face"
PAGE = 8192  # bytes: seven people of one photo with 512 numbers, or 24 with 128, lose less at its end than in 4096
_WORDS = {
    "id": "INTEGER PRIMARY KEY AUTOINCREMENT", "integer": "INTEGER", "blob": "BLOB", "real": "REAL", "name": "TEXT",
}  # fmt: skip
SCHEMA = tuple(statement.format(**_WORDS) for statement in TABLES)


class SQLiteCursor:
    """SQLite's answers."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """What a SELECT finds."""
        return self._connection.execute(sql, tuple(values)).fetchall()

    def stream(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """The same, row by row."""
        return self._connection.execute(sql, tuple(values))

    def change(self, sql: str, values: Sequence[Any] = ()) -> int:
        """How many rows another statement changed."""
        return self._connection.execute(sql, tuple(values)).rowcount

    def insert(self, sql: str, values: Sequence[Any] = ()) -> int:
        """The id of the row that an INSERT made."""
        key = self._connection.execute(sql, tuple(values)).lastrowid
        assert key is not None
        return key


def make_tables(connection: sqlite3.Connection) -> None:
    """Make the tables of an empty file, within a transaction."""
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO head VALUES (1, 0)")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
