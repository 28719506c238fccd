"""The file on disk: after kills, on a full disk, with many processes, after an erasure, and as a copy."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.stores import sqlite as module
from facespace.identification.stores.protocol import Entry, NoSuchCollection
from facespace.identification.stores.sqlite import SQLiteStore
from support.galleries import held, integrity, random_entry, read_everything, spawned

D = 64
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and permissions")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people.gallery"


@pytest.fixture
def opened(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path, create=True)
    yield store
    store.close()


def photos(path: Path) -> dict[str, list[str]]:
    """Return the digests of each person's photos, after checking that the file is intact."""
    assert integrity(path) == "ok"
    store = SQLiteStore(path)
    try:
        found = {one.state.name: [photo.digest for photo in store.photos(one.id)] for one in store.people()}
        assert [one.n_photos for one in store.people()] == [len(some) for some in found.values()]
        if found:
            store.nearest(random_entry(0, D).embedding[None], 1)
        return found
    finally:
        store.close()


# Transactions


def test_a_failure_inside_a_transaction_undoes_it(opened: SQLiteStore) -> None:
    with pytest.raises(RuntimeError), opened._write() as cursor:
        cursor.change("INSERT INTO person (collection, name, added) VALUES (1, 'Anna', 0)")
        raise RuntimeError
    assert opened.people() == []
    assert opened.add("Anna", random_entry(1, D))


def test_a_transaction_that_sqlite_ended_itself_keeps_its_reason(opened: SQLiteStore) -> None:
    """SQLite does so if the disk is full; the error of a needless ROLLBACK would hide the reason."""
    opened._connection.execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON face BEGIN SELECT RAISE(ROLLBACK, 'the disk is full'); END"
    )
    with pytest.raises(GalleryError, match="the disk is full"):
        opened.add("Anna", random_entry(1, D))
    assert opened.people() == []


def test_changes_are_synchronised_and_overwritten(path: Path, opened: SQLiteStore) -> None:
    del opened
    store = SQLiteStore(path)
    settings = {
        name: store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "secure_delete")
    }
    assert settings == {"synchronous": 3, "secure_delete": 1}
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    store.close()


@pytest.mark.parametrize(
    ("said", "free", "told"),
    [
        ("disk I/O error", 1000, "; make room.*same command again"),  # for the files next to the gallery
        ("disk I/O error", 10**9, "; its disk fails.*another place"),
        ("attempt to write a readonly database", 10**9, "; .*the right to write .* another place"),
        ("unable to open database file", 10**9, "; .*the right to write .* another place"),
        ("database is locked", 10**9, "; end the other program that uses it"),
        ("malformed database schema (\x1b[2J\u2028)", 10**9, r" \(\\x1b\[2J\\u2028\)"),
    ],
)
def test_remedies(opened: SQLiteStore, said: str, free: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))  # type: ignore[attr-defined]
    with pytest.raises(GalleryError, match=f"{said.partition(' (')[0]}{told}$"), opened._errors():
        raise sqlite3.OperationalError(said)


def test_one_file_is_complete_after_every_change(path: Path, opened: SQLiteStore) -> None:
    """A plain copy of an open gallery, made between changes, has everything."""
    other = SQLiteStore(path)
    for number, do in enumerate(
        (
            lambda: opened.add("Ada", random_entry(1, D)),
            lambda: other.add("Bob", random_entry(2, D)),
            lambda: edits.rename(opened, "Ada", "Zoë"),
            lambda: edits.remove(other, "Bob"),
            lambda: edits.undo(opened),
            lambda: opened.set("embedder", {}),
        )
    ):
        do()
        copy = path.with_name(f"copy {number}")
        shutil.copyfile(path, copy)
        assert photos(copy) == photos(path)
        copy.unlink()
        assert os.listdir(path.parent) == [path.name]
    other.close()


# Kills and many processes

# Does numbered steps one after another, and prints the number of each finished step.
_STEPS = """
import sys, numpy as np
from facespace.identification import edits
from facespace.identification.stores.protocol import Entry
from facespace.identification.stores.sqlite import SQLiteStore
def photo(k):
    return Entry(np.eye(64, dtype=np.float32)[k % 64], f"{k:064x}", f"photo {k}.jpg", "")
store = SQLiteStore(sys.argv[1], create=True)
for k in range(int(sys.argv[2]), 10**6):
    name, step = f"person {k // 6}", k % 6
    if step in (0, 1):
        store.add(name, photo(k))
    elif step == 2:
        store.add(name + " again", photo(k))
    elif step == 3:
        edits.merge(store, [name + " again"], name)
    elif step == 4:
        edits.remove(store, name)
    elif k // 6 % 2:
        edits.undo(store)
    else:
        store.erase()
    print(k, flush=True)
"""


