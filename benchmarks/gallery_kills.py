"""A process killed (SIGKILL) at random moments while it adds, removes, merges, imports or migrates: nothing may be lost or incomplete.

The process reports each change that has returned. It is killed at a random moment. Then the file must open, pass
SQLite's own check, and contain every reported change and at most the one that was running, completely. Import and migration
are killed at a random moment of their usual time; the people in the gallery must then be complete, with their
right vectors, and the command must complete the work when it is started again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facespace.embedding.compatibility import model_of
from facespace.identification import edits
from facespace.identification.exchange import export_gallery, import_gallery
from facespace.identification.stores.protocol import Entry
from facespace.identification.stores.sqlite import SQLiteStore
from facespace.identification.stores.sqlite_tables import APPLICATION_ID
from large_galleries import drawn_model, drawn_vectors, fill, name_of
from speed import processor

DIMENSION = 128
N_PEOPLE = 3_000  # before the changes
N_MOVED = 20_000  # imported or migrated
A_MERGE = 3  # people that become one
LONGEST = 1.5  # seconds of changes before a kill
FORMAT_2 = (
    "CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, added TEXT NOT NULL)",
    "CREATE TABLE face ( id INTEGER PRIMARY KEY, person INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,"
    " digest TEXT NOT NULL, source TEXT NOT NULL, made_by TEXT NOT NULL, embedding BLOB NOT NULL, added TEXT NOT NULL,"
    " quality REAL, UNIQUE (person, digest))",
)

State = dict[str, int]  # name -> photos


def entry(n: int) -> Entry:
    digest = np.random.default_rng((2, n)).bytes(32).hex()
    return Entry(drawn_vectors(DIMENSION, 3)(n, 1)[0], digest, f"{n}.jpg", "onnxruntime float32", 0.9)


# What a process does until it is killed


def changes(kind: str, path: Path) -> None:
    store = SQLiteStore(path)
    print("ready", flush=True)
    for n in range(N_PEOPLE):
        if kind == "add":
            store.add(name_of(N_PEOPLE + n), entry(n))
        elif kind == "remove":
            edits.remove(store, name_of(n))
        elif kind == "merge":
            first = n * A_MERGE
            if first + A_MERGE > N_PEOPLE:
                break
            edits.merge(store, [name_of(first + k) for k in range(1, A_MERGE)], name_of(first))
        print(n, flush=True)
    time.sleep(60)


def after(kind: str, n_done: int) -> State:
    """Who is there after so many changes."""
    state = {name_of(n): 1 for n in range(N_PEOPLE)}
    for n in range(n_done):
        if kind == "add":
            state[name_of(N_PEOPLE + n)] = 1
        elif kind == "remove":
            del state[name_of(n)]
        else:
            for k in range(1, A_MERGE):
                del state[name_of(n * A_MERGE + k)]
            state[name_of(n * A_MERGE)] = A_MERGE
    return state


# What is there


def opened(path: Path) -> State:
    """Who is in the file; `AssertionError` where it is not whole, `GalleryError` where it does not open."""
    with contextlib.closing(SQLiteStore(path)) as store:
        with store._read() as cursor:
            assert cursor.rows("PRAGMA integrity_check") == [("ok",)]
            logged = cursor.rows("SELECT count(*) FROM log")[0][0]
        state = {one.state.name: one.n_photos for one in store.people()}
        assert store.count() == len(state)
        if state:
            store.nearest(drawn_vectors(DIMENSION)(0, 1), 1)  # reads and counts everybody
        assert len(store.log(logged + 1)) == logged
    return state


def vectors_right(path: Path, first_seed: int) -> bool:
    """Whether each person's vector is the one drawn for the number in the name."""
    with contextlib.closing(SQLiteStore(path)) as store:
        names, owners, held, _ = store.vectors(DIMENSION)
    numbers = np.array([int(name.rsplit(" ", 1)[1]) for name in names])[owners]
    draw = drawn_vectors(DIMENSION, first_seed)
    pieces = {start: draw(start, 10_000) for start in range(0, N_MOVED, 10_000)}
    right = np.concatenate([pieces[start] for start in sorted(pieces)])[numbers] if len(numbers) else held
    return bool(np.allclose(held, right, atol=1e-3))


