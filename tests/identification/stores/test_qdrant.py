"""The Qdrant store behaves like the SQLite store, in memory and through the requests of a server."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.gallery import Gallery
from facespace.identification.stores.opening import open_store
from facespace.identification.stores.protocol import Change, Conflict, PersonChange, PersonState, PhotoChange, Store
from facespace.identification.stores.qdrant import QdrantStore
from facespace.identification.stores.qdrant_points import PHOTO_INDICES, RECORD_INDICES, ROW_INDICES
from facespace.identification.stores.sqlite import SQLiteStore
from support.calibrations import StubEmbedder
from support.gallery_states import DIMENSION, entry, state_of
from support.qdrant import SharedClient
from support.qdrant_server import Memory, serving

REAL = os.environ.get("FACESPACE_QDRANT_URL", "")
Opener = Callable[..., Store]


@pytest.fixture(params=["memory", "requests", "server"])
def opener(request: pytest.FixtureRequest) -> Iterator[Opener]:
    """A function that opens a collection: in memory, through HTTP, or at a real server."""
    opened: list[Store] = []

    def opening(address: str, client: Any = None, **options: Any) -> Opener:
        def handle(**more: Any) -> Store:
            opened.append(QdrantStore(address, client=client, **{"create": True, **options, **more}))
            return opened[-1]

        return handle

    with contextlib.ExitStack() as stack:
        if request.param == "memory":
            yield opening("qdrant://memory", SharedClient())
        elif request.param == "requests":
            yield opening(stack.enter_context(serving(Memory())))
        elif not REAL:
            pytest.skip("FACESPACE_QDRANT_URL names no Qdrant server to test with")
        else:
            name = f"test-{uuid.uuid4().hex[:12]}"
            yield opening(REAL, collection=name)
            store = QdrantStore(REAL, collection=name)
            opened.append(store)
            for one in store._server.collections():
                if one.startswith(f"facespace-{name}-"):
                    store._server._client.delete_collection(one)
        for store in opened:
            store.close()


@pytest.fixture
def store(opener: Opener) -> Store:
    return opener()


# The same as SQLite


class Both:
    """Calls the same methods on two stores and compares the results."""

    def __init__(self, path: Path, other: Store) -> None:
        self.path = path
        self.stores = [SQLiteStore(path, create=True), other]

    def do(self, what: Callable[[Store], Any]) -> Any:
        outcomes = []
        for store in self.stores:
            try:
                outcomes.append(what(store))
            except (GalleryError, ValueError) as error:
                outcomes.append((type(error), str(error).replace(store.name, "STORE")))
        if not isinstance(outcomes[0], (int, bool, type(None), tuple)):
            outcomes = [str(type(one)) for one in outcomes]
        assert outcomes[0] == outcomes[1]
        return outcomes[0]

    def compare(self) -> None:
        self.stores[0].close()
        self.stores[0] = SQLiteStore(self.path)  # an open store's index ignores changes of the setting `templates`
        expected, found = map(state_of, self.stores)
        for key in expected:
            assert found[key] == expected[key], key


def one_edit(chance: random.Random, number: int, names: list[str]) -> Callable[[Store], Any]:
    """Make a random change of a gallery; some are refused."""
    name, other = chance.choice(names), chance.choice(names)
    picked = chance.randrange(1, 4)
    kind = chance.choice(
        (
            "add",
            "add",
            "add",
            "rename",
            "merge",
            "split",
            "reject",
            "part",
            "remove",
            "undo",
            "edit",
            "best",
            "erase",
            "set",
        )
    )
    known = {
        "quality": chance.choice((None, 0.25, 1.0)),
        "crop": chance.choice((None, b"png")),
        "metadata": {"n": number},
    }
    digest = chance.choice((number, chance.randrange(8)))
    templates, external = chance.choice(("mean", "best", "")), chance.choice(("", "x-1", "x-2"))

    def numbers(store: Store) -> list[int]:
        person = store.find(name)
        return [] if person is None else [photo.id for photo in store.photos(person.id)][:picked]

    return {
        "add": lambda store: store.add(name, entry(number, digest=digest, **known)),
        "rename": lambda store: edits.rename(store, name, other),
        "merge": lambda store: edits.merge(store, [name, names[0]], other),
        "split": lambda store: edits.move(store, name, numbers(store), other),
        "reject": lambda store: edits.move(store, name, numbers(store), other, reject=True),
        "part": lambda store: edits.remove_photos(store, name, numbers(store), reject=picked == 1),
        "remove": lambda store: edits.remove(store, name),
        "undo": lambda store: edits.undo(store).id,
        "edit": lambda store: edits.edit(store, name, external_id=external, metadata={"team": number}),
        "best": lambda store: edits.edit(store, name, templates=templates),
        "erase": lambda store: store.erase() if number % 3 == 0 else store.erase([1, 3]),
        "set": lambda store: store.set("templates", templates or "mean"),
    }[kind]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_random_edits_have_the_outcome_of_sqlite(seed: int, tmp_path: Path) -> None:
    compare_random_edits(seed, tmp_path, QdrantStore("qdrant://memory", client=SharedClient(), create=True))


def test_random_edits_have_the_outcome_of_sqlite_everywhere(tmp_path: Path, opener: Opener) -> None:
    compare_random_edits(99, tmp_path, opener())


def compare_random_edits(seed: int, folder: Path, store: Store) -> None:
    both, chance = Both(folder / "people.gallery", store), random.Random(seed)
    names = ["Ada", "Bob", "Zoë", "王小明", "Person 1 of many, with a long name", "Person 1 of many, with a long nose"]
    for number in range(60):
        both.do(one_edit(chance, number, names))
        if number % 6 == 5:
            both.compare()
    both.compare()


def test_names_come_in_order_page_by_page(opener: Opener) -> None:
    store = opener()
    names = [
        f"{prefix}{k}" for k in range(9) for prefix in ("A", "The same twenty-eight letters of it ", "é", "王", "🧑‍🚀")
    ]
    for k, name in enumerate(names):
        store.add(name, entry(k))
    from facespace.identification.stores import qdrant

    assert [one.state.name for one in store.people()] == sorted(names)
    for size, page in ((1, 3), (7, 5), (100, 100)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(qdrant, "_PAGE", page)
            found: list[str] = []
            while some := store.people(after=found[-1] if found else "", limit=size):
                assert len(some) <= size
                found += [one.state.name for one in some]
        assert found == sorted(names)


def test_people_are_found_by_id_external_id_and_digest(store: Store) -> None:
    for k, name in enumerate(("Ada", "Bob")):
        store.add(name, entry(k))
    edits.edit(store, "Bob", external_id="b-2")
    assert [one.state.name for one in store.get([2, 9, 1])] == ["Bob", "Ada"]
    assert store.find_external("b-2") == store.find("Bob") and store.find_external("b-3") is None
    assert store.find_external("") is None and store.find("nobody") is None
    assert store.find_digest(entry(1).digest) == [2] and store.find_digest("0" * 63 + "9") == []
    with pytest.raises(GalleryError, match="no photo has the id 7"):
        store.embeddings([1, 7])


def test_an_empty_collection(store: Store) -> None:
    assert (store.people(), store.people(limit=3), store.photos(1), store.find_digest("00"), store.crop(1)) == (
        [],
    ) * 4 + (None,)
    assert store.vectors(DIMENSION).embeddings.shape == (0, DIMENSION)
    assert store.embeddings([]).shape == (0, 0)
    assert (store.count(), store.log(), store.erase()) == (0, [], 0)
    found = store.nearest(np.zeros((2, DIMENSION), np.float32), 3)
    assert (found.people == -1).all() and np.isneginf(found.similarities).all()
    with pytest.raises(ValueError, match="k must be at least 1"):
        store.nearest(np.zeros((1, DIMENSION), np.float32), 0)


def test_settings(opener: Opener) -> None:
    store, other = opener(), opener()
    assert store.setting("model") is None
    assert store.set_once("model", {"name": "a"}) == {"name": "a"}
    assert other.set_once("model", {"name": "b"}) == {"name": "a"}
    other.set("model", None)
    assert store.setting("model") is None
    assert store.set_once("templates", "best") == other.set_once("templates", "mean") == "best"


def test_a_search_finds_people_past_one_with_many_photos(store: Store) -> None:
    store.set("templates", "best")
    base = entry(0)
    for k in range(30):
        store.add("many", entry(k + 1)) if k % 10 else store.add("many", base)
    store.add("far", entry(77))
    assert sorted(store.nearest(base.embedding[None], 2).people[0].tolist()) == [1, 2]
    with pytest.raises(GalleryError, match="an embedding is not of 3 numbers"):
        store.nearest(np.eye(1, 3, dtype=np.float32), 1)
    with pytest.raises(GalleryError, match="an embedding must have 8 numbers, got 4; use another collection"):
        store.add("Ada", type(base)(np.eye(1, 4, dtype=np.float32)[0], "0" * 64, "", ""))


def test_collections(opener: Opener) -> None:
    store = opener()
    other = opener(collection="other-one")
    store.add("Ada", entry(0))
    assert set(store.collections()) >= {store.collection, "other-one"}
    assert (store.count(), other.count()) == (1, 0)
    other.add("Ada", entry(0))
    assert store.find("Ada").id == 1 and other.find("Ada").id == 1_000_000_001
    with pytest.raises(GalleryError, match="no collection 'third'; it has: "):
        opener(collection="third", create=False)


def test_threads_share_a_store_and_its_handles(opener: Opener) -> None:
    handles = [opener(), opener()]

    def work(k: int) -> bool:
        return handles[k % 2].add(f"person {k % 3}", entry(k))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(24)))
    assert [one.n_photos for one in handles[0].people()] == [8, 8, 8]
    assert sorted(photo.id for one in handles[0].people() for photo in handles[0].photos(one.id)) == list(range(1, 25))
    assert len(handles[1].log(100)) == 24


def test_a_change_that_was_not_expected_is_a_conflict(store: Store) -> None:
    store.add("Ada", entry(0))
    store.add("Bob", entry(1))
    store.add("Ada", entry(2))
    ada, bob = PersonState("Ada"), PersonState("Bob")
    for change, told in (
        (Change("x", "", (PersonChange(1, PersonState("Eve"), None),)), "'Eve' was changed meanwhile"),
        (Change("x", "", (PersonChange(9, ada, None),)), "'Ada' was changed meanwhile"),
        (Change("x", "", (PersonChange(1, ada, bob),)), "another person is called 'Bob' already"),
        (Change("x", "", (PersonChange(1, ada, None),)), "a photo would have no owner"),
        (Change("x", "", (), (PhotoChange(1, 2, 1),)), "photo 1 was changed meanwhile"),
        (Change("x", "", (), (PhotoChange(1, 1, 9),)), "a photo would have no owner"),
        (Change("x", "", (), (PhotoChange(9, None, 1),)), "photo 9 was changed meanwhile"),
        (Change("x", "", (), (PhotoChange(2, 2, None),)), "a person would have no photos"),
    ):
        with pytest.raises(Conflict, match=told):
            store.apply(change)
    with pytest.raises(ValueError, match="each person and each photo once"):
        store.apply(Change("x", "", (), (PhotoChange(1, 1, 2), PhotoChange(1, 1, None))))
    number = store.apply(Change("x", "", (PersonChange(1, ada, PersonState("Eve")),)))
    store.apply(Change("undo", "", (PersonChange(1, PersonState("Eve"), ada),)), undoes=number)
    with pytest.raises(Conflict, match=f"change {number} was already undone"):
        store.apply(Change("undo", "", (PersonChange(1, ada, PersonState("Eve")),)), undoes=number)
    assert [one.state.name for one in store.people()] == ["Ada", "Bob"]


def test_erasing_what_was_removed_before_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for k, name in enumerate(("Ada", "Bob")):
        store.add(name, entry(k))
    monkeypatch.setattr(time, "time", lambda: now - 1000)
    edits.remove(store, "Ada")
    monkeypatch.setattr(time, "time", lambda: now)
    edits.remove(store, "Bob")
    assert store.erase(before=now - 2000) == 0
    assert store.erase(before=now - 500) == 1
    with pytest.raises(GalleryError, match="no photo has the id 1"):
        store.embeddings([1])
    assert store.erase() == 1 and store.erase() == 0
    names = " ".join(one.text for one in store.log(50))
    assert "Ada" not in names and "Bob" not in names and "somebody" in names


def test_a_gallery_over_it(opener: Opener) -> None:
    embedder = StubEmbedder()
    vectors = np.eye(embedder.dimension, dtype=np.float32)
    crop = np.zeros((embedder.spec.size, embedder.spec.size, 3), np.uint8)
    with Gallery(opener(), embedder, create=True) as gallery:
        gallery.add("Ada", vectors[0], crop, keep_crop=True)
        gallery.add("Bob", vectors[1], crop)
        assert [match.name for match in gallery.identify(vectors[:3])] == ["Ada", "Bob", None]
        assert gallery.store.crop(1) is not None and gallery.store.crop(2) is None
    with pytest.raises(GalleryError, match="cannot be compared"):
        Gallery(opener(), StubEmbedder(fingerprint="0" * 64))


# Tests for single places


def test_all_that_is_filtered_has_an_index() -> None:
    client = SharedClient()
    QdrantStore("qdrant://memory", client=client, create=True).add("Ada", entry(0))
    assert client.indices == {
        "facespace-default-records": RECORD_INDICES, "facespace-default-photos": PHOTO_INDICES,
        "facespace-default-people": ROW_INDICES,
    }  # fmt: skip


def test_an_address_opens_it() -> None:
    with serving(Memory()) as address:
        with pytest.raises(GalleryError, match="no collection 'default'; it has: none"):
            open_store(address)
        open_store(address, create=True).close()
        with Gallery(address) as gallery:
            assert gallery.people() == [] and gallery.remarks == ()


def test_values_of_a_server_are_checked() -> None:
    client = SharedClient()
    store = QdrantStore("qdrant://memory", client=client, create=True)
    store.add("Ada", entry(0))
    records, photos = "facespace-default-records", "facespace-default-photos"

    def damage(collection: str, kind: str, field: str, value: Any) -> tuple[str, dict[str, Any]]:
        for one in client.scroll(collection, limit=100)[0]:
            if one.payload.get("kind", "photo") == kind:
                kept = dict(one.payload)
                client.set_payload(collection, {field: value}, [one.id])
                return one.id, kept
        raise AssertionError(kind)

    for collection, kind, field, value, read, told in (
        (records, "person", "name", "Ada\x1b[2J", store.people, "a name in it is not valid"),
        (records, "person", "n_photos", -1, store.people, "a number in it is not"),
        (records, "person", "extra", "[1]", store.people, "not a JSON object"),
        (records, "person", "added", 2**40, store.people, "a time in it is too large"),
        (records, "head", "seq", "1", store.count, "a number in it is not"),
        (records, "head", "format", 2, store.count, r"newer facespace \(format 2, this one reads up to 1\); upgrade"),
        (records, "head", "pending", str(uuid.uuid4()), store.count, "the intent of a committed change is missing"),
        (records, "log", "change", "{", store.log, "not JSON"),
        (records, "log", "actor", None, store.log, "a text in it is not text"),
        (photos, "photo", "digest", "00", lambda: store.photos(1), "a digest is not 64"),
        (photos, "photo", "quality", 2, lambda: store.photos(1), "not between 0 and 1"),
        (photos, "photo", "crop", "é", lambda: store.crop(1), "a crop is not bytes"),
    ):
        point, kept = damage(collection, kind, field, value)
        with pytest.raises(GalleryError, match=told):
            read()
        client.overwrite_payload(collection, kept, [point])
    client.upsert(
        "facespace-default-people",
        [_long(one) for one in client.scroll("facespace-default-people", with_vectors=True)[0]],
    )
    with pytest.raises(GalleryError, match="an embedding is not of length 1"):
        store.nearest(entry(0).embedding[None], 1)


def _long(one: Any) -> Any:
    from qdrant_client import models

    return models.PointStruct(id=one.id, payload=one.payload, vector=[2 * x for x in one.vector])


_WORK = """
import sys
from facespace.identification.stores.qdrant import QdrantStore
from facespace.identification import edits
from support.gallery_states import entry
store, first = QdrantStore(sys.argv[1]), int(sys.argv[2])
for k in range(first, first + 1000):
    name = f"person {k % 5}"
    store.add(name, entry(k))
    print(k, flush=True)
    if k % 4 == 3:
        edits.move(store, name, [store.photos(store.find(name).id)[-1].id], f"other {k % 3}")
"""


def test_processes_are_killed_at_any_moment_and_lose_nothing() -> None:
    """Four processes add and move photos and are killed at random moments; afterwards no change is half done."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with serving(Memory()) as address:
        store = QdrantStore(address, create=True)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _WORK, address, str(1000 * k)],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            for k in range(2)
        ]
        added = []
        for k, process in enumerate(processes):
            assert process.stdout is not None
            added += [int(process.stdout.readline()) for _ in range(6 + k)]
            process.kill()
            added += [int(line) for line in process.stdout.read().split()]
            process.wait()
            process.stdout.close()
        again = QdrantStore(address)
        people = again.people()
        digests = {photo.digest for one in people for photo in again.photos(one.id)}
        assert digests >= {entry(k).digest for k in added}
        assert sum(one.n_photos for one in people) == len(again.vectors(DIMENSION).owners) == len(digests)
        rows = again._server.scroll("facespace-default-people", None)
        assert sum(one.payload["n_photos"] for one in rows if one.payload["state"] == "live") == len(digests)
        for one in (store, again):
            one.close()
