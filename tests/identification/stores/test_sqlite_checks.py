"""Files that are not intact galleries (other, extended, truncated, torn, altered) are refused and left unchanged."""

from __future__ import annotations

import itertools
import random
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.stores import sqlite_checks, sqlite_rows
from facespace.identification.stores.sqlite import SQLiteStore
from facespace.identification.stores.sqlite_tables import APPLICATION_ID
from support.galleries import damage, entry, held, random_entry, read_everything, refused, spawned

PAGE = 8192


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people.gallery"


def fill(path: Path, n_people: int = 40, dimension: int = 512) -> bytes:
    store = SQLiteStore(path, create=True)
    store._connection.execute("PRAGMA synchronous = OFF")
    for seed in range(n_people):
        store.add(f"person {seed:03d}", random_entry(seed, dimension))
    for seed in range(0, n_people, 5):
        store.add(f"person {seed:03d}", random_entry(1000 + seed, dimension))
    store.close()
    return path.read_bytes()


# Other files


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        b"no gallery\n",
        b"x",
        b"\n" * 511,
        random.Random(1).randbytes(10_000),
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        bytes(8192),
    ],
)
def test_a_file_that_is_something_else(path: Path, data: bytes, create: bool) -> None:
    path.write_bytes(data)
    refused(path, "not a database|not a gallery", create=create)


def test_an_empty_file(path: Path) -> None:
    path.write_bytes(b"")
    refused(path, "an empty file, not a gallery")


def test_a_file_that_a_kill_left_empty_becomes_a_gallery_by_enrolling(path: Path) -> None:
    path.write_bytes(b"")
    store = SQLiteStore(path, create=True)
    store.add("Anna", entry(1))
    store.close()
    assert [one.state.name for one in read_everything(path)["people"]] == ["Anna"]


def test_no_file_and_no_folder(tmp_path: Path) -> None:
    refused(tmp_path / "missing.gallery", "no such gallery; create one with facespace enroll")
    with pytest.raises(GalleryError, match=r"the folder .*nowhere does not exist"):
        SQLiteStore(tmp_path / "nowhere" / "a.gallery", create=True)
    for create in (False, True):
        refused(tmp_path, "must be a gallery file, got a folder", create=create)


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE person (id, name)", "INSERT INTO person VALUES (1, 'Anna')"],
        ["PRAGMA application_id = 77", "CREATE TABLE person (id, name)"],
        ["PRAGMA application_id = 77"],
    ],
)
def test_the_database_of_another_program(path: Path, statements: list[str], create: bool) -> None:
    damage(path, *statements)
    refused(path, "an SQLite file, but not a gallery", create=create)


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize(
    ("version", "match"),
    [(4, r"newer facespace \(format 4, this one reads up to 3\); upgrade"), (2**31 - 1, "newer facespace"),
     (0, r"damaged \(its format is 0\)"), (-3, r"damaged \(its format is -3\)"), (2, "tables, views or triggers")],
)  # fmt: skip
def test_other_formats(path: Path, version: int, match: str, create: bool) -> None:
    fill(path, 5)
    damage(path, f"PRAGMA user_version = {version}")
    refused(path, match, create=create)


def test_the_file_says_what_it_is(path: Path) -> None:
    data = fill(path, 2)
    assert data[:16] == b"SQLite format 3\0"
    assert int.from_bytes(data[68:72], "big") == APPLICATION_ID == int.from_bytes(b"face", "big")


# More than a gallery

RENAMES = "AFTER INSERT ON person BEGIN UPDATE person SET name = 'Mallory' WHERE id = new.id; END"
STRANGE = {
    "a trigger": [f"CREATE TRIGGER t {RENAMES}"],
    "a trigger called as a table is": [f"CREATE TRIGGER person {RENAMES}"],
    "a trigger with a terminal's controls": [f'CREATE TRIGGER "\x1b[2J" {RENAMES}'],
    "a view": ["CREATE VIEW v AS SELECT * FROM person"],
    "a view in the place of a table": [
        "ALTER TABLE making RENAME TO made", "CREATE VIEW making AS SELECT * FROM made",
    ],
    "a view without an end in the place of a table": [
        "ALTER TABLE person RENAME TO people",
        "CREATE VIEW person AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT n.id AS id, 1 AS"
        " collection, 'x' || n.id AS name, NULL AS external_id, 1 AS added, NULL AS gone, NULL AS extra, 0 AS stamp FROM n",
    ],
    "another table": ["CREATE TABLE more (id)"],
    "a virtual table": ["CREATE VIRTUAL TABLE more USING fts5(x)"],
    "an index": ["CREATE INDEX more ON person (added)"],
    "an index of an expression": ["CREATE INDEX more ON person (abs(added))"],
    "what another program has counted": ["ANALYZE"],
    "another column": ["ALTER TABLE person ADD COLUMN more"],
    "a generated column": ["ALTER TABLE person ADD COLUMN more AS (zeroblob(1000000000))"],
}  # fmt: skip


