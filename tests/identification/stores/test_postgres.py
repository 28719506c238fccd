"""A gallery on a real PostgreSQL server, which is killed and restarted."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.gallery import Gallery
from facespace.identification.stores.postgres import PostgresStore
from facespace.identification.stores.postgres_connections import Cursor, Lost
from facespace.identification.stores.protocol import Change, Conflict, Entry, PersonChange, PersonState, Store
from facespace.identification.stores.sqlite import SQLiteStore
from support.calibrations import StubEmbedder
from support.forks import in_child
from support.postgres_server import PostgresServer
from support.store_entries import D, entry, names, vectors


@pytest.fixture
def address(postgres: PostgresServer) -> str:
    return postgres.gallery()


@pytest.fixture
def store(address: str) -> Iterator[PostgresStore]:
    opened = PostgresStore(address, create=True)
    yield opened
    opened.close()


# The same as the default store


def test_it_does_what_sqlite_does(store: PostgresStore, tmp_path: Path) -> None:
    """The same hundreds of random changes give the same people, photos, log and nearest people in both."""
    stores: list[Store] = [store, SQLiteStore(tmp_path / "people.gallery", create=True)]
    rng = random.Random(3)
    called = ["Ada", "Bob", "Zoë", "王小明", "a", "B", "É"]

    def some_of(one: Store, name: str) -> list[int]:
        person = one.find(name)
        return [photo.id for photo in one.photos(person.id)[:2]] if person else []

    def change(one: Store, what: str, a: str, b: str, k: int) -> object:
        if what == "add":
            extra = {"k": k} if k % 3 == 0 else {}
            crop = b"\x89PNG\0\xff" if k % 5 == 0 else None
            return one.add(
                a, Entry(vectors(1, k)[0], f"{k:064x}", f"{k}.jpg", "x", [None, 0.3, 1.0][k % 3], extra, crop)
            )
        if what == "rename":
            return edits.rename(one, a, b)
        if what == "merge":
            return edits.merge(one, [a], b)
        if what == "split":
            return edits.move(one, a, some_of(one, a), b)
        if what == "reject":
            return edits.remove_photos(one, a, some_of(one, a), reject=True)
        if what == "edit":
            given: Any = rng_of_k(k).choice(
                [{"external_id": f"id{k % 4}"}, {"metadata": {"k": k}}, {"templates": "best"}, {"templates": ""}]
            )
            return edits.edit(one, a, **given)
        if what == "remove":
            return edits.remove(one, a)
        if what == "undo":
            return edits.undo(one).id
        return one.erase()

    n_errors = n_done = 0
    for _ in range(300):
        what = rng.choice(
            ["add"] * 8 + ["rename", "merge", "split", "reject", "edit", "edit", "remove", "undo", "undo", "erase"]
        )
        a, b, k = rng.choice(called), rng.choice(called), rng.randrange(60)
        told = []
        for one in stores:
            try:
                told.append(change(one, what, a, b, k))
            except GalleryError as error:
                told.append(str(error).removeprefix(one.name))
                n_errors += 1
            else:
                n_done += 1
        assert told[0] == told[1], what
    assert n_done > 300 and n_errors > 20
    assert not isinstance(stores[0], SQLiteStore) and names(store) == sorted(names(store))
    compare(stores)
    for one in stores:
        one.set("templates", "best")
    compare(stores)
    stores[1].close()


def rng_of_k(k: int) -> random.Random:
    return random.Random(k)


def compare(stores: list[Store]) -> None:
    ours, theirs = stores

    def states(one: Store) -> list[Any]:
        return [(p.state, p.n_photos, [(f.digest, f.source, f.made_by, f.actor, f.quality, f.metadata, f.has_crop)
                for f in one.photos(p.id)], [one.crop(f.id) for f in one.photos(p.id)]) for p in one.people()]  # fmt: skip

    assert states(ours) == states(theirs)
    assert [(e.kind, e.undone, e.actor) for e in ours.log(50)] == [(e.kind, e.undone, e.actor) for e in theirs.log(50)]
    ids = [{p.id: p.state.name for p in one.people()} | {-1: ""} for one in stores]
    for k in (1, 3, 20):
        a, b = (one.nearest(vectors(25, 999), k) for one in stores)
        assert [[ids[0][p] for p in row] for row in a.people] == [[ids[1][p] for p in row] for row in b.people]
        np.testing.assert_array_equal(a.similarities, b.similarities)
        np.testing.assert_array_equal(a.n_photos, b.n_photos)
        np.testing.assert_array_equal(a.qualities, b.qualities)
    a, b = (one.vectors(D) for one in stores)
    assert [a.names[k] for k in a.owners] == [b.names[k] for k in b.owners]
    np.testing.assert_array_equal(a.embeddings, b.embeddings)


def test_names_are_in_the_order_of_code_points(store: PostgresStore) -> None:
    for k, name in enumerate(["b", "B", "É", "Z", "\U0001f600", "\uffdc", "a"]):
        store.add(name, entry(k))
    assert names(store) == ["B", "Z", "a", "b", "É", "\uffdc", "\U0001f600"]
    assert [one.state.name for one in store.people(after="Z", limit=2)] == ["a", "b"]
    with store._read() as cursor:  # this server may have no other collation to compare with
        ((collation,),) = cursor.rows(
            "SELECT collname::text FROM pg_attribute JOIN pg_collation c ON c.oid = attcollation"
            " WHERE attrelid = 'person'::regclass AND attname = 'name'"
        )
    assert collation == "C"


def test_collections_are_apart(store: PostgresStore, address: str) -> None:
    store.add("Ada", entry(1))
    with pytest.raises(GalleryError, match="no collection 'others'; it has: default"):
        PostgresStore(address, collection="others")
    other = PostgresStore(address, collection="others", create=True)
    other.add("Ada", entry(2, dimension=64))
    assert other.collections() == ["default", "others"]
    assert other.nearest(vectors(1, 2, 64), 5).people.tolist()[0][1:] == [-1] * 4
    assert store.nearest(vectors(1, 1), 5).people.tolist()[0][1:] == [-1] * 4
    edits.remove(other, "Ada")
    assert names(store) == ["Ada"]
    other.close()


def test_a_gallery_over_it(address: str) -> None:
    embedder = StubEmbedder()
    axes = np.eye(embedder.dimension, dtype=np.float32)
    crop = np.zeros((embedder.spec.size, embedder.spec.size, 3), np.uint8)
    with Gallery(address, embedder, create=True) as gallery:
        gallery.add("Ada", axes[0], crop, keep_crop=True)
        gallery.add("Bob", axes[1], crop)
        assert [match.name for match in gallery.identify(axes[:3])] == ["Ada", "Bob", None]
    with pytest.raises(GalleryError, match="cannot be compared"):
        Gallery(address, StubEmbedder(fingerprint="0" * 64))


def test_values_that_cannot_be_stored_change_nothing(store: PostgresStore) -> None:
    for name, why in (("a\0b", "NUL"), ("a\ud800", "not UTF-8")):
        with pytest.raises(GalleryError, match=why):
            store.add(name, entry(1))
        with pytest.raises(GalleryError, match=why):
            store.find(name)
    assert store.people() == []
    assert store.add("Ada", entry(1)), "the connection still works"


# Several at once


def test_threads_share_it(store: PostgresStore) -> None:
    with ThreadPoolExecutor(12) as pool:
        added = list(pool.map(lambda k: store.add(f"person {k % 5}", entry(k)), range(60)))
        assert all(added)
        counts = list(pool.map(lambda _: [one.n_photos for one in store.people()], range(30)))
    assert counts == [[12] * 5] * 30


_ENROLL = """
import sys, numpy as np
from facespace.identification.stores.postgres import PostgresStore
from facespace.identification.stores.protocol import Entry
print("ready", flush=True)
sys.stdin.readline()
store = PostgresStore(sys.argv[1], create=True)
for k in range(int(sys.argv[3])):
    for name in (f"{sys.argv[2]} {k}", "everybody"):
        store.add(name, Entry(np.eye(64, dtype=np.float32)[k % 64], f"{int(sys.argv[2]) * 1000 + k:064x}", "", ""))
    print(k, flush=True)