def child(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def kill_changes(kind: str, whole: Path, folder: Path, rng: random.Random) -> str:
    """One round; says what is wrong, or nothing."""
    path = folder / "people.gallery"
    shutil.copy(whole, path)
    process = child("changes", kind, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    wait = rng.uniform(0, LONGEST)
    end = time.monotonic() + wait
    while (
        left := end - time.monotonic()
    ) > 0:  # the pipe is not read: its buffer is larger than what is reported in this time
        select.select([], [], [], left)
    process.kill()
    told = process.stdout.read().split()
    process.wait()
    n_done = len(told)
    try:
        state = opened(path)
    except Exception as error:  # of any kind: the round is lost
        return f"after {n_done} changes: {type(error).__name__}: {error}"
    if state not in (after(kind, n_done), after(kind, n_done + 1)):
        return f"after {n_done} changes: {len(state)} people, {sum(state.values())} photos"
    with contextlib.closing(SQLiteStore(path)) as store:  # and goes on
        store.add("somebody new", entry(10**6))
    return ""


# Import and migration


def old_gallery(path: Path) -> None:
    """A file as facespace wrote it before, in format 2."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN")
        for statement in FORMAT_2:
            connection.execute(statement)
        now = "2026-01-02T03:04:05Z"
        for start in range(0, N_MOVED, 10_000):
            vectors = drawn_vectors(DIMENSION)(start, 10_000).astype("<f4")
            for k, vector in enumerate(vectors):
                n = start + k
                connection.execute("INSERT INTO person VALUES (?, ?, ?)", (n + 1, name_of(n), now))
                digest = np.random.default_rng((4, n)).bytes(32).hex()
                row = (n + 1, n + 1, digest, f"{n}.jpg", "onnxruntime float32", vector.tobytes(), now, 0.9)
                connection.execute("INSERT INTO face VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 2")
        connection.execute("COMMIT")


def start_whole(kind: str, source: Path, path: Path) -> None:
    """What a process does once, whole or not at all."""
    print("ready", flush=True)
    if kind == "migration":
        SQLiteStore(path).close()
    else:
        with contextlib.closing(SQLiteStore(path, create=True)) as store:
            import_gallery(store, source)


def seconds_of(kind: str, source: Path, path: Path) -> float:
    process = child("whole", kind, source, path)
    assert process.stdout is not None
    process.stdout.readline()
    start = time.monotonic()
    assert process.wait() == 0
    return time.monotonic() - start


def kill_whole(kind: str, source: Path, folder: Path, rng: random.Random, seconds: float) -> str:
    path = folder / "moved.gallery"
    for left in folder.glob("moved.gallery*"):
        left.unlink()
    if kind == "migration":
        shutil.copy(source, path)
    process = child("whole", kind, source, path)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(rng.uniform(0, seconds))
    ended = process.poll() is not None
    process.kill()
    process.wait()
    try:
        if kind == "migration" or (path.exists() and path.stat().st_size and _has_tables(path)):
            state = opened(path)
            everybody = len(state) == N_MOVED
            if not (everybody if kind == "migration" or ended else set(state.values()) <= {1}):
                return f"{len(state)} of {N_MOVED} people"
            if not vectors_right(path, 0):
                return "other vectors"
        assert child("whole", kind, source, path).wait() == 0
        if opened(path) != {name_of(n): 1 for n in range(N_MOVED)} or not vectors_right(path, 0):
            return "not everybody is there when it was started again"
    except Exception as error:  # of any kind: the round is lost
        return f"{type(error).__name__}: {error}"
    return ""


def _has_tables(path: Path) -> bool:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def rounds(kinds: list[str], n_kills: int, seed: int, folder: Path) -> Iterator[tuple[str, list[str]]]:
    whole = folder / "whole.gallery"
    fill(whole, N_PEOPLE, DIMENSION)
    rng = random.Random(seed)
    for kind in kinds:
        if kind in ("add", "remove", "merge"):
            yield kind, [kill_changes(kind, whole, folder, rng) for _ in range(n_kills)]
            continue
        source = folder / f"source of {kind}"
        if kind == "migration":
            old_gallery(source)
            shutil.copy(source, folder / "once.gallery")
        else:
            large = folder / "large.gallery"
            fill(large, N_MOVED, DIMENSION)
            with contextlib.closing(SQLiteStore(large)) as store:
                store.set_once("embedder", model_of(drawn_model(DIMENSION)))
                export_gallery(store, source)
        seconds = seconds_of(kind, source, folder / "once.gallery")
        yield f"{kind} ({seconds:.1f} s)", [kill_whole(kind, source, folder, rng, seconds) for _ in range(n_kills)]


def main() -> None:
    if sys.argv[1:2] == ["changes"]:
        changes(sys.argv[2], Path(sys.argv[3]))
        return
    if sys.argv[1:2] == ["whole"]:
        start_whole(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["add", "remove", "merge", "import", "migration"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"{processor()}; load {os.getloadavg()[0]:.1f} at the beginning; seed {args.seed}")
    n_bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, wrong in rounds(args.kinds, args.kills, args.seed, Path(folder)):
            good = wrong.count("")
            n_bad += len(wrong) - good
            print(f"{kind:<24}{good} of {len(wrong)} good   must be {args.kills} of {args.kills}", flush=True)
            for line in sorted({one for one in wrong if one})[:3]:
                print(f"    {line}")
    sys.exit(bool(n_bad))


if __name__ == "__main__":
    main()