@pytest.mark.parametrize("statements", STRANGE.values(), ids=STRANGE)
def test_tables_views_and_triggers_of_others(path: Path, statements: list[str]) -> None:
    fill(path, 5)
    damage(path, *statements)
    for create in (False, True):
        refused(path, "tables, views or triggers that are not facespace's", create=create)


@pytest.mark.parametrize("name", ["sqlite_sequence", "sqlite_autoindex_person_1", "person", "sqlite_stat1"])
def test_a_trigger_in_disguise(path: Path, name: str) -> None:
    """The type and name in `sqlite_master` need not match the statement."""
    fill(path, 5)
    row = f"INSERT INTO sqlite_master VALUES ('trigger', '{name}', 'person', 0, 'CREATE TRIGGER {name} {RENAMES}')"
    damage(path, "PRAGMA writable_schema = ON", row.replace("'Mallory'", "''Mallory''"))
    refused(path, "that are not facespace's|malformed")


@pytest.mark.parametrize("what", ["person_name", "face_person", "face_digest"])
def test_an_index_that_is_missing(path: Path, what: str) -> None:
    fill(path, 5)
    damage(path, f"DROP INDEX {what}")
    refused(path, "1 of its tables and indexes are missing")


@pytest.mark.parametrize("what", ["face", "person", "head", "log", "crop"])
def test_a_table_that_is_missing(path: Path, what: str) -> None:
    fill(path, 5)
    damage(path, f"DROP TABLE {what}")
    refused(path, "of its tables and indexes are missing")


# Truncated, torn, and altered at random


def test_a_truncated_file(path: Path) -> None:
    data = fill(path)
    n_pages = len(data) // PAGE
    sizes = [1, 15, 16, 99, 100, 511, 512, 1000, 4096, len(data) - 1, len(data) - 1500]
    for size in [*sizes, *(PAGE * k for k in range(1, n_pages)), *(PAGE * k + 77 for k in range(1, n_pages, 3))]:
        path.write_bytes(data[:size])
        refused(path, "malformed|not a database|incomplete|not a gallery")
    path.write_bytes(data)
    assert len(read_everything(path, 512)["people"]) == 40


@pytest.mark.parametrize("more", [b"x", bytes(PAGE), random.Random(1).randbytes(3 * PAGE)])
def test_a_file_with_more_at_its_end(path: Path, more: bytes) -> None:
    """A process that is killed while it shortens the file leaves the pages that it should have cut off."""
    data = fill(path, 5)
    path.write_bytes(data + more)
    assert len(read_everything(path, 512)["people"]) == 5
    assert path.read_bytes() == data, "they may contain vectors of erased people"


def versions(path: Path) -> tuple[list[bytes], list[str]]:
    """Return a gallery's file before and after each of some changes, and the names of the changed people."""
    fill(path, 120, 64)
    store = SQLiteStore(path)
    found, chance = [path.read_bytes()], random.Random(4)
    names = []
    for number in range(12):
        one, other = (one.state.name for one in chance.sample(store.people(), 2))
        names += [one, other, f"new {number}"]
        (
            lambda one=one, number=number: store.add(one, random_entry(5000 + number, 64)),
            lambda number=number: store.add(f"new {number}", random_entry(5000 + number, 64)),
            lambda one=one, number=number: edits.rename(store, one, f"new {number}"),
            lambda one=one: edits.remove(store, one),
            lambda one=one, other=other: edits.merge(store, [one], other),
            lambda: edits.undo(store),
        )[number % 6]()
        found.append(path.read_bytes())
    store.close()
    return found, names


def answers(path: Path, names: list[str]) -> object:
    """Return what a gallery returns for all people and for these people, after a search if it can be searched."""
    store = SQLiteStore(path)
    try:
        probes = np.stack([random_entry(k, 64).embedding for k in (*range(0, 120, 10), *range(5000, 5012))])
        found = store.nearest(probes, 2)
        return held(store), found.people.tolist(), found.n_photos.tolist(), [store.find(name) for name in names]
    finally:
        store.close()