store.close()
"""


def enrolling(address: str, number: int, n: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _ENROLL, address, str(number), str(n)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_four_processes_make_one_gallery_at_once(address: str) -> None:
    processes = [enrolling(address, number, 5) for number in range(4)]
    for process in processes:
        begin(process)
    assert [process.communicate(timeout=120)[1] for process in processes] == [""] * 4
    store = PostgresStore(address)
    assert {one.state.name: one.n_photos for one in store.people()} == {"everybody": 20} | {
        f"{number} {k}": 1 for number in range(4) for k in range(5)
    }
    with store._read() as cursor:
        touched = [seq for (seq,) in cursor.rows("SELECT seq FROM touched ORDER BY seq")]
    assert touched == list(range(1, store.version() + 1)), "numbers grow in the order of commits, without gaps"
    store.close()


def test_one_of_two_changes_of_the_same_person_is_refused(store: PostgresStore, address: str) -> None:
    store.add("Ada", entry(1))
    person = store.find("Ada")
    assert person is not None
    other = PostgresStore(address)

    def rename(one: Store, name: str) -> str:
        try:
            one.apply(Change("rename", "", (PersonChange(person.id, person.state, PersonState(name)),)))
        except Conflict:
            return "refused"
        return name

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(rename, (store, other), ("Bea", "Cleo")))
    assert sorted(told)[1] == "refused" and names(store) == [min(told)]
    other.close()


def test_a_child_process_opens_its_own_connections(store: PostgresStore) -> None:
    store.add("Ada", entry(1))

    def child() -> None:
        assert names(store) == ["Ada"]
        store.add("Bob", entry(2))
        store.close()

    assert in_child(child) == 0
    assert names(store) == ["Ada", "Bob"]


def test_a_key_encrypts_nothing_here_and_a_remark_says_so(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESPACE_GALLERY_KEY", "correct horse battery")
    store = PostgresStore(address, create=True)
    (remark,) = store.remarks
    assert "not encrypted although FACESPACE_GALLERY_KEY is set" in remark
    store.close()


def test_a_closed_store(store: PostgresStore) -> None:
    store.close()
    for use in (store.people, lambda: store.add("Ada", entry(1))):
        with pytest.raises(GalleryError, match="the gallery was closed; open it again"):
            use()


# Servers that stop or restart


def test_a_killed_server_has_what_was_acknowledged(postgres: PostgresServer, address: str) -> None:
    for round_ in range(2):
        process = enrolling(address, round_, 10_000)
        begin(process)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(5 + round_)]
        postgres.kill()
        said += process.stdout.read().splitlines()
        error = process.communicate(timeout=60)[1]
        assert "GalleryError" in error
        postgres.start()
        store = PostgresStore(address)
        people = {one.state.name: one.n_photos for one in store.people()}
        ours = [name for name in people if name.startswith(f"{round_} ")]
        # At most one change that was not acknowledged is there.
        assert len(said) <= len(ours) <= len(said) + 1
        assert (
            len(store.vectors(64).owners)
            == sum(people.values())
            == 2 * (len(people) - 1) - (len(people) - 1 - people["everybody"])
        )
        found = store.nearest(np.eye(64, dtype=np.float32)[:1], len(people) + 5)
        assert (found.people[0] > 0).sum() == len(people), "templates are from the same state"
        store.close()


def test_a_restart_between_calls_is_not_noticed(postgres: PostgresServer, store: PostgresStore) -> None:
    store.add("Ada", entry(1))
    postgres.restart()
    assert names(store) == ["Ada"]
    postgres.restart()
    assert store.add("Bob", entry(2))
    postgres.restart()
    assert store.nearest(vectors(1), 2).people[0].min() > 0


def test_a_server_that_comes_back_soon_is_waited_for(postgres: PostgresServer, store: PostgresStore) -> None:
    store.add("Ada", entry(1))
    postgres.kill()
    starting = threading.Timer(0.5, postgres.start)
    starting.start()
    assert names(store) == ["Ada"]
    starting.join()


def interrupted(monkeypatch: pytest.MonkeyPatch, at: str, how: Any, method: str = "once") -> None:
    """Run `how` in place of the first statement that begins with `at`."""
    once, left = getattr(Cursor, method), [1]

    def instead(self: Cursor, sql: str, values: Any = ()) -> Any:
        if sql.startswith(at) and left:
            left.pop()
            return how(lambda: once(self, sql, values), self)
        return once(self, sql, values)

    monkeypatch.setattr(Cursor, method, instead)


def kill_backend(postgres: PostgresServer, cursor: Cursor) -> None:
    ((pid,),) = cursor._connection.run("SELECT pg_backend_pid()")
    postgres.sql(f"SELECT pg_terminate_backend({pid}, 10000)")


def test_reading_is_retried_once(
    postgres: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("Ada", entry(1))

    def broken(ask: Any, cursor: Cursor) -> Any:
        kill_backend(postgres, cursor)
        return ask()

    interrupted(monkeypatch, "COMMIT", broken)
    assert names(store) == ["Ada"]
    interrupted(monkeypatch, "SELECT person, n_photos", broken, "rows")
    assert store.nearest(vectors(1), 1).people[0, 0] > 0


def test_a_change_that_was_lost_before_its_end(
    postgres: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Cursor.change

    def broken(self: Cursor, sql: str, values: Any = ()) -> int:
        if "INSERT INTO touched" in sql:
            kill_backend(postgres, self)
        return change(self, sql, values)

    monkeypatch.setattr(Cursor, "change", broken)
    with pytest.raises(GalleryError, match="nothing was changed, try again") as caught:
        store.add("Ada", entry(1))
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert store.people() == [] and store.add("Ada", entry(1))


def test_a_commit_whose_answer_was_lost(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is asked whether it was committed; then there is no error, and it is not done twice."""

    def done(ask: Any, cursor: Cursor) -> Any:
        ask()
        raise Lost("the connection broke")

    interrupted(monkeypatch, "COMMIT", done)
    assert store.add("Ada", entry(1))
    assert [one.n_photos for one in store.people()] == [1] and len(store.log()) == 1


