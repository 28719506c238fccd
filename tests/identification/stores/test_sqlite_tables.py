"""The tables of a gallery's file."""

from __future__ import annotations

import sqlite3

import pytest

from facespace.identification.stores.sql_tables import VERSION
from facespace.identification.stores.sqlite_tables import APPLICATION_ID, SCHEMA, SQLiteCursor, make_tables


@pytest.fixture
def connection() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def test_an_empty_file_gets_all_tables(connection: sqlite3.Connection) -> None:
    make_tables(connection)
    told = connection.execute(
        "SELECT sql FROM sqlite_master WHERE sql NOT NULL AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    assert {sql for (sql,) in told} == set(SCHEMA)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert connection.execute("SELECT * FROM head").fetchall() == [(1, 0)]
    connection.close()


def test_numbers_of_people_are_never_used_again(connection: sqlite3.Connection) -> None:
    make_tables(connection)
    cursor = SQLiteCursor(connection)
    sql = "INSERT INTO person (collection, name, added) VALUES (1, ?, 0)"
    first, second = cursor.insert(sql, ("a",)), cursor.insert(sql, ("b",))
    assert cursor.change("DELETE FROM person WHERE id = ?", (second,)) == 1
    assert cursor.insert(sql, ("c",)) > second > first
    assert cursor.rows("SELECT name FROM person ORDER BY id") == [("a",), ("c",)]
    connection.close()