@pytest.mark.parametrize("is_small", [True, False])
def test_a_copy_of_some_pages_before_and_others_after_a_change(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_small: bool
) -> None:
    """A file copied during a change is refused, or returns the data of one of the two consistent files."""
    if not is_small:  # the checks of files that are too large to be read completely on opening
        monkeypatch.setattr(sqlite_checks, "_SMALL", 0)
        monkeypatch.setattr(sqlite_rows, "_COUNTED_ON_OPENING", 0)
    whole, names = versions(path)
    expected = []
    for data in whole:
        path.write_bytes(data)
        expected.append(answers(path, names))
    chance = random.Random(int(is_small))
    n_refused = 0
    for _ in range(60):
        start = chance.randrange(len(whole) - 1)
        some = whole[start : start + chance.choice([2, 2, 3, 6])]
        last = chance.choice(some)  # it has the file's length, and the pages that are compared on opening
        n_pages = len(last) // PAGE
        if chance.random() < 0.5:  # a change runs while the file is copied from beginning to end
            cuts = sorted(chance.randrange(n_pages) for _ in some[1:])
            picks = [some[sum(cut <= k for cut in cuts)] for k in range(n_pages)]
        else:
            picks = [chance.choice([last, chance.choice(some)]) for _ in range(n_pages)]
            for page in itertools.chain(range(2), pages_of(path, last, "touched")):
                picks[page] = last
        pages = (pick[PAGE * k : PAGE * (k + 1)] or last[PAGE * k : PAGE * (k + 1)] for k, pick in enumerate(picks))
        path.write_bytes(b"".join(pages))
        try:
            found = answers(path, names)
        except GalleryError as error:
            n_refused += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        else:
            assert found in expected, "a mixture was accepted"
    assert n_refused > 25


def pages_of(path: Path, data: bytes, table: str) -> list[int]:
    """Return the first page of a table, counted from 0."""
    path.write_bytes(data)
    connection = sqlite3.connect(path)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    connection.close()
    return [page - 1]


@pytest.mark.parametrize("index", ["face_digest", "face_person", "person_name"])
def test_an_index_of_another_state(path: Path, index: str) -> None:
    """A small file is checked completely when it is opened."""
    before = fill(path, 20, 64)
    (page,) = pages_of(path, before, index)
    store = SQLiteStore(path)
    edits.rename(store, "person 003", "Zoë")
    store.add("Zoë", random_entry(500, 64))
    store.close()
    data = bytearray(path.read_bytes())
    data[PAGE * page : PAGE * (page + 1)] = before[PAGE * page : PAGE * (page + 1)]
    path.write_bytes(data)
    refused(path, r"damaged \(its pages do not fit together\); if it was copied during a change, copy it again")


def test_bytes_changed_at_random(path: Path) -> None:
    """There are no other errors than `GalleryError`, and only names that were altered differ."""
    data = fill(path, 30, 8)
    chance = random.Random(2)
    n_refused = 0
    for _ in range(120):
        broken = bytearray(data)
        for _ in range(chance.choice([1, 1, 4, 40])):
            at = chance.randrange(len(broken) if chance.random() < 0.7 else 4 * PAGE)
            some = chance.randbytes(chance.choice([1, 1, 4, 100, 3000]))
            broken[at : at + len(some)] = some[: len(broken) - at]
        path.write_bytes(broken)
        path.with_name(path.name + "-journal").unlink(missing_ok=True)
        try:
            found = read_everything(path)
        except GalleryError as error:
            n_refused += 1
            assert "\n" not in str(error) and str(error).isprintable()
        else:
            assert found["count"] == 30 == len(found["people"])
            assert sum(f"person {k:03d}" in found["states"] for k in range(30)) >= 25
    assert n_refused > 30


# Files next to the gallery


def test_a_write_ahead_log_that_another_program_switched_on_is_switched_off(path: Path) -> None:
    """With one, a copy of the file alone would miss the last changes."""
    fill(path, 5)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    connection.execute("UPDATE log SET actor = 'x'")
    connection.commit()
    connection.close()
    store = SQLiteStore(path)
    store.add("Ada", random_entry(77, 512))
    copied = path.with_name("copy")
    copied.write_bytes(path.read_bytes())
    assert sorted(one.name for one in path.parent.iterdir()) == ["copy", path.name]
    assert "Ada" in read_everything(copied, 512)["states"]
    store.close()


_TAKE_THE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    connection.execute("BEGIN IMMEDIATE")
    print("free")
except sqlite3.OperationalError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
def test_opening_a_file_again_does_not_take_away_the_locks_of_this_process(path: Path) -> None:
    """A process loses all its locks on a file when it closes any descriptor of it."""
    fill(path, 5)
    store = SQLiteStore(path)
    with store._write():
        SQLiteStore(path).close()
        output, errors = spawned(_TAKE_THE_LOCK, path).communicate(timeout=60)
    assert (output, errors) == ("database is locked\n", "")
    store.close()
