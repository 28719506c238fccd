"""Converts gallery files of formats 1 and 2 to the present format, atomically and in place."""

from __future__ import annotations

import calendar
import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np

from facespace.errors import GalleryError
from facespace.identification.stores.sql_tables import VERSION
from facespace.identification.stores.sqlite_tables import PAGE, SQLiteCursor, make_tables
from facespace.identification.stores.tally import count_again

_OLD = ("setting", "person", "face")
_BATCH = 1024  # rows


def migrate(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Convert the file from `version` to the present format; raise `GalleryError` if it is damaged.

    Vectors of float32 become float16. A process that is killed leaves the old file. If another process has already
    converted the file, nothing is done.
    """
    connection.execute("PRAGMA journal_mode = DELETE").fetchone()  # removes the write-ahead log of the old format
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA synchronous = EXTRA")
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("BEGIN EXCLUSIVE")
    try:
        (now,) = connection.execute("PRAGMA user_version").fetchone()
        if now >= VERSION:  # another process was first
            connection.execute("ROLLBACK")
            return
        for table in _OLD:
            connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
        make_tables(connection)
        _copy(connection, path, has_quality=version > 1)
        for table in reversed(_OLD):
            connection.execute(f"DROP TABLE old_{table}")
        count_again(SQLiteCursor(connection), 1)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute(f"PRAGMA page_size = {PAGE}")
    # VACUUM frees the space of the float32 vectors. It fails without disk space for a second file, or while another process
    # reads; then the file stays larger than necessary.
    with contextlib.suppress(sqlite3.OperationalError):
        connection.execute("VACUUM")


def _copy(connection: sqlite3.Connection, path: Path, *, has_quality: bool) -> None:
    connection.execute("INSERT INTO collection (id, name, n_people, n_photos) VALUES (1, 'default', 0, 0)")
    connection.execute("INSERT INTO setting SELECT 1, key, value FROM old_setting")
    added = "INSERT INTO person (id, collection, name, added) VALUES (?, 1, ?, ?)"
    for key, name, when in connection.execute("SELECT id, name, added FROM old_person ORDER BY id").fetchall():
        connection.execute(added, (key, name, _seconds(when, path)))
    makings: dict[str, int] = {}
    quality = "quality" if has_quality else "NULL"
    faces = connection.execute(
        f"SELECT id, person, digest, source, made_by, embedding, added, {quality} FROM old_face ORDER BY id"
    )
    while rows := faces.fetchmany(_BATCH):
        for key, person, digest, source, made_by, blob, when, value in rows:
            if made_by not in makings:
                sql = "INSERT INTO making (text, actor) VALUES (?, '')"
                makings[made_by] = connection.execute(sql, (made_by,)).lastrowid or 0
            connection.execute(
                "INSERT INTO face (id, person, making, added, quality, digest, source, vector) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key,
                    person,
                    makings[made_by],
                    _seconds(when, path),
                    value,
                    _raw(digest, path),
                    source,
                    _half(blob, path),
                ),
            )
    # People without photos were never part of a search.
    connection.execute("DELETE FROM person WHERE id NOT IN (SELECT person FROM face)")
    (n_lost,) = connection.execute("SELECT count(*) FROM face WHERE person NOT IN (SELECT id FROM person)").fetchone()
    if n_lost:
        raise GalleryError(f"{path}: damaged ({n_lost} photos in it have no owner)")


def _half(blob: Any, path: Path) -> bytes:
    if not isinstance(blob, bytes) or len(blob) % 4 or not blob:
        raise GalleryError(f"{path}: damaged (an embedding is not float32 numbers)")
    vector = np.frombuffer(blob, "<f4")
    if not abs(float(np.linalg.norm(vector)) - 1) < 1e-3:  # written like this, NaN fails too
        raise GalleryError(f"{path}: damaged (an embedding is not of length 1)")
    return vector.astype("<f2").tobytes()


def _raw(digest: Any, path: Path) -> bytes:
    try:
        raw = bytes.fromhex(digest)
    except (TypeError, ValueError):
        raw = b""
    if len(raw) != 32:
        raise GalleryError(f"{path}: damaged (a digest is not 32 bytes)")
    return raw


def _seconds(when: Any, path: Path) -> int:
    try:
        return calendar.timegm(time.strptime(when, "%Y-%m-%dT%H:%M:%SZ"))
    except (TypeError, ValueError):
        raise GalleryError(f"{path}: damaged (a time in it is not valid)") from None
