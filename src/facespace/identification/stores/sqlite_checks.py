"""Checks that a file is a complete gallery, without reading all of it and without running any code that it contains."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from facespace.errors import GalleryError
from facespace.identification.stores.sql_tables import VERSION
from facespace.identification.stores.sqlite_tables import APPLICATION_ID

_SMALLEST = 512  # bytes of an SQLite file
_SMALL = 4 * 2**20  # bytes; files up to this size are checked completely when opened, which takes some 15 ms
_SEQUENCES = "CREATE TABLE sqlite_sequence(name,seq)"  # SQLite's own table of the last ids
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
    """Return the format of a gallery file, 0 for an empty one; raise `GalleryError` if it is not a gallery.

    The file's schema is read as data before any statement uses one of its tables, so that no trigger or view can run.
    """
    # The file is opened only through SQLite: closing another descriptor would release the locks that other threads of this
    # process have on it (POSIX).
    if 0 < os.path.getsize(path) < _SMALLEST:  # SQLite treats some of these as empty files, and overwrites them
        raise GalleryError(f"{path}: not a gallery of facespace (it is not an SQLite file)")
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
    """Raise `GalleryError` if the names and statements in `sqlite_master` are not those of a schema."""
    expected = set(schema)
    if strange := [name for name, sql in found if not _is_own(name, sql, expected)]:
        raise _not_ours(path, strange)
    if missing := expected - {sql for _, sql in found}:
        raise GalleryError(f"{path}: damaged ({len(missing)} of its tables and indexes are missing)")


def check_whole(connection: sqlite3.Connection, path: Path, schema: Sequence[str]) -> int:
    """Raise `GalleryError` if the file has other tables or is a copy made during a change; call it in a transaction.

    Return how many bytes the file must have. More bytes are not damage: a process may have been killed before it truncated
    the file.
    """
    check_tables(path, connection.execute("SELECT name, sql FROM sqlite_master").fetchall(), schema)
    (n_pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    # Every change increases the number in `head`, which is at the beginning of the file, and adds it to `touched`. A copy of
    # the file that was made during a change has only one of these two.
    head = connection.execute("SELECT seq FROM head").fetchall()
    (last,) = connection.execute("SELECT max(seq) FROM touched").fetchone()
    size = os.path.getsize(path)
    if size < n_pages * page or len(head) != 1 or (last or 0) != head[0][0]:
        raise GalleryError(
            f"{path}: incomplete ({size} bytes, {n_pages * page} expected): truncated, or copied during a change; copy it again "
            "with facespace gallery copy"
        )
    if size <= _SMALL and connection.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
        raise GalleryError(
            f"{path}: damaged (its pages do not fit together); if it was copied during a change, copy it again with facespace "
            "gallery copy"
        )
    return int(n_pages * page)


def _is_own(name: object, sql: object, expected: set[str]) -> bool:
    if sql is None:  # an index that SQLite creates for a key
        return isinstance(name, str) and name.startswith("sqlite_autoindex_")
    return sql in expected or (name, sql) == ("sqlite_sequence", _SEQUENCES)


def _not_ours(path: Path, names: Sequence[object]) -> GalleryError:
    shown = ", ".join(repr(str(name)[:40]) for name in names[:3])
    return GalleryError(
        f"{path}: has tables, views or triggers that are not facespace's ({shown}); another program changed it, so it is not "
        "opened"
    )
