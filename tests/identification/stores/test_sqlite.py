"""The file itself: what is on disk after a kill, after four writers at once, after a removal; and what it refuses."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facespace.errors import GalleryError, UnknownPerson
from facespace.identification.stores import sqlite as store
from facespace.identification.stores.sqlite import APPLICATION_ID, Entry, SQLiteStore

DIMENSION = 512
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and permissions")


def entry(seed: int, dimension: int = DIMENSION) -> Entry:
    vector = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return Entry(vector / np.linalg.norm(vector), f"digest {seed}", f"photo {seed}.jpg", "onnxruntime float32")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people.gallery"


@pytest.fixture
def opened(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path, create=True)
    yield store
    store.close()


def people(path: Path) -> dict[str, int]:
    store = SQLiteStore(path)
    try:
        return {name: n_photos for name, n_photos, _ in store.people()}
    finally:
        store.close()


def integrity(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


# What it keeps


def test_what_is_added_is_found_again(path: Path) -> None:
    first = SQLiteStore(path, create=True)
    assert first.add("Anna", entry(1))
    assert first.add("Ben", entry(2))
    assert first.add("Anna", entry(3))
    first.close()
    again = SQLiteStore(path)
    names, owners, vectors, _ = again.vectors(DIMENSION)
    assert names == ["Anna", "Ben"]
    assert sorted(zip(owners.tolist(), vectors[:, 0].tolist(), strict=True)) == sorted(
        (owner, float(entry(seed).embedding[0])) for owner, seed in ((0, 1), (1, 2), (0, 3))
    )
    assert vectors.dtype == np.float32
    assert [row[:2] for row in again.people()] == [("Anna", 2), ("Ben", 1)]
    assert all(time.strptime(row[2], "%Y-%m-%dT%H:%M:%SZ") for row in again.people())
    again.close()


def test_the_same_crop_twice_counts_once(opened: SQLiteStore) -> None:
    assert opened.add("Anna", entry(1))
    assert not opened.add("Anna", entry(1))
    assert opened.add("Ben", entry(1))
    assert opened.vectors(DIMENSION)[2].shape == (2, DIMENSION)


def test_people_by_name(opened: SQLiteStore) -> None:
    for seed, name in enumerate(["Zoë", "anna", "Ben", "王小明", "🧑‍🚀", "a/b/../c", "Robert'); DROP TABLE face;--"]):
        opened.add(name, entry(seed))
    names = [name for name, _, _ in opened.people()]
    assert names == sorted(names)
    assert len(names) == 7


def test_nobody(opened: SQLiteStore) -> None:
    names, owners, vectors, _ = opened.vectors(DIMENSION)
    assert (names, owners.shape, vectors.shape) == ([], (0,), (0, DIMENSION))
    assert opened.people() == []


def test_rename(opened: SQLiteStore) -> None:
    opened.add("Anna", entry(1))
    opened.add("Ben", entry(2))
    opened.rename("Anna", "Anne")
    opened.rename("Anne", "Anne")
    assert [row[0] for row in opened.people()] == ["Anne", "Ben"]
    with pytest.raises(GalleryError, match="somebody is called 'Ben' already"):
        opened.rename("Anne", "Ben")
    with pytest.raises(UnknownPerson, match="nobody is called 'Carl'"):
        opened.rename("Carl", "Dora")
    assert [row[0] for row in opened.people()] == ["Anne", "Ben"]
    names, owners, vectors, _ = opened.vectors(DIMENSION)
    assert names == ["Anne", "Ben"]
    assert np.array_equal(vectors[owners == 0][0], entry(1).embedding)


def test_remove(opened: SQLiteStore) -> None:
    for seed in range(3):
        opened.add("Anna", entry(seed))
    opened.add("Ben", entry(9))
    assert opened.remove("Anna") == 3
    assert [row[:2] for row in opened.people()] == [("Ben", 1)]
    assert opened.vectors(DIMENSION)[0] == ["Ben"]
    with pytest.raises(UnknownPerson, match="nobody is called 'Anna'"):
        opened.remove("Anna")
    assert opened.add("Anna", entry(0)), "a removed photo can be enrolled again"


def test_a_setting_is_stored_once(path: Path, opened: SQLiteStore) -> None:
    assert opened.setting("embedder") is None
    assert opened.set_once("embedder", {"model": "a", "name": "é"}) == {"model": "a", "name": "é"}
    assert opened.set_once("embedder", {"model": "b"}) == {"model": "a", "name": "é"}
    other = SQLiteStore(path)
    assert other.setting("embedder") == {"model": "a", "name": "é"}
    other.close()


def test_version_tells_of_every_change_and_of_nothing_else(path: Path, opened: SQLiteStore) -> None:
    other = SQLiteStore(path)
    seen = [opened.version()]
    opened.people(), opened.vectors(DIMENSION), other.people()
    assert opened.version() == seen[-1]
    for change in (
        lambda: opened.add("Anna", entry(1)),
        lambda: other.add("Anna", entry(2)),
        lambda: other.rename("Anna", "Anne"),
        lambda: opened.remove("Anne"),
        lambda: other.add("Ben", entry(3)),
    ):
        change()
        assert opened.version() not in seen
        seen.append(opened.version())
    other.close()


def test_threads_share_one_store(opened: SQLiteStore) -> None:
    failures: list[BaseException] = []

    def work(person: int) -> None:
        try:
            for k in range(10):
                opened.add(f"person {person}", entry(person * 100 + k, 64))
                opened.vectors(64)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert {row[:2] for row in opened.people()} == {(f"person {k}", 10) for k in range(4)}


def test_a_failure_inside_a_transaction_undoes_it(opened: SQLiteStore) -> None:
    with pytest.raises(RuntimeError), opened._transaction() as connection:
        connection.execute("INSERT INTO person (name, added) VALUES ('Anna', '')")
        raise RuntimeError
    assert opened.people() == []
    assert opened.add("Anna", entry(1))


def test_a_full_disk_is_an_error_and_loses_nothing(path: Path, opened: SQLiteStore) -> None:
    opened._connection.execute("PRAGMA max_page_count = 12")
    added = []
    with pytest.raises(GalleryError, match="database or disk is full; make room and start the same command again"):
        for seed in range(20):
            opened.add(f"person {seed}", entry(seed))
            added.append(f"person {seed}")
    assert list(people(path)) == added
    opened.remove(added.pop())
    assert list(people(path)) == added
    assert integrity(path) == "ok"


def test_a_transaction_that_sqlite_ended_itself_keeps_its_reason(opened: SQLiteStore) -> None:
    """As it does where the disk is full: there is nothing to roll back then, which would be the only thing told."""
    opened._connection.execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON face BEGIN SELECT RAISE(ROLLBACK, 'the disk is full'); END"
    )
    with pytest.raises(GalleryError, match="the disk is full"):
        opened.add("Anna", entry(1))
    assert opened.people() == []


def test_a_commit_that_fails_is_undone(opened: SQLiteStore) -> None:
    opened._connection.execute("PRAGMA defer_foreign_keys = ON")
    with pytest.raises(GalleryError, match="FOREIGN KEY"), opened._transaction() as connection:
        connection.execute("PRAGMA defer_foreign_keys = ON")  # so that COMMIT is what fails
        connection.execute("INSERT INTO face VALUES (1, 99, 'a', 'b', 'c', x'', 'd', 0.5)")
    assert opened.add("Anna", entry(1))
    assert [row[:2] for row in opened.people()] == [("Anna", 1)]


@pytest.mark.parametrize(
    ("said", "free", "told"),
    [
        ("disk I/O error", 1000, "; make room.*same command again"),  # of the files beside the gallery
        ("disk I/O error", 10**9, "; its disk fails.*another place"),
        ("attempt to write a readonly database", 10**9, "; .*the right to write .* another place"),
        ("unable to open database file", 10**9, "; .*the right to write .* another place"),
        ("database is locked", 10**9, "; end the other program that uses it"),
    ],
)
def test_what_to_do(opened: SQLiteStore, said: str, free: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: store.shutil._ntuple_diskusage(free, 0, free))
    with pytest.raises(GalleryError, match=f"{said}{told}$"), opened._errors():
        raise sqlite3.OperationalError(said)


# Kills and crowds

_ENROLL_FOREVER = """
import sys, numpy as np
from facespace.identification.stores.protocol import Entry
from facespace.identification.stores.sqlite import SQLiteStore
store = SQLiteStore(sys.argv[1], create=True)
for k in range(10**6):
    name = f"{sys.argv[2]}-{k}"
    store.add(name, Entry(np.eye(512, dtype=np.float32)[k % 512], name, "", ""))
    print("+", name, flush=True)
    if k % 4 == 3:
        store.remove(name)
        print("-", name, flush=True)