def after_steps(n: int) -> dict[str, list[str]]:
    """Return each person's photos after the first n steps of `_STEPS`."""
    people: dict[str, list[str]] = {}
    for k in range(n):
        name, step = f"person {k // 6}", k % 6
        if step < 3:
            people.setdefault(name + " again" * (step == 2), []).append(f"{k:064x}")
        elif step == 3:
            people[name] += people.pop(name + " again")
        elif step == 4:
            removed = people.pop(name)
        elif k // 6 % 2:
            people[name] = removed
    return people


@posix
def test_killed_at_any_moment(path: Path) -> None:
    """After a kill while adding, merging, removing, undoing or erasing, all reported steps are there, and the next or not."""
    done, chance = 0, random.Random(3)
    for round_ in range(5):
        with spawned(_STEPS, path, done) as process:
            assert process.stdout is not None
            said = [process.stdout.readline()] if round_ else []  # the first may be killed while it creates the file
            time.sleep(chance.uniform(0.0, 0.3))
            process.send_signal(signal.SIGKILL)
            said += process.stdout.read().splitlines()
        done = max([done, *(int(line) + 1 for line in said if line.strip())])
        if not path.exists():
            continue
        SQLiteStore(path, create=True).close()
        found = photos(path)
        assert found in (after_steps(done), after_steps(done + 1))
        done += found != after_steps(done)
        while done % 6:  # begin the next round with a new person
            path.unlink()
            done = 0
    assert done or not path.exists()


_CROWD = """
import os, sys, numpy as np
from facespace.identification import edits
from facespace.identification.stores.protocol import Entry
from facespace.identification.stores.sqlite import SQLiteStore
def vector(k):
    drawn = np.random.default_rng(k).standard_normal(64).astype(np.float32)
    return drawn / np.linalg.norm(drawn)
path, who, stop = sys.argv[1], int(sys.argv[2]), sys.argv[3]
store = SQLiteStore(path, create=True)
print("ready", flush=True)
sys.stdin.readline()
k = 0
while not os.path.exists(stop):
    seed = 10_000 * who + k
    if who < 4:
        store.add(f"{who} {k:04d}", Entry(vector(seed), f"{2 * seed:064x}", "", ""))
        store.add("everybody", Entry(vector(seed), f"{2 * seed + 1:064x}", "", ""))
        if k % 5 == 4:
            edits.rename(store, f"{who} {k:04d}", f"{who} {k:04d} renamed")
            edits.remove(store, f"{who} {k - 1:04d}")
        print(k, flush=True)
    else:
        found = store.nearest(np.stack([vector(10_000 * one) for one in range(4)]), 2)
        people = store.get([int(one) for one in found.people[:, 0] if one >= 0])
        if k % 10 == 0:
            store.people(limit=20)
    k += 1
store.close()
print("end", k, flush=True)
"""


def crowd(path: Path, n: int) -> list[subprocess.Popen[str]]:
    """Start processes: the first four write, the others identify until a file `stop` exists."""
    processes = [spawned(_CROWD, path, who, path.with_name("stop")) for who in range(n)]
    for process in processes:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return processes


def of_crowd(who: int, n: int) -> set[str]:
    """Return the people whom a writer has enrolled after n turns."""
    there = set()
    for k in range(n):
        there |= {f"{who} {k:04d}"}
        if k % 5 == 4:
            there = (there - {f"{who} {k:04d}", f"{who} {k - 1:04d}"}) | {f"{who} {k:04d} renamed"}
    return there


def test_four_processes_write_and_four_identify(path: Path) -> None:
    processes = crowd(path, 8)
    time.sleep(2)
    path.with_name("stop").touch()
    ended = [process.communicate(timeout=60) for process in processes]
    assert [errors for _, errors in ended] == [""] * 8
    turns = [int(output.split()[-1]) for output, _ in ended]
    assert sum(turns[:4]) > 0 < sum(turns[4:])
    found = photos(path)
    assert len(found.pop("everybody")) == sum(turns[:4])
    assert set(found) == set().union(*(of_crowd(who, turns[who]) for who in range(4)))


