"""Is a file a gallery, and whole? Found out without reading it through, and without running anything that stands in it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from facespace.errors import GalleryError
from facespace.identification.stores.sql_tables import VERSION
from facespace.identification.stores.sqlite_tables import APPLICATION_ID

_SMALLEST = 512  # bytes of an SQLite file
_SMALL = 4 * 2**20  # bytes of a file that is checked from begin to end whenever it is opened, which takes some 15 ms
_SEQUENCES = "CREATE TABLE sqlite_sequence(name,seq)"  # SQLite's own, of the last ids
_OLD_FACE = (
    "CREATE TABLE face ( id INTEGER PRIMARY KEY, person INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,"
    " digest TEXT NOT NULL, source TEXT NOT NULL, made_by TEXT NOT NULL, embedding BLOB NOT NULL, added TEXT NOT NULL,{}"
    " UNIQUE (person, digest))"
)
# The tables of formats 1 and 2.
OLD_SCHEMAS = {
    version: (
        "CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, added TEXT NOT NULL)",
        _OLD_FACE.format(quality),
    )
    for version, quality in ((1, ""), (2, " quality REAL,"))
}


def check_file(connection: sqlite3.Connection, path: Path) -> int:
    """The format of a gallery file, 0 for an empty one; `GalleryError` for what is none.

    What the file says it consists of is read as data: no statement has touched a table of it yet, so that no trigger and no
    view has run.
    """
    # The file is not opened here by any other way than SQLite's: closing it would take away the locks which other threads
    # of this process hold on it (POSIX).
    if 0 < os.path.getsize(path) < _SMALLEST:  # SQLite takes some of these for empty files, and writes over them
        raise GalleryError(f"{path}: no gallery of facespace (it is not an SQLite file)")
    connection.execute("PRAGMA trusted_schema = OFF")
    found = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id != APPLICATION_ID and (found or application_id):
        raise GalleryError(f"{path}: an SQLite file, but not a gallery of facespace")
    if not found:
        return 0
    if version > VERSION:
        raise GalleryError(
            f"{path}: written by a newer facespace (format {version}, this one reads up to {VERSION}); upgrade"
        )
    if version < 1:
        raise GalleryError(f"{path}: damaged (its format is {version})")
    if version < VERSION:
        check_tables(path, found, OLD_SCHEMAS[version])
    return int(version)


def check_tables(path: Path, found: Sequence[tuple[object, object]], schema: Sequence[str]) -> None:
    """`GalleryError` where the names and statements of `sqlite_master` are not those of a schema."""
    expected = set(schema)
    if strange := [name for name, sql in found if not _is_own(name, sql, expected)]:
        raise _not_ours(path, strange)
    if missing := expected - {sql for _, sql in found}:
        raise GalleryError(f"{path}: damaged ({len(missing)} of its tables and indices are missing)")


def check_whole(connection: sqlite3.Connection, path: Path, schema: Sequence[str]) -> None:
    """Within a transaction: `GalleryError` where the tables are others, or the file is a copy made amidst a change."""
    check_tables(path, connection.execute("SELECT name, sql FROM sqlite_master").fetchall(), schema)
    (n_pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    # Every change raises the number in the head, which lies at the begin of the file, and writes it down in `touched`: a copy
    # of the file that was made meanwhile has the one and not the other.
    head = connection.execute("SELECT seq FROM head").fetchall()
    (last,) = connection.execute("SELECT max(seq) FROM touched").fetchone()
    size = os.path.getsize(path)
    if size != n_pages * page or len(head) != 1 or (last or 0) != head[0][0]:
        raise GalleryError(
            f"{path}: not whole ({size} bytes, {n_pages * page} expected): cut short, or copied while somebody wrote; copy it "
            "again by facespace gallery copy"
        )
    if size <= _SMALL and connection.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
        raise GalleryError(
            f"{path}: damaged (its pages do not fit together); was it copied while somebody wrote? Copy it again by facespace "
            "gallery copy"
        )


def _is_own(name: object, sql: object, expected: set[str]) -> bool:
    if sql is None:  # an index that SQLite makes for a key
        return isinstance(name, str) and name.startswith("sqlite_autoindex_")
    return sql in expected or (name, sql) == ("sqlite_sequence", _SEQUENCES)


def _not_ours(path: Path, names: Sequence[object]) -> GalleryError:
    shown = ", ".join(repr(str(name)[:40]) for name in names[:3])
    return GalleryError(
        f"{path}: has tables, views or triggers that are not facespace's ({shown}); it was changed by another program, and is "
        "not opened"
    )