"""


@posix
def test_killed_at_any_moment(path: Path) -> None:
    wanted: set[str] = set()
    n_rounds = 6
    for round_ in range(n_rounds):
        command = [sys.executable, "-c", _ENROLL_FOREVER, str(path), str(round_)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = [process.stdout.readline()] if round_ else []  # the first round may die while it makes the file
            time.sleep(random.uniform(0.0, 0.25))
            process.send_signal(signal.SIGKILL)
            said += process.stdout.read().splitlines()
        maybe = set()
        if said and not said[-1].startswith("-"):
            maybe = {said[-1].split()[-1]}  # may have been removed and not said so
        for line in said:
            sign, name = line.split()
            wanted = wanted | {name} if sign == "+" else wanted - {name}
        if not path.exists():
            continue
        reopened = SQLiteStore(path, create=True)
        names = {row[0] for row in reopened.people()}
        vectors = reopened.vectors(512)
        assert all(vectors[2][vectors[1] == k].shape == (1, 512) for k in range(len(vectors[0])))
        reopened.close()
        assert wanted - maybe <= names
        more = names - wanted
        assert len(more) <= 1, "what was not acknowledged is one write at most"
        assert integrity(path) == "ok"
        wanted = names
    assert len(wanted) > n_rounds


_ENROLL_TEN = """
import sys, numpy as np
from facespace.identification.stores.protocol import Entry
from facespace.identification.stores.sqlite import SQLiteStore
print("ready", flush=True)
sys.stdin.readline()
store = SQLiteStore(sys.argv[1], create=True)
for k in range(10):
    store.add(f"{sys.argv[2]}-{k}", Entry(np.eye(64, dtype=np.float32)[k], f"{sys.argv[2]} {k}", "", ""))
    store.add("everybody", Entry(np.eye(64, dtype=np.float32)[k], f"{sys.argv[2]} {k}", "", ""))