def test_copies_while_four_processes_write(path: Path) -> None:
    """A copy by `copy_to` is always intact and has all earlier acknowledged changes; a plain copy is intact or refused."""
    processes = crowd(path, 4)
    store = SQLiteStore(path)
    for number in range(1, 9):
        at_least = store.count()
        copy = path.with_name(f"copy {number}")
        is_plain = number % 2 == 0
        if is_plain:
            with path.open("rb") as source, copy.open("wb") as target:
                while data := source.read(8192 if number % 4 else 2**20):
                    target.write(data)
        else:
            store.copy_to(copy)
        try:
            found = photos(copy)
        except (GalleryError, sqlite3.DatabaseError, AssertionError):
            assert is_plain, "copy_to made a torn copy"
            continue
        assert len(found) >= at_least - 4  # each of the four may be removing one
        everybody = {int(digest, 16) // 2 for digest in found.pop("everybody", [])}
        for who in range(4):
            n = sum(one // 10_000 == who for one in everybody)
            assert {name for name in found if name.startswith(f"{who} ")} in list(of_turn(who, n))
    store.close()
    path.with_name("stop").touch()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert errors == ""
    assert not [one for one in os.listdir(path.parent) if one.startswith(".facespace-")]


def of_turn(who: int, n: int) -> Iterator[set[str]]:
    """Return what a writer may have enrolled when the person "everybody" has n of its photos."""
    before, last = of_crowd(who, n - 1), f"{who} {n - 1:04d}"
    yield before | {last}
    yield before | {f"{last} renamed"}
    yield of_crowd(who, n)
    yield of_crowd(who, n) | {f"{who} {n:04d}"}


_MAKE = """
import sys, numpy as np
from facespace.identification.stores.protocol import Entry
from facespace.identification.stores.sqlite import SQLiteStore
print("ready", flush=True)
sys.stdin.readline()
store = SQLiteStore(sys.argv[1], collection=sys.argv[3], create=True)
for k in range(5):
    store.add("Ada", Entry(np.eye(64, dtype=np.float32)[k], f"{int(sys.argv[2]):032x}{k:032x}", "", ""))
"""


def test_four_processes_make_one_gallery_at_once(path: Path) -> None:
    processes = [spawned(_MAKE, path, who, "default" if who % 2 else "other") for who in range(4)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert [process.communicate("go\n", timeout=60) for process in processes] == [("", "")] * 4
    assert len(photos(path)["Ada"]) == 10


# Full disks


def steps() -> dict[str, Callable[[SQLiteStore], Any]]:
    """Return changes of every kind, for a gallery of some people."""
    return {
        "add": lambda store: store.add("new", random_entry(10**6, 4096)),
        "add with a crop": lambda store: store.add("new", with_crop(random_entry(10**6 + 1, D))),
        "edit": lambda store: edits.edit(store, "person 1", metadata={"x": "y" * 16_000}),
        "merge": lambda store: edits.merge(store, [f"person {k}" for k in range(2, 30)], "person 1"),
        "remove": lambda store: edits.remove(store, "person 0"),
        "undo": lambda store: edits.undo(store),
        "erase": lambda store: store.erase(),
        "setting": lambda store: store.set("embedder", {"x": "y" * 20_000}),
    }


def with_crop(one: Entry) -> Entry:
    return dataclasses.replace(one, crop=bytes(range(256)) * 100)


@pytest.mark.parametrize("step", steps())
def test_a_full_disk_at_every_page(path: Path, step: str) -> None:
    """With one more free page each time, each change fails with a remedy and changes nothing, until it succeeds."""
    store = SQLiteStore(path, create=True)
    store._connection.execute("PRAGMA synchronous = OFF")
    for k in range(40):
        store.add(f"person {k}", random_entry(k, D))
    edits.remove(store, "person 35")
    do = steps()[step]
    before = held(store)
    (n_pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store.setting("embedder")
    for room in range(40):
        store._connection.execute(f"PRAGMA max_page_count = {n_pages + room}")
        try:
            do(store)
            break
        except GalleryError as error:
            assert str(error).endswith("database or disk is full; make room and start the same command again")
            assert held(store) == before
            assert integrity(path) == "ok"
    else:
        pytest.fail("it never succeeded")
    assert room > 0 or step in ("remove", "undo", "erase", "merge")
    store.close()
    read_everything(path, D) if step != "add" else photos_of(path)


def photos_of(path: Path) -> None:
    store = SQLiteStore(path)
    held(store)
    store.close()


_ENROLL_WITH_LIMIT = """
import resource, sys, numpy as np
from facespace.errors import GalleryError
from facespace.identification.stores.protocol import Entry
from facespace.identification.stores.sqlite import SQLiteStore
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    store = SQLiteStore(sys.argv[1], create=True)
    for k in range(200):
        store.add(f"person {k}", Entry(np.eye(64, dtype=np.float32)[k % 64], f"{k:064x}", "", ""))
        print(k, flush=True)
    if sys.argv[3:]:
        store.copy_to(sys.argv[3])
except GalleryError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@posix
@pytest.mark.parametrize("limit", [0, 100, 20_000, 114_688, 150_000])
def test_a_limit_on_the_size_of_files(path: Path, limit: int) -> None:
    """The limit applies to the gallery and to its journal."""
    output, errors = spawned(_ENROLL_WITH_LIMIT, path, limit).communicate(timeout=60)
    assert errors.startswith(f"{path}: ") and errors.count("\n") == 1
    assert errors.rstrip().endswith(("another place", "start the same command again"))
    said = output.split()
    assert len(said) > 0 or limit < 150_000
    if path.exists() and path.stat().st_size:
        SQLiteStore(path, create=True).close()
        assert list(photos(path)) == sorted(f"person {k}" for k in said)
    assert {one.name for one in path.parent.iterdir()} <= {path.name}


# Places that cannot be written

_AS_NOBODY = """
import json, os, sys
import urllib.parse  # pathlib imports it at its first use, when this process may no longer read Python's folder
from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.stores.sqlite import SQLiteStore
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
said = []
for attempt in (
    lambda s: sorted(one.state.name for one in s.people()), lambda s: len(s.photos(1)), lambda s: len(s.log()),
    lambda s: s.nearest(s.embeddings([1]), 1).people.tolist(), lambda s: edits.rename(s, "Anna", "Anne"), lambda s: s.erase(),
):
    try:
        store = SQLiteStore(sys.argv[1], create=True)
        try:
            said.append(attempt(store))
        finally:
            store.close()
    except GalleryError as error:
        said.append(str(error))
print(json.dumps(said))
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users may read."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        inner = Path(folder, "inner")
        inner.mkdir()
        yield inner
        inner.chmod(0o755)


def said_by_nobody(path: Path) -> list[Any]:
    output, errors = spawned(_AS_NOBODY, path).communicate(timeout=60)
    assert errors == ""
    said: list[Any] = json.loads(output)
    return said


@posix
@pytest.mark.parametrize("modes", [(0o444, 0o555), (0o444, 0o777), (0o666, 0o555)], ids=["both", "file", "folder"])
def test_a_place_that_may_only_be_read(public: Path, modes: tuple[int, int]) -> None:
    path = public / "people.gallery"
    store = SQLiteStore(path, create=True)
    store.add("Anna", random_entry(1, D))
    store.close()
    before = path.read_bytes()
    path.chmod(modes[0])
    public.chmod(modes[1])
    names, n_photos, n_entries, nearest, *on_writing = said_by_nobody(path)
    assert (names, n_photos, n_entries, nearest) == (["Anna"], 1, 1, [[1]])
    for error in on_writing:
        assert error.startswith(f"{path}: ") and "\n" not in error
        assert "get the right to write to it and its folder, or copy it to another place" in error
    assert path.read_bytes() == before and os.listdir(public) == [path.name]


@posix
def test_a_place_that_may_not_be_read(public: Path) -> None:
    path = public / "people.gallery"
    SQLiteStore(path, create=True).close()
    path.chmod(0o000)
    for error in said_by_nobody(path):
        assert error.startswith(f"{path}: unable to open database file; get the right")


@posix
def test_what_a_killed_process_left_in_a_place_that_may_only_be_read(public: Path) -> None:
    """The journal must be rolled back first, which needs write permission; otherwise nothing is read."""
    path = public / "people.gallery"
    store = SQLiteStore(path, create=True)
    for k in range(60):
        store.add("Anna", random_entry(k, D))
    store._connection.execute("PRAGMA cache_size = 1")
    with pytest.raises(RuntimeError), store._write() as cursor:
        cursor.change("UPDATE face SET source = printf('%.*c', 3000, 'x')")
        left = path.read_bytes(), path.with_name(f"{path.name}-journal").read_bytes()
        raise RuntimeError
    store.close()
    whole = path.read_bytes()
    assert left[0] != whole and left[1][:8] == bytes.fromhex("d9d505f920a163d7")
    path.write_bytes(left[0])
    path.with_name(f"{path.name}-journal").write_bytes(left[1])
    path.chmod(0o444)
    public.chmod(0o555)
    for error in said_by_nobody(path):
        assert error.startswith(f"{path}: ") and "get the right to write to it" in error
    public.chmod(0o755)
    path.chmod(0o644)
    assert photos(path) == {"Anna": [random_entry(k, D).digest for k in range(60)]}
    assert path.read_bytes() == whole and os.listdir(public) == [path.name]


# Copies


def test_a_copy_is_a_gallery_of_its_own(path: Path, opened: SQLiteStore) -> None:
    opened.add("Ada", random_entry(1, D))
    copy = path.with_name("copy.gallery")
    opened.copy_to(copy)
    opened.add("Bob", random_entry(2, D))
    assert list(photos(copy)) == ["Ada"]
    with pytest.raises(GalleryError, match=r"copy\.gallery: already exists; choose another name"):
        opened.copy_to(copy)
    assert sorted(os.listdir(path.parent)) == ["copy.gallery", path.name]


def test_a_copy_waits_for_a_change_that_is_half_written(path: Path, opened: SQLiteStore) -> None:
    """A change that does not fit into memory is partly in the file already."""
    for k in range(60):
        opened.add("Ada", random_entry(k, D))
    before, other, copy = path.read_bytes(), SQLiteStore(path), path.with_name("copy")
    other._connection.execute("PRAGMA cache_size = 1")
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(RuntimeError), other._write() as cursor:
            cursor.change("UPDATE face SET source = printf('%.*c', 3000, 'x')")
            assert path.read_bytes() != before
            copying = pool.submit(opened.copy_to, copy)
            time.sleep(0.1)
            raise RuntimeError
        copying.result(timeout=60)
    assert photos(copy) == photos(path) and copy.read_bytes()[8192:] == before[8192:]
    other.close()


def test_a_copy_where_there_are_no_links(path: Path, opened: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the FAT file systems of memory cards."""

    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    opened.add("Ada", random_entry(1, D))
    monkeypatch.setattr(os, "link", refuse)
    opened.copy_to(path.with_name("copy"))
    assert list(photos(path.with_name("copy"))) == ["Ada"]
    assert sorted(os.listdir(path.parent)) == ["copy", path.name]


def test_a_copy_that_cannot_be_written(path: Path, opened: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(30):
        opened.add(f"person {k}", random_entry(k, D))
    with pytest.raises(GalleryError, match=r"nowhere/copy: cannot be written \(No such file"):
        opened.copy_to(path.parent / "nowhere" / "copy")
    connect = sqlite3.connect

    def with_little_room(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("PRAGMA max_page_count = 3")
        return connection

    monkeypatch.setattr(module.sqlite3, "connect", with_little_room)
    with pytest.raises(GalleryError, match=r"/copy: database or disk is full; make room"):
        opened.copy_to(path.with_name("copy"))
    assert os.listdir(path.parent) == [path.name]


@posix
def test_a_copy_onto_a_full_disk(path: Path, opened: SQLiteStore) -> None:
    few = _ENROLL_WITH_LIMIT.replace("range(200)", "range(20)")
    output, errors = spawned(few, path, 2**20, path.with_name("copy")).communicate(timeout=60)
    assert errors == "" and output
    limited = _ENROLL_WITH_LIMIT.replace("range(200)", "range(0)")
    _, errors = spawned(limited, path, path.stat().st_size - 8192, path.with_name("other")).communicate(timeout=60)
    assert errors.startswith(f"{path.with_name('other')}: ") and errors.count("\n") == 1
    assert sorted(os.listdir(path.parent)) == ["copy", path.name]


# Erasing


def bytes_on_disk(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()))


def traces(vector: np.ndarray, data: bytes) -> int:
    """Return how many of a vector's pieces of 32 bytes can be found, in float16 or float32."""
    blobs = (vector.astype(kind).tobytes() for kind in ("<f2", "<f4"))
    return sum(blob[at : at + 32] in data for blob in blobs for at in range(0, len(blob), 32))


@pytest.mark.parametrize("dimension", [128, 512])
def test_who_is_erased_is_in_no_file(path: Path, opened: SQLiteStore, dimension: int) -> None:
    """Vectors, names, sources, crops, digests, metadata, the log and what could be undone."""
    other, chance = SQLiteStore(path), random.Random(dimension)
    for store in (opened, other):
        store._connection.execute("PRAGMA synchronous = OFF")
    entries = {k: with_crop_of(random_entry(k, dimension), chance) for k in range(40)}
    for k, one in entries.items():
        (opened, other)[k % 2].add(f"person-{k % 10}", one)
    for k in range(10):
        edits.edit(opened, f"person-{k}", external_id=f"external-{k}", metadata={"secret": f"metadata-{k}"})
        edits.rename(other, f"person-{k}", f"renamed-{k}")
    edits.move(opened, "renamed-3", [photo.id for photo in opened.photos(4)][:2], "split-3", reject=True)
    edits.merge(other, ["renamed-7"], "split-3")
    number = next(one.id for one in opened.log() if one.kind == "merge")
    edits.undo(opened, number)
    gone = {"renamed-3": 3, "renamed-7": 7, "renamed-0": 0}
    for name in (*gone, "split-3"):
        edits.remove(opened, name)
        data = bytes_on_disk(path.parent)
        assert name.encode() in data and traces(entries[gone.get(name, 3) + 30].embedding, data) == dimension // 16
    edits.undo(other)
    edits.remove(other, "split-3")
    opened.erase()
    data = bytes_on_disk(path.parent)
    for k, one in entries.items():
        is_gone = k % 10 in gone.values()
        assert traces(one.embedding, data) == (0 if is_gone else dimension // 16)
        assert (f"photo {k}.jpg".encode() in data, one.crop in data) == (not is_gone, not is_gone)
        assert (bytes.fromhex(one.digest) in data or one.digest.encode() in data) == (not is_gone)
    for k in range(10):
        for word in (f"person-{k}", f"renamed-{k}", f"external-{k}", f"metadata-{k}"):
            assert (word.encode() in data) == (k not in gone.values()), word
    assert b"split-3" not in data
    other.close()


def with_crop_of(one: Entry, chance: random.Random) -> Entry:
    return dataclasses.replace(one, crop=chance.randbytes(3000))


def test_erased_photos_of_a_person_who_stays_are_in_no_file(path: Path, opened: SQLiteStore) -> None:
    for k in range(40):
        opened.add(f"person-{k % 4}", random_entry(k, D))
    numbers = [photo.id for photo in opened.photos(2)]
    edits.remove_photos(opened, "person-1", numbers[:3])
    assert sum(traces(random_entry(k, D).embedding, bytes_on_disk(path.parent)) for k in (1, 5, 9)) == 3 * D // 16
    assert opened.erase() == 3
    data = bytes_on_disk(path.parent)
    for k in (1, 5, 9):
        assert traces(random_entry(k, D).embedding, data) == 0
        assert f"photo {k}.jpg".encode() not in data and bytes.fromhex(random_entry(k, D).digest) not in data
    assert traces(random_entry(13, D).embedding, data) == D // 16


def test_a_removal_alone_erases_nothing(path: Path, opened: SQLiteStore) -> None:
    opened.add("Ada", random_entry(1, D))
    before = held(opened)
    edits.remove(opened, "Ada")
    assert opened.people() == [] and photos(path) == {}
    again = SQLiteStore(path)
    edits.undo(again)
    assert held(again) == before
    again.close()


def test_very_many_are_erased_at_once(opened: SQLiteStore) -> None:
    opened.add("Ada", random_entry(1, D))
    edits.remove(opened, "Ada")
    assert opened.erase(range(1, 100_000)) == 1


def test_a_file_of_which_a_collection_was_dropped_is_whole(path: Path, opened: SQLiteStore) -> None:
    opened.add("Ada", random_entry(1, 16))
    guests = SQLiteStore(path, create=True, collection="guests")
    guests.add("Ben", random_entry(2, 16))
    other = SQLiteStore(path, collection="guests")
    probe = random_entry(2, 16).embedding[None]
    assert other.nearest(probe, 1).people.min() > 0
    guests.drop()
    guests.close()
    again = SQLiteStore(path)
    assert [one.state.name for one in again.people()] == ["Ada"]
    again.close()
    with pytest.raises(
        NoSuchCollection, match="the collection 'guests' was removed"
    ):  # stores that have it open notice it
        other.nearest(probe, 1)
    other.close()
