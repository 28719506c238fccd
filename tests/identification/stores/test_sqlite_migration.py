"""Files of formats 1 and 2 are converted completely and atomically, also after kills and by several processes."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.stores import sqlite as module, sqlite_migration
from facespace.identification.stores.sqlite import SQLiteStore
from facespace.identification.stores.sqlite_checks import OLD_SCHEMAS
from facespace.identification.stores.sqlite_tables import APPLICATION_ID
from support.galleries import damage, integrity, random_entry, refused, spawned

D = 64
FORMATS = pytest.mark.parametrize("version", [1, 2])


def old_file(path: Path, version: int, n_people: int = 6, dimension: int = D, *, log: bool = True) -> None:
    """Write a gallery of an older format: two photos of each person except the last, who has none."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {'WAL' if log else 'DELETE'}")
    connection.execute("BEGIN")
    for statement in OLD_SCHEMAS[version]:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("""INSERT INTO setting VALUES ('embedder', '{"model": "stub"}')""")
    for k in range(n_people):
        person = 3 * k + 2  # with gaps, as if other people had been removed
        connection.execute("INSERT INTO person VALUES (?, ?, '2026-01-02T03:04:05Z')", (person, f"person {k:04d}"))
        for number in () if k == n_people - 1 else (2 * k, 2 * k + 1):
            one = random_entry(number, dimension)
            row = (
                None,
                person,
                one.digest,
                one.source,
                "onnx",
                one.embedding.astype("<f4").tobytes(),
                "2026-01-02T03:04:06Z",
            )
            row += (0.5 if number % 2 else None,) if version == 2 else ()
            connection.execute(f"INSERT INTO face VALUES ({', '.join('?' * len(row))})", row)
    connection.execute("COMMIT")
    connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people.gallery"


@FORMATS
def test_everything_is_there(path: Path, version: int) -> None:
    old_file(path, version)
    store = SQLiteStore(path)
    assert store.remarks == (
        f"{path}: converted from format {version} to 3; older versions of facespace cannot open it",
    )
    for opened in (store, SQLiteStore(path)):
        people = opened.people()
        assert [one.state.name for one in people] == [f"person {k:04d}" for k in range(5)], (
            "people without photos are left out"
        )
        assert [one.id for one in people] == [2, 5, 8, 11, 14]
        assert {(one.n_photos, one.added) for one in people} == {(2, "2026-01-02T03:04:05Z")}
        for k, one in enumerate(people):
            for number, photo in zip((2 * k, 2 * k + 1), opened.photos(one.id), strict=True):
                expected = random_entry(number, D)
                assert (photo.digest, photo.source, photo.made_by) == (expected.digest, expected.source, "onnx")
                assert (photo.added, photo.actor) == ("2026-01-02T03:04:06Z", "")
                assert photo.quality == (0.5 if number % 2 and version == 2 else None)
                np.testing.assert_allclose(opened.embeddings([photo.id])[0], expected.embedding, atol=1e-3)
        assert opened.nearest(random_entry(4, D).embedding[None], 1).people.tolist() == [[8]]
        assert opened.setting("embedder") == {"model": "stub"} and opened.log() == []
        if opened is not store:
            assert opened.remarks == ()
            edits.rename(opened, "person 0000", "Ada")
            opened.add("Bob", random_entry(99, D))
            assert opened.people()[1].id > 14
            opened.close()
    store.close()
    assert os.listdir(path.parent) == [path.name] and integrity(path) == "ok"


def test_room_is_given_back(path: Path) -> None:
    old_file(path, 2, 200, 512)
    before = path.stat().st_size
    SQLiteStore(path).close()
    assert path.stat().st_size < 0.7 * before
    assert random_entry(3, 512).embedding.astype("<f4").tobytes()[:64] not in path.read_bytes()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA page_size").fetchone() == (8192,)


@FORMATS
@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("UPDATE face SET embedding = zeroblob(256) WHERE id = 3", r"damaged \(an embedding is not of length 1\)"),
        ("UPDATE face SET embedding = x'00' WHERE id = 3", "an embedding is not float32 numbers"),
        ("UPDATE face SET embedding = x'' WHERE id = 3", "an embedding is not float32 numbers"),
        ("UPDATE face SET embedding = 7 WHERE id = 3", "an embedding is not float32 numbers"),
        (f"UPDATE face SET embedding = x'{'0000c07f' * 64}' WHERE id = 3", "an embedding is not of length 1"),
        ("UPDATE face SET digest = 'x' WHERE id = 3", "a digest is not 32 bytes"),
        ("UPDATE face SET digest = x'00' WHERE id = 3", "a digest is not 32 bytes"),
        ("UPDATE face SET added = 'yesterday' WHERE id = 3", "a time in it is not valid"),
        ("UPDATE person SET added = '9' WHERE id = 2", "a time in it is not valid"),
        ("UPDATE face SET person = 77 WHERE id = 3", "1 photos in it have no owner"),
        ("UPDATE face SET source = CAST(x'ff41' AS TEXT) WHERE id = 3", "not UTF-8"),
        ("CREATE TRIGGER person AFTER INSERT ON face BEGIN DELETE FROM person; END", "tables, views or triggers"),
        ("CREATE VIEW v AS SELECT 1", "tables, views or triggers"),
        ("CREATE TABLE more (id)", "tables, views or triggers"),
        ("CREATE INDEX more ON face (added)", "tables, views or triggers"),
        ("DROP TABLE setting", "1 of its tables and indexes are missing"),
    ],
)
def test_damage_is_reported_and_the_old_file_stays(path: Path, version: int, statement: str, match: str) -> None:
    old_file(path, version, log=False)
    damage(path, statement)
    refused(path, match)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)