store.close()
"""


def test_four_processes_make_one_gallery_at_once(path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _ENROLL_TEN, str(path), str(k)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for k in range(4)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert errors == [""] * 4
    assert people(path) == {"everybody": 40} | {f"{who}-{k}": 1 for who in range(4) for k in range(10)}
    assert integrity(path) == "ok"


def test_a_lock_while_the_log_is_switched_on_is_waited_for(path: Path) -> None:
    """SQLite gives up at once where two connections could wait for each other; `_use_log` tries again."""
    other = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    unlock = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))

    class Refusing:
        """A connection whose first two switches of the journal are refused, as in that race."""

        def __init__(self, connection: sqlite3.Connection) -> None:
            self.connection, self.n_refused = connection, 0

        def execute(self, sql: str) -> sqlite3.Cursor:
            if "journal_mode" in sql and self.n_refused < 2:
                self.n_refused += 1
                raise sqlite3.OperationalError("database is locked")
            return self.connection.execute(sql)

    unlock.start()
    opened = SQLiteStore(path, create=True)
    unlock.join()
    other.close()
    refusing = Refusing(opened._connection)
    opened._connection = refusing  # type: ignore[assignment]
    opened._use_log()
    assert refusing.n_refused == 2
    opened.close = refusing.connection.close  # type: ignore[method-assign]
    opened.close()


# Erasing


def bytes_on_disk(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()))


def traces(vector: np.ndarray, data: bytes) -> int:
    """How many of a vector's 32-byte pieces are to be found."""
    blob = vector.astype("<f4").tobytes()
    return sum(blob[at : at + 32] in data for at in range(0, len(blob), 32))


