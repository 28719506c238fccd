"""The tables of an SQL store, and the interface of a database cursor.

`person` and `face` keep removed rows, with the time of removal in `gone`, until they are erased. `touched` lists in order
the people whose templates changed, so that a process with all templates in memory reads only the changes; `head.seq` is its
last number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

VERSION = 3  # of the tables; `sqlite_checks` has those of versions 1 and 2

# {id}, {integer}, {blob} and {real} are the database's types for a key, a 64-bit integer, bytes and a float64; {name} is a
# text that sorts by code points.
TABLES = (
    "CREATE TABLE head (id {integer} PRIMARY KEY, seq {integer} NOT NULL)",
    "CREATE TABLE collection (id {id}, name {name} NOT NULL UNIQUE, n_people {integer} NOT NULL, n_photos {integer} NOT NULL,"
    " tally {integer} NOT NULL DEFAULT 0)",
    "CREATE TABLE setting (collection {integer} NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (collection, key))",
    "CREATE TABLE making (id {id}, text TEXT NOT NULL, actor TEXT NOT NULL, UNIQUE (text, actor))",
    "CREATE TABLE person (id {id}, collection {integer} NOT NULL, name {name} NOT NULL, external_id TEXT, added {integer} NOT NULL,"
    " gone {integer}, extra TEXT, stamp {integer} NOT NULL DEFAULT 0)",
    "CREATE UNIQUE INDEX person_name ON person (collection, name) WHERE gone IS NULL",
    "CREATE UNIQUE INDEX person_external ON person (collection, external_id) WHERE external_id IS NOT NULL AND gone IS NULL",
    "CREATE TABLE face (id {id}, person {integer} NOT NULL, making {integer} NOT NULL, added {integer} NOT NULL,"
    " gone {integer}, quality {real}, digest {blob} NOT NULL, source TEXT NOT NULL, extra TEXT, vector {blob} NOT NULL)",
    "CREATE INDEX face_person ON face (person)",
    "CREATE INDEX face_digest ON face (substr(digest, 1, 8))",
    "CREATE TABLE crop (face {integer} PRIMARY KEY, data {blob} NOT NULL)",
    "CREATE TABLE touched (seq {integer} PRIMARY KEY, person {integer} NOT NULL)",
    "CREATE TABLE log (id {id}, collection {integer} NOT NULL, at {integer} NOT NULL, actor TEXT NOT NULL, kind TEXT NOT NULL,"
    " text TEXT NOT NULL, change TEXT, undone {integer} NOT NULL)",
)

Row = tuple[Any, ...]


class Cursor(Protocol):
    """Runs statements on a database, with `?` as the placeholder for values."""

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of a SELECT."""

    def change(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run another statement; return the number of rows it changed."""

    def insert(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run an INSERT; return the id of the new row."""