def test_a_truncated_old_file(path: Path) -> None:
    old_file(path, 2, 60, 512, log=False)
    data = path.read_bytes()
    for size in (5000, len(data) // 2, len(data) - 4096, len(data) - 100):
        path.write_bytes(data[:size])
        refused(path, "malformed|not a database|damaged")


def test_no_room_to_migrate(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_file(path, 2, 60, 512)
    connect = sqlite3.connect
    limits = [0]

    def with_little_room(*arguments: object, **options: object) -> sqlite3.Connection:
        connection = connect(*arguments, **options)  # type: ignore[call-overload]
        connection.execute(f"PRAGMA max_page_count = {limits[0]}")
        made: sqlite3.Connection = connection
        return made

    pages = path.stat().st_size // 4096
    with monkeypatch.context() as patched:
        patched.setattr("facespace.identification.stores.sqlite.sqlite3.connect", with_little_room)
        for limits[0] in range(pages, pages + 30, 9):
            with pytest.raises(
                GalleryError, match="database or disk is full; make room and start the same command again"
            ):
                SQLiteStore(path)
            with contextlib.closing(connect(path)) as whole:
                assert whole.execute("SELECT count(*) FROM face").fetchone() == (118,)
    store = SQLiteStore(path)
    assert store.count() == 59
    store.close()


def test_no_room_to_give_room_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is migrated nevertheless, in a larger file."""
    old_file(path, 2)
    connection = sqlite3.connect(path, isolation_level=None)

    class WithoutRoom:
        def __getattr__(self, name: str) -> object:
            return getattr(connection, name)

        def execute(self, sql: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
            if sql == "VACUUM":
                raise sqlite3.OperationalError("database or disk is full")
            return connection.execute(sql, values)

    sqlite_migration.migrate(WithoutRoom(), path, 2)  # type: ignore[arg-type]
    connection.close()
    store = SQLiteStore(path)
    assert store.count() == 5 and store.remarks == ()
    store.close()


_OPEN = """
import sys
from facespace.identification.stores.sqlite import SQLiteStore
print("ready", flush=True)
sys.stdin.readline()
store = SQLiteStore(sys.argv[1])
print(store.count(), len(store.people()), len(store.vectors(64).owners))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_during_a_migration(path: Path) -> None:
    """The file has the old or the new format, and the next process that opens it finds all people."""
    seconds = 0.0
    for turn in range(4):
        for beside in path.parent.iterdir():
            beside.unlink()
        old_file(path, 2, 600)
        with spawned(_OPEN, path) as process:
            assert process.stdout is not None and process.stdin is not None
            process.stdout.readline()
            began = time.monotonic()
            process.stdin.write("go\n")
            process.stdin.flush()
            if turn:
                time.sleep(seconds * turn / 4)
                process.send_signal(signal.SIGKILL)
            output = process.stdout.read()
            seconds = seconds or time.monotonic() - began
        if not turn:
            assert output == "599 599 1198\n"
        store = SQLiteStore(path)
        assert store.count() == 599 == len(store.people()) and len(store.vectors(D).owners) == 1198
        store.close()
        assert integrity(path) == "ok"
        # A journal that was not synced before the kill has a header of zeros, and SQLite ignores it.
        left = {one.name: one.read_bytes()[:8] for one in path.parent.iterdir() if one != path}
        assert set(left) <= {f"{path.name}-journal"} and set(left.values()) <= {b"", bytes(8)}


def test_two_processes_migrate_at_once(path: Path) -> None:
    old_file(path, 2, 500)
    processes = [spawned(_OPEN, path) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60) for process in processes] == [("499 499 998\n", "")] * 3
    assert integrity(path) == "ok" and os.listdir(path.parent) == [path.name]


def test_a_late_process_finds_the_migration_done(path: Path) -> None:
    old_file(path, 2)
    SQLiteStore(path).close()
    before = path.read_bytes()
    connection = sqlite3.connect(path, isolation_level=None)
    sqlite_migration.migrate(connection, path, 2)
    connection.close()
    assert path.read_bytes() == before


def test_two_openers_of_an_old_file_do_not_deadlock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two connections that have read the old file keep each other from switching off its log, until one is reopened."""
    old_file(path, 2)
    both, check = threading.Barrier(2), module.check_file
    turns = {True: 0, False: 0}

    def check_together(*arguments: Any) -> int:
        version = check(*arguments)
        is_first = threading.current_thread() is first
        turns[is_first] += 1
        if turns[is_first] == 1:
            both.wait(timeout=30)
        return version

    def open_it() -> None:
        SQLiteStore(path).close()
        opened.append(True)

    opened: list[bool] = []
    monkeypatch.setattr(module, "_BUSY_SECONDS", 5.0)
    monkeypatch.setattr(module, "check_file", check_together)
    first, second = threading.Thread(target=open_it), threading.Thread(target=open_it)
    for thread in (first, second):
        thread.start()
    for thread in (first, second):
        thread.join()
    assert opened == [True, True]


def test_a_file_that_an_older_version_has_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facespace.identification.stores.sqlite._BUSY_SECONDS", 0.1)
    old_file(path, 2)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("SELECT * FROM face").fetchone()
    with pytest.raises(GalleryError, match="database is locked; end the other program that uses it"):
        SQLiteStore(path)
    assert other.execute("SELECT count(*) FROM person").fetchone() == (6,)
    other.close()
    SQLiteStore(path).close()