@pytest.mark.parametrize("dimension", [128, 512])
def test_an_erased_vector_is_in_no_file(path: Path, opened: SQLiteStore, dimension: int) -> None:
    other = SQLiteStore(path)
    for seed in range(60):
        opened.add(f"person {seed % 10}", entry(seed, dimension))
    other.people()
    assert {file.name for file in path.parent.iterdir()} == {path.name, f"{path.name}-wal", f"{path.name}-shm"}
    assert traces(entry(13, dimension).embedding, bytes_on_disk(path.parent)) == dimension // 8
    for person in (3, 7, 0):
        opened.remove(f"person {person}")
        data = bytes_on_disk(path.parent)
        assert sum(traces(entry(seed, dimension).embedding, data) for seed in range(person, 60, 10)) == 0
        assert f"photo {person + 10}.jpg".encode() not in data
    assert traces(entry(11, dimension).embedding, data) == dimension // 8
    other.close()


def test_bytes_that_cannot_be_erased_yet_are_told_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_BUSY_SECONDS", 0.05)
    opened = SQLiteStore(path, create=True)
    opened.add("Anna", entry(1))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM face").fetchone()
    with pytest.raises(GalleryError, match="'Anna' is removed, but another program keeps the file busy"):
        opened.remove("Anna")
    reader.execute("COMMIT")
    assert opened.people() == []
    opened.close()
    reader.close()
    assert traces(entry(1).embedding, bytes_on_disk(path.parent)) == 0


# What it refuses


def refused(path: Path, match: str, *, create: bool = False) -> None:
    """Opening and reading raises one line that names the file, and leaves the file and its folder as they are."""
    before = path.read_bytes() if path.is_file() else None
    beside = sorted(os.listdir(path.parent))
    with pytest.raises(GalleryError, match=match) as caught:
        store = SQLiteStore(path, create=create)
        try:
            store.people()
            store.vectors(DIMENSION)
        finally:
            store.close()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before
    assert sorted(os.listdir(path.parent)) == beside


@pytest.fixture
def full_file(path: Path) -> bytes:
    store = SQLiteStore(path, create=True)
    for seed in range(40):
        store.add(f"person {seed}", entry(seed))
    store.close()
    return path.read_bytes()


@pytest.mark.parametrize("create", [False, True])
def test_a_file_that_is_something_else(path: Path, create: bool) -> None:
    for garbage in (b"no gallery\n", random.Random(1).randbytes(10_000), b"\x89PNG\r\n\x1a\n" + bytes(200)):
        path.write_bytes(garbage)
        refused(path, "not a database", create=create)


def test_an_empty_file(path: Path) -> None:
    path.write_bytes(b"")
    refused(path, "an empty file, no gallery")


def test_a_file_that_a_kill_left_empty_becomes_a_gallery_by_enrolling(path: Path) -> None:
    path.write_bytes(b"")
    opened = SQLiteStore(path, create=True)
    opened.add("Anna", entry(1))
    opened.close()
    assert people(path) == {"Anna": 1}


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("size", [10, 100, 1000, 4096, 50_000, -4096, -1500])
def test_a_truncated_file(path: Path, full_file: bytes, size: int, create: bool) -> None:
    path.write_bytes(full_file[:size])
    refused(path, "malformed|not a database|not of length 1", create=create)


def test_a_damaged_page(path: Path, full_file: bytes) -> None:
    where = full_file.index(entry(20).embedding.tobytes()[:64]) // 4096 * 4096
    path.write_bytes(full_file[:where] + b"\xff" * 4096 + full_file[where + 4096 :])
    with pytest.raises(GalleryError, match="malformed"):
        people_and_vectors(path)


