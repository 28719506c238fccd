"""Is a file a gallery, and whole? Found out without reading it through, and without running anything that stands in it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from facespace.errors import GalleryError
from facespace.identification.stores.sql import VERSION

APPLICATION_ID = 0x66616365  # "face"
_OLD_TABLES = {"setting", "person", "face"}
_MAGIC = b"SQLite format 3\0"


def check_file(connection: sqlite3.Connection, path: Path) -> int:
    """The format of a gallery file, 0 for an empty one; `GalleryError` for what is none.

    What the file says it consists of is read as data: no statement has touched a table of it yet, so that no trigger and no
    view has run.
    """
    if path.exists() and path.stat().st_size >= 100:
        with path.open("rb") as file:
            if file.read(16) != _MAGIC:
                raise GalleryError(f"{path}: no gallery of facespace (it is not an SQLite file)")
    connection.execute("PRAGMA trusted_schema = OFF")
    found = connection.execute("SELECT type, name FROM sqlite_master").fetchall()
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
        strange = [name for kind, name in found if kind != "index" and name not in _OLD_TABLES]
        if strange:
            raise _not_ours(path, strange)
    return int(version)


def check_whole(connection: sqlite3.Connection, path: Path, schema: Sequence[str]) -> None:
    """Within a transaction: `GalleryError` where the tables are others, or the file is a copy made amidst a change."""
    expected = set(schema)
    told = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
    strange = [name for name, sql in told if not _is_own(name, sql, expected)]
    if strange:
        raise _not_ours(path, strange)
    if missing := expected - {sql for _, sql in told}:
        raise GalleryError(f"{path}: damaged ({len(missing)} of its tables and indices are missing)")
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


def _is_own(name: object, sql: object, expected: set[str]) -> bool:
    if isinstance(name, str) and name.startswith("sqlite_"):  # SQLite makes these itself, and nobody else can
        return sql is None or name == "sqlite_sequence"
    return sql in expected


def _not_ours(path: Path, names: Sequence[object]) -> GalleryError:
    shown = ", ".join(repr(str(name)[:40]) for name in names[:3])
    return GalleryError(
        f"{path}: has tables, views or triggers that are not facespace's ({shown}); it was changed by another program, and is "
        "not opened"
    )