def test_a_commit_that_was_lost(
    postgres: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(ask: Any, cursor: Cursor) -> Any:
        kill_backend(postgres, cursor)
        return ask()

    interrupted(monkeypatch, "COMMIT", lost)
    with pytest.raises(GalleryError, match="the change was not stored, try again"):
        store.add("Ada", entry(1))
    assert store.people() == []


def test_a_commit_with_an_unknown_outcome(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    address = postgres.gallery(connect_timeout=1)
    store = PostgresStore(address, create=True)

    def killed(ask: Any, cursor: Cursor) -> Any:
        ask()
        postgres.kill()
        raise Lost("the connection broke")

    interrupted(monkeypatch, "COMMIT", killed)
    try:
        with pytest.raises(GalleryError, match="may or may not be stored: check"):
            store.add("Ada", entry(1))
    finally:
        postgres.start()
    assert names(store) == ["Ada"]
    store.close()


def test_a_change_that_waits_too_long(postgres: PostgresServer, store: PostgresStore, address: str) -> None:
    hasty = PostgresStore(f"{address}&statement_timeout=1")
    with store._write():
        with pytest.raises(GalleryError, match="did not answer within statement_timeout; is another process writing"):
            hasty.add("Ada", entry(1))
        assert hasty.people() == [], "readers do not wait"
    assert hasty.add("Ada", entry(1))
    hasty.close()


# Erasing and damage


def test_what_is_erased_is_in_no_table(store: PostgresStore) -> None:
    store.add("Ada Lovelace", entry(1))
    store.add("Bob", entry(2))
    edits.remove(store, "Ada Lovelace")
    assert store.erase() == 1
    with store._read() as cursor:
        for table in ("person", "face", "log", "template", "crop", "setting"):
            assert "Lovelace" not in str(cursor.rows(f"SELECT * FROM {table}"))
        assert cursor.rows("SELECT count(*) FROM template") == cursor.rows("SELECT count(*) FROM face") == [(1,)]
    assert names(store) == ["Bob"]


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        ("UPDATE face SET vector = '\\x00'", "an embedding is not of 32 numbers"),
        ("UPDATE face SET vector = decode(repeat('00', 64), 'hex')", "not of length 1"),
        ("UPDATE face SET quality = 1.5", "the quality of a face"),
        ("UPDATE person SET name = E'a\\nb'", "a name in it is not valid"),
        ("UPDATE person SET extra = '['", "is not JSON"),
        ("UPDATE person SET added = -5", "a number in it"),
        ("DROP TABLE face", "damaged: a table is missing"),
        ("ALTER TABLE face DROP COLUMN vector", "damaged: a column is missing"),
    ],
)
def test_damage_inside(store: PostgresStore, damage: str, match: str) -> None:
    store.add("Ada", entry(1))
    with store._write() as cursor:
        cursor.once(damage)
    with pytest.raises(GalleryError, match=match) as caught:
        store.people(), store.vectors(D)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(store.name)