def people_and_vectors(path: Path) -> None:
    store = SQLiteStore(path)
    try:
        store.people()
        store.vectors(DIMENSION)
    finally:
        store.close()


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        ("UPDATE face SET embedding = x'00' WHERE id = 7", r"damaged \(an embedding is not of 512 numbers\)"),
        ("UPDATE face SET embedding = zeroblob(2048) WHERE id = 7", r"damaged \(an embedding is not of length 1\)"),
        ("UPDATE person SET name = CAST(x'ff41' AS TEXT) WHERE id = 7", r"not UTF-8|decode"),
        ("DROP TABLE face", "no such table"),
    ],
)
def test_damage_inside(path: Path, full_file: bytes, damage: str, match: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(damage)
    connection.commit()
    connection.close()
    refused(path, match)


def test_a_setting_that_is_no_json(path: Path, opened: SQLiteStore) -> None:
    opened.set_once("embedder", {})
    with opened._transaction() as connection:
        connection.execute("UPDATE setting SET value = '{'")
    with pytest.raises(GalleryError, match=r"damaged \(the setting embedder is not JSON\)"):
        opened.setting("embedder")


def test_vectors_of_another_length(opened: SQLiteStore) -> None:
    opened.add("Anna", entry(1, 128))
    with pytest.raises(GalleryError, match="not of 512 numbers"):
        opened.vectors(512)


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
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    refused(path, "an SQLite file, but not a gallery", create=create)


@pytest.mark.parametrize("create", [False, True])
def test_a_newer_format(path: Path, full_file: bytes, create: bool) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    refused(path, r"newer facespace \(format 3, this one reads up to 2\); upgrade", create=create)


def test_a_file_of_before_opens_without_qualities(path: Path, full_file: bytes) -> None:
    before = SQLiteStore(path).vectors(DIMENSION)
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE face DROP COLUMN quality")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    for _ in range(2):  # migrated by the first
        opened = SQLiteStore(path)
        found = opened.vectors(DIMENSION)
        np.testing.assert_array_equal(found.embeddings, before.embeddings)
        assert np.isnan(found.qualities).all()
        opened.close()


def test_a_quality_out_of_range_is_damage(path: Path, full_file: bytes) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE face SET quality = 1.5")
    connection.commit()
    connection.close()
    with pytest.raises(GalleryError, match=r"damaged \(the quality of a face is not between 0 and 1"):
        SQLiteStore(path).vectors(DIMENSION)


def test_no_file_and_no_folder(tmp_path: Path) -> None:
    refused(tmp_path / "missing.gallery", "no such gallery; enrolling somebody makes one")
    with pytest.raises(GalleryError, match=r"the folder .*nowhere does not exist"):
        SQLiteStore(tmp_path / "nowhere" / "a.gallery", create=True)
    for create in (False, True):
        refused(tmp_path, "a folder, where a gallery file was expected", create=create)


_WRITE_AS_NOBODY = """
import json, os, sys, numpy as np
from facespace.errors import GalleryError
from facespace.identification.stores.protocol import Entry
from facespace.identification.stores.sqlite import SQLiteStore
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
said = []
for attempt in (SQLiteStore.people, lambda s: s.add("B", Entry(np.ones(512, np.float32), "", "", ""))):
    try:
        store = SQLiteStore(sys.argv[1], create=True)
        try:
            attempt(store)
            said.append("")
        finally:
            store.close()
    except GalleryError as error:
        said.append(str(error))
print(json.dumps(said))
"""


@posix
def test_a_file_that_may_not_be_written() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "people.gallery")
        opened = SQLiteStore(path, create=True)
        opened.add("Anna", entry(1))
        opened.close()
        before = path.read_bytes()
        path.chmod(0o444)
        os.chmod(folder, 0o555)
        try:
            output = subprocess.run(
                [sys.executable, "-c", _WRITE_AS_NOBODY, str(path)], capture_output=True, text=True, timeout=60
            )
            assert output.stderr == ""
            _, on_writing = json.loads(output.stdout)
            assert on_writing.startswith(f"{path}: ")
            assert "\n" not in on_writing
            assert path.read_bytes() == before
            assert os.listdir(folder) == [path.name]
        finally:
            os.chmod(folder, 0o755)


def test_the_file_says_what_it_is(path: Path, full_file: bytes) -> None:
    assert full_file[:16] == b"SQLite format 3\0"
    assert int.from_bytes(full_file[68:72], "big") == APPLICATION_ID == int.from_bytes(b"face", "big")
