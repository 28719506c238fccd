"""The contract of `Store`, tested on all implementations."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.gallery import Gallery
from facespace.identification.stores.actors import acting_as, user_name
from facespace.identification.stores.postgres import PostgresStore
from facespace.identification.stores.protocol import (
    Change,
    Conflict,
    PersonChange,
    PersonState,
    PhotoChange,
    Store,
    StoredPerson,
)
from facespace.identification.stores.qdrant import QdrantStore
from facespace.identification.stores.sqlite import SQLiteStore
from support.calibrations import StubEmbedder
from support.galleries import DIMENSION, entry, held, vector
from support.postgres_server import running
from support.qdrant import SharedClient


@dataclass(frozen=True)
class Opener:
    """How a store is opened: `open` returns the store of a folder, the same one each time, and creates it if missing.

    `restart` kills the server behind it and starts it again; a file has none. `fixture` is what starts the server.
    """

    open: Callable[[Path, str], Store]
    restart: Callable[[Path], None] = lambda _: None
    fixture: str = ""


def in_postgres(folder: Path, name: str) -> Store:
    schema = f"t{hashlib.sha256(bytes(folder)).hexdigest()[:12]}"
    return PostgresStore(running().gallery(schema=schema), collection=name, create=True)


def kill_postgres(_: Path) -> None:
    running().kill()
    running().start()


@functools.cache
def qdrant_of(_: Path) -> SharedClient:
    """Return an in-memory Qdrant client, the same for all stores of a folder."""
    return SharedClient()


# A new store adds a line here.
STORES = {
    "sqlite": Opener(lambda folder, name: SQLiteStore(folder / "people.gallery", collection=name, create=True)),
    "postgres": Opener(in_postgres, kill_postgres, "postgres"),
    "qdrant in memory": Opener(
        lambda folder, name: QdrantStore("qdrant://memory", collection=name, create=True, client=qdrant_of(folder))
    ),
}


class Place:
    """A store that a test can open several times; all are closed at its end."""

    def __init__(self, opener: Opener, folder: Path) -> None:
        self._opener, self._folder = opener, folder
        self._opened: list[Store] = []

    def open(self, collection: str = "default") -> Store:
        self._opened.append(self._opener.open(self._folder, collection))
        return self._opened[-1]

    def close(self) -> None:
        while self._opened:
            self._opened.pop().close()

    def restart(self) -> None:
        self._opener.restart(self._folder)


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    opener = STORES[request.param]
    if opener.fixture:
        request.getfixturevalue(opener.fixture)
    place = Place(opener, tmp_path)
    yield place
    place.close()


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()


def person(store: Store, name: str) -> StoredPerson:
    return edits.person_called(store, name)


def numbers(store: Store, name: str) -> list[int]:
    """Return the ids of a person's photos."""
    return [photo.id for photo in store.photos(person(store, name).id)]


def enroll(store: Store, **photos: int | list[int]) -> None:
    """Enroll photos of people, given by numbers."""
    for name, seeds in photos.items():
        for seed in [seeds] if isinstance(seeds, int) else seeds:
            assert store.add(name, entry(seed))


def names(store: Store) -> list[str]:
    return [one.state.name for one in store.people()]


def nearest(store: Store, seed: int, k: int = 1) -> list[str]:
    """Return the names of the k people nearest to the vector of that number."""
    found = store.nearest(vector(seed)[None], k)
    return [one.state.name for one in store.get([int(one) for one in found.people[0] if one >= 0])]


# People and photos


def test_an_empty_store(store: Store) -> None:
    assert (store.people(), store.count(), store.log()) == ([], 0, [])
    assert (store.find("Ada"), store.find_external("7"), store.find_digest("0" * 64)) == (None, None, [])
    assert (store.get([1]), store.photos(1), store.crop(1)) == ([], [], None)
    assert store.embeddings([]).shape[0] == 0
    found = store.vectors(DIMENSION)
    assert (found.names, found.owners.tolist(), found.embeddings.shape, found.qualities.shape) == ([], [], (0, 8), (0,))
    assert store.nearest(vector(0)[None], 2).people.tolist() == [[-1, -1]]
    assert store.nearest(np.empty((0, DIMENSION), np.float32), 2).people.shape == (0, 2)
    assert store.erase() == 0
    assert store.name and store.collection == "default"


def test_what_is_added_is_there(store: Store) -> None:
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    enroll(store, Ada=[0, 2], 王小明=1)
    ada, wang = store.people()
    assert (ada.state, ada.n_photos) == (PersonState("Ada"), 2)
    assert (wang.state, wang.n_photos) == (PersonState("王小明"), 1)
    assert 0 < ada.id != wang.id > 0
    assert began <= ada.added <= wang.added <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    assert store.count() == 2 and store.count(photos=True) == sum(one.n_photos for one in store.people())


def test_people_stand_by_the_code_points_of_their_names_page_by_page(store: Store) -> None:
    everyone = sorted(
        ["Zoë", "anna", "Ben", "王小明", "🧑‍🚀", "\ufb01nn", "a/b/../c", "Robert'); DROP TABLE face;--", "%", "_"]
    )
    for seed, name in enumerate(everyone[::2] + everyone[1::2]):
        store.add(name, entry(seed))
    assert names(store) == everyone
    pages, after = [], ""
    while page := store.people(after=after, limit=3):
        pages.append([one.state.name for one in page])
        after = pages[-1][-1]
    assert [len(page) for page in pages] == [3, 3, 3, 1] and [name for page in pages for name in page] == everyone
    assert [one.state.name for one in store.people(after="anna")] == [name for name in everyone if name > "anna"]
    assert store.people(limit=0) == []


def test_people_by_their_ids(store: Store) -> None:
    enroll(store, Ada=0, Bob=1, Eve=2)
    ids = {one.state.name: one.id for one in store.people()}
    edits.remove(store, "Bob")
    found = store.get([ids["Eve"], ids["Bob"], 10**9, ids["Ada"]])
    assert [one.state.name for one in found] == ["Eve", "Ada"]
    assert store.get([]) == []
    assert len(store.get([*range(10**6, 10**6 + 2000), ids["Eve"]])) == 1, "many at once"


def test_people_by_name_and_by_another_systems_id(store: Store) -> None:
    enroll(store, Ada=0, Bob=1)
    edits.edit(store, "Ada", external_id="crm-7", metadata={"team": "blue"})
    ada = store.find_external("crm-7")
    assert ada is not None and ada == store.find("Ada")
    assert ada.state == PersonState("Ada", "crm-7", {"team": "blue"})
    assert (store.find("ada"), store.find_external("crm"), store.find_external("")) == (None, None, None)
    edits.remove(store, "Ada")
    assert (store.find("Ada"), store.find_external("crm-7")) == (None, None)
    edits.edit(store, "Bob", external_id="crm-7")
    assert store.find_external("crm-7") == store.find("Bob")


def test_who_has_a_photo(store: Store) -> None:
    enroll(store, Ada=[0, 3], Bob=0, Eve=1)
    ids = {one.state.name: one.id for one in store.people()}
    assert sorted(store.find_digest(entry(0).digest)) == sorted([ids["Ada"], ids["Bob"]])
    assert store.find_digest(entry(1).digest) == [ids["Eve"]]
    edits.remove(store, "Bob")
    edits.remove_photos(store, "Ada", numbers(store, "Ada")[:1])
    assert store.find_digest(entry(0).digest) == []


def test_what_is_known_of_a_photo(store: Store, place: Place) -> None:
    store.add("Ada", entry(0, quality=0.25, metadata={"camera": "door", "n": [1, None]}, crop=b"\x89PNG\r\n\0\xff"))
    store.add("Ada", entry(1, made_by="openvino bfloat16", source="né/" + "x" * 900))
    for opened in (store, place.open()):
        first, second = opened.photos(person(opened, "Ada").id)
        assert (first.digest, first.source, first.made_by) == (entry(0).digest, "photo 0.jpg", "onnxruntime float32")
        assert (first.quality, first.metadata, first.has_crop) == (0.25, {"camera": "door", "n": [1, None]}, True)
        assert (second.quality, second.metadata, second.has_crop) == (None, {}, False)
        assert (second.source, second.made_by) == ("né/" + "x" * 900, "openvino bfloat16")
        assert first.person == second.person == person(opened, "Ada").id and first.id < second.id
        assert first.actor == second.actor == opened.log()[0].actor != ""
        assert opened.crop(first.id) == b"\x89PNG\r\n\0\xff" and opened.crop(second.id) is None
        assert time.strptime(first.added, "%Y-%m-%dT%H:%M:%SZ")


def test_vectors_of_photos(store: Store) -> None:
    enroll(store, Ada=[9, 3], Bob=8)
    nine, three = numbers(store, "Ada")
    (eight,) = numbers(store, "Bob")
    edits.remove(store, "Ada")
    found = store.embeddings([three, eight, nine, three])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [vector(3), vector(8), vector(9), vector(3)], atol=1e-3)
    for missing in ([eight, 10**9], [0], [-1]):
        with pytest.raises(GalleryError, match=f"no photo has the id {missing[-1]}"):
            store.embeddings(missing)


def test_everything_that_is_compared(store: Store) -> None:
    store.add("Zoë", entry(0, quality=0.5))
    enroll(store, Ada=1, Bob=5)
    store.add("Zoë", entry(2))
    edits.remove(store, "Bob")
    found = store.vectors(DIMENSION)
    assert sorted(found.names) == ["Ada", "Zoë"]
    rows = {
        (found.names[owner], int(row.argmax())): quality
        for owner, row, quality in zip(found.owners, found.embeddings, found.qualities, strict=True)
    }
    assert rows.keys() == {("Zoë", 0), ("Ada", 1), ("Zoë", 2)}
    assert rows["Zoë", 0] == 0.5 and np.isnan(rows["Ada", 1]) and np.isnan(rows["Zoë", 2])
    assert found.embeddings.dtype == np.float32
    with pytest.raises(GalleryError):
        store.vectors(DIMENSION + 1)


def test_a_photo_counts_once_for_a_person(store: Store) -> None:
    enroll(store, Ada=0)
    before, version = held(store), store.version()
    assert not store.add("Ada", entry(3, digest=entry(0).digest))
    assert held(store) == before and store.version() == version and len(store.log()) == 1
    assert store.add("Bob", entry(0)), "another person may have it too"
    edits.remove_photos(store, "Ada", numbers(store, "Ada"))
    assert store.add("Ada", entry(0)), "a removed photo may come back"


def test_a_rejected_photo_does_not_come_back(store: Store) -> None:
    enroll(store, Ada=[0, 1])
    edits.remove_photos(store, "Ada", numbers(store, "Ada")[:1], reject=True)
    before = held(store)
    with pytest.raises(GalleryError, match="this photo does not show Ada"):
        store.add("Ada", entry(0))
    assert held(store) == before
    assert store.add("Bob", entry(0))


def test_ids_are_never_given_again(store: Store) -> None:
    enroll(store, Ada=0, Bob=1)
    old = {one.id for one in store.people()}, set(numbers(store, "Ada") + numbers(store, "Bob"))
    for name in ("Ada", "Bob"):
        edits.remove(store, name)
    store.erase()
    enroll(store, Ada=0, Bob=1)
    new = {one.id for one in store.people()}, set(numbers(store, "Ada") + numbers(store, "Bob"))
    assert not old[0] & new[0] and not old[1] & new[1]


# Changes


def test_every_step_of_a_change_at_once(store: Store) -> None:
    """One change removes a person, edits one, adds two, and moves and removes photos."""
    enroll(store, Ada=[0, 1], Bob=[2, 3, 4], Eve=5)
    ada, bob, eve = store.people()
    a0, a1, b2, b3, b4, e5 = [n for one in (ada, bob, eve) for n in numbers(store, one.state.name)]
    number = store.apply(
        Change(
            "everything", "at once",
            (
                PersonChange(0, None, PersonState("Cy")),
                PersonChange(-1, None, PersonState("Dan", "d", {"x": 1}, (), "best")),
                PersonChange(eve.id, eve.state, None),
                PersonChange(bob.id, bob.state, PersonState("Eve", "e")),  # the name is free at that point
            ),
            (
                PhotoChange(a1, ada.id, 0), PhotoChange(b2, bob.id, -1), PhotoChange(b3, bob.id, None),
                PhotoChange(e5, eve.id, ada.id),
            ),
        )
    )  # fmt: skip
    assert {name: numbers(store, name) for name in names(store)} == {
        "Ada": [a0, e5], "Cy": [a1], "Dan": [b2], "Eve": [b4],
    }  # fmt: skip
    assert person(store, "Dan").state == PersonState("Dan", "d", {"x": 1}, (), "best")
    assert (person(store, "Eve").id, person(store, "Ada").id) == (bob.id, ada.id)
    assert store.count() == 4 and [nearest(store, k) for k in (0, 1, 2, 4, 5)] == [
        ["Ada"],
        ["Cy"],
        ["Dan"],
        ["Eve"],
        ["Ada"],
    ]
    (last,) = store.log(1)
    assert (last.id, last.kind, last.text, last.undone) == (number, "everything", "at once", False)
    assert last.change is not None and {one.id for one in last.change.people} >= {
        person(store, "Cy").id,
        bob.id,
        eve.id,
    }
    before = names(store)
    edits.undo(store)
    assert {name: numbers(store, name) for name in names(store)} == {"Ada": [a0, a1], "Bob": [b2, b3, b4], "Eve": [e5]}
    edits.undo(store, store.log(1)[0].id)
    assert names(store) == before


def test_people_exchange_names_and_external_ids(store: Store) -> None:
    enroll(store, Ada=0, Bob=1)
    edits.edit(store, "Ada", external_id="a")
    ada, bob = store.people()
    swap = PersonChange(ada.id, ada.state, PersonState("Bob")), PersonChange(bob.id, bob.state, PersonState("Ada", "a"))
    store.apply(Change("swap", "", swap))
    assert (nearest(store, 0), nearest(store, 1)) == (["Bob"], ["Ada"])
    assert store.find_external("a") == store.find("Ada") and person(store, "Ada").id == bob.id
    edits.undo(store)
    assert store.people() == [ada, bob]


Made = Callable[[dict[str, StoredPerson], dict[int, int]], Change]
CONFLICTS: dict[str, Made] = {
    "another state": lambda who, _: Change("", "", (PersonChange(who["Ada"].id, PersonState("Ann"), None),)),
    "no such person": lambda _, __: Change("", "", (PersonChange(10**9, PersonState("Ann"), PersonState("Bea")),)),
    "an existing person": lambda who, _: Change("", "", (PersonChange(who["Ada"].id, None, PersonState("Bea")),)),
    "never there": lambda _, __: Change("", "", (PersonChange(10**9, None, PersonState("Bea")),)),
    "a taken name": lambda who, _: Change("", "", (PersonChange(who["Ada"].id, who["Ada"].state, PersonState("Bob")),)),
    "a taken external id": lambda who, _: Change(
        "", "", (PersonChange(who["Ada"].id, who["Ada"].state, PersonState("Ada", "b")),)
    ),
    "a new person of a taken name": lambda who, photos: Change(
        "", "", (PersonChange(0, None, PersonState("Bob")),), (PhotoChange(photos[0], who["Ada"].id, 0),)
    ),
    "another owner": lambda who, photos: Change("", "", (), (PhotoChange(photos[0], who["Bob"].id, None),)),
    "a removed photo": lambda who, photos: Change("", "", (), (PhotoChange(photos[2], who["Ada"].id, None),)),
    "no removed photo": lambda who, photos: Change("", "", (), (PhotoChange(photos[0], None, who["Ada"].id),)),
    "no photo": lambda who, _: Change("", "", (), (PhotoChange(10**9, who["Ada"].id, None),)),
    "to an unknown person": lambda who, photos: Change("", "", (), (PhotoChange(photos[0], who["Ada"].id, 10**9),)),
    "to a new person who is not in the change": lambda who, photos: Change(
        "", "", (), (PhotoChange(photos[0], who["Ada"].id, 0),)
    ),
    "to a removed person": lambda who, photos: Change(
        "", "", (), (PhotoChange(photos[0], who["Ada"].id, who["Eve"].id),)
    ),
    "photos left without an owner": lambda who, _: Change(
        "", "", (PersonChange(who["Ada"].id, who["Ada"].state, None),)
    ),
    "the last photo of a person": lambda who, photos: Change(
        "", "", (), (PhotoChange(photos[3], who["Bob"].id, None),)
    ),
    "a person without photos": lambda _, __: Change("", "", (PersonChange(0, None, PersonState("Cy")),)),
}


@pytest.mark.parametrize("made", CONFLICTS.values(), ids=CONFLICTS)
def test_a_conflict_changes_nothing(store: Store, made: Made) -> None:
    enroll(store, Ada=[0, 1, 2], Bob=3, Eve=4)
    edits.edit(store, "Bob", external_id="b")
    who = {one.state.name: one for one in store.people()}
    photos = dict(enumerate(numbers(store, "Ada") + numbers(store, "Bob")))
    edits.remove(store, "Eve")
    edits.remove_photos(store, "Ada", [photos[2]])
    before = held(store), store.log(), store.version()
    with pytest.raises(Conflict):
        store.apply(made(who, photos))
    assert (held(store), store.log(), store.version()) == before
    assert nearest(store, 0) == ["Ada"]


def test_of_two_changes_of_the_same_the_second_is_refused(store: Store, place: Place) -> None:
    enroll(store, Ada=0)
    other = place.open()
    seen = person(other, "Ada")
    edits.rename(store, "Ada", "Zoë")
    with pytest.raises(Conflict, match="changed meanwhile"):
        other.apply(Change("rename", "", (PersonChange(seen.id, seen.state, PersonState("Eve")),)))
    assert names(other) == ["Zoë"]


def test_of_two_copies_of_a_crop_a_person_keeps_one(store: Store) -> None:
    enroll(store, Ada=[0, 1], Bob=[0, 2])
    before = held(store)
    assert edits.merge(store, ["Bob"], "Ada").n_photos == 2
    assert [photo.digest for photo in store.photos(person(store, "Ada").id)] == [entry(k).digest for k in (0, 1, 2)]
    assert person(store, "Ada").n_photos == 3
    edits.undo(store)
    assert held(store) == before


# The log and undo


def test_the_log_tells_the_last_changes_first(store: Store) -> None:
    enroll(store, Ada=0)
    edits.rename(store, "Ada", "Zoë")
    edits.edit(store, "Zoë", metadata={"team": "blue"})
    entries = store.log()
    assert [one.kind for one in entries] == ["edit", "rename", "enroll"]
    assert [one.kind for one in store.log(2)] == ["edit", "rename"]
    assert sorted((one.id for one in entries), reverse=True) == [one.id for one in entries]
    assert "Ada is Zoë" in entries[1].text and "photo 0.jpg" in entries[2].text
    assert all(one.actor and not one.undone and time.strptime(one.at, "%Y-%m-%dT%H:%M:%SZ") for one in entries)
    assert entries[1].change is not None
    (renamed,) = entries[1].change.people
    assert (renamed.before, renamed.after) == (PersonState("Ada"), PersonState("Zoë"))


UNDONE: dict[str, Callable[[Store], Any]] = {
    "enroll a new person": lambda store: store.add("Cy", entry(6)),
    "enroll another photo": lambda store: store.add("Ada", entry(6)),
    "rename": lambda store: edits.rename(store, "Ada", "Zoë"),
    "edit": lambda store: edits.edit(store, "Ada", external_id="a", metadata={"x": [1]}, templates="best"),
    "remove": lambda store: edits.remove(store, "Ada"),
    "remove a photo": lambda store: edits.remove_photos(store, "Ada", numbers(store, "Ada")[1:]),
    "remove all photos": lambda store: edits.remove_photos(store, "Ada", numbers(store, "Ada")),
    "reject": lambda store: edits.remove_photos(store, "Ada", numbers(store, "Ada")[1:], reject=True),
    "merge": lambda store: edits.merge(store, ["Bob", "Eve"], "Ada"),
    "split": lambda store: edits.move(store, "Ada", numbers(store, "Ada")[:1], "Cy"),
    "split off everything": lambda store: edits.move(store, "Ada", numbers(store, "Ada"), "Cy"),
    "move": lambda store: edits.move(store, "Ada", numbers(store, "Ada")[:1], "Bob", reject=True),
}


def test_the_log_and_the_photos_say_for_whom_a_service_acts(store: Store) -> None:
    with acting_as("front door (key 3f)"):
        store.add("Ada", entry(1))
        edits.rename(store, "Ada", "Ben")
    store.add("Ben", entry(2))
    edits.remove(store, "Ben")
    assert {line.actor for line in store.log() if line.kind == "rename"} == {"front door (key 3f)"}
    assert {line.actor for line in store.log() if line.kind == "remove"} == {user_name()}
    assert sorted(line.actor for line in store.log() if line.kind == "enroll") == sorted(
        ["front door (key 3f)", user_name()]
    )


@pytest.mark.parametrize("do", UNDONE.values(), ids=UNDONE)
def test_undo_and_undo_of_undo(store: Store, place: Place, do: Callable[[Store], Any]) -> None:
    enroll(store, Ada=[0, 1], Bob=[2, 3], Eve=4)
    edits.edit(store, "Bob", external_id="b", metadata={"team": "blue"})
    probes = np.stack([vector(k) for k in range(7)])

    def seen(store: Store) -> Any:
        found = store.nearest(probes, 1)
        return held(store), found.people.tolist(), found.similarities.round(2).tolist(), found.n_photos.tolist()

    before = seen(store)
    do(store)
    after = seen(store)
    number = store.log(1)[0].id
    assert before != after
    assert edits.undo(store).id == number
    other = place.open()
    assert seen(store) == seen(other) == before
    undoing, undone = store.log(2)
    assert (undoing.kind, undone.id, undone.undone) == ("undo", number, True)
    with pytest.raises(GalleryError, match=f"change {number} was already undone"):
        edits.undo(store, number)
    edits.undo(other, undoing.id)
    assert seen(store) == seen(other) == after
    with pytest.raises(GalleryError, match="was already undone"):
        edits.undo(store, undoing.id)
    edits.undo(store, store.log(1)[0].id)
    assert seen(store) == before


def test_an_undo_is_marked_once(store: Store) -> None:
    enroll(store, Ada=0)
    edits.rename(store, "Ada", "Zoë")
    last = store.log(1)[0]
    assert last.change is not None
    store.apply(last.change.inverse(), undoes=last.id)
    edits.rename(store, "Ada", "Zoë")
    before = held(store)
    with pytest.raises(Conflict, match=f"change {last.id} was already undone"):
        store.apply(last.change.inverse(), undoes=last.id)
    assert held(store) == before


def test_a_change_with_later_changes_is_not_undone(store: Store) -> None:
    enroll(store, Ada=[0, 1])
    first, second = reversed(store.log())
    with pytest.raises(GalleryError, match="changed later; undo that change first"):
        edits.undo(store, first.id)  # the second photo would have no owner
    edits.remove_photos(store, "Ada", numbers(store, "Ada")[:1])
    with pytest.raises(GalleryError, match="changed later; undo that change first"):
        edits.undo(store, second.id)  # she would have no photos
    edits.undo(store)
    edits.undo(store, second.id)
    edits.undo(store, first.id)
    assert names(store) == []
    with pytest.raises(GalleryError, match="nothing is left to undo"):
        edits.undo(store)


# Erasing


def test_everything_removed_is_erased(store: Store, place: Place) -> None:
    store.add("Ada", entry(0, crop=b"picture"))
    enroll(store, Ada=1, Bob=[2, 3])
    edits.edit(store, "Ada", external_id="a-4711", metadata={"team": "blue"})
    ada, (a0, a1), (b2, b3) = person(store, "Ada"), numbers(store, "Ada"), numbers(store, "Bob")
    edits.rename(store, "Ada", "Zoë")
    edits.remove(store, "Zoë")
    edits.remove_photos(store, "Bob", [b2])
    assert store.embeddings([a0, a1, b2]).shape == (3, DIMENSION)
    before = held(store)
    assert store.erase() == 3
    assert store.erase() == 0
    for opened in (store, place.open()):
        assert held(opened) == before
        for number in (a0, a1, b2):
            with pytest.raises(GalleryError, match=f"no photo has the id {number}"):
                opened.embeddings([number])
            assert opened.crop(number) is None
        assert nearest(opened, 3) == ["Bob"] and numbers(opened, "Bob") == [b3]
        told = repr(opened.log(100))
        assert not [word for word in ("Ada", "Zoë", "4711", "blue", "photo 0", "photo 2") if word in told]
        assert "photo 3.jpg" in told
        of_ada = [one for one in opened.log(100) if one.kind in ("rename", "edit", "remove")]
        assert all(one.change is None and one.actor and "somebody" in one.text for one in of_ada)
        assert {one.kind for one in opened.log(100)} == {"enroll", "rename", "edit", "remove", "erase"}
    for one in store.log(100):
        if one.change is None:
            with pytest.raises(GalleryError, match="cannot be undone: the people or photos were erased"):
                edits.undo(store, one.id)
    assert store.get([ada.id]) == []
    assert store.add("Ada", entry(0)), "erased people may be enrolled again"


def test_some_are_erased(store: Store) -> None:
    enroll(store, Ada=[0, 1], Bob=2, Eve=[3, 4])
    ids = {one.state.name: one.id for one in store.people()}
    for name in ("Ada", "Bob"):
        edits.remove(store, name)
    (one, _) = numbers(store, "Eve")
    edits.remove_photos(store, "Eve", [one])
    assert store.erase([ids["Bob"]]) == 1
    edits.undo(store)
    edits.undo(store)
    assert names(store) == ["Ada", "Eve"] and person(store, "Eve").n_photos == 2
    assert store.erase([ids["Ada"], ids["Eve"]]) == 0, "none of their removed photos are left"
    assert store.erase([]) == 0


def test_what_was_removed_before_a_time_is_erased(store: Store) -> None:
    enroll(store, Ada=0, Bob=1)
    edits.remove(store, "Ada")
    assert store.erase(before=time.time() - 3600) == 0
    edits.undo(store)
    edits.remove(store, "Ada")
    assert store.erase(before=time.time() + 3600) == 1
    with pytest.raises(GalleryError, match="erased"):
        edits.undo(store, next(one.id for one in store.log() if one.kind == "remove"))


# Search


def test_the_most_similar_people(store: Store) -> None:
    store.add("Ada", entry(0, quality=0.5))
    store.add("Ada", entry(1, quality=0.75))
    enroll(store, Bob=2, Eve=3)
    probe = (0.6 * vector(2) + 0.8 * vector(3)).astype(np.float32)
    found = store.nearest(np.stack([probe, vector(0)]), 5)
    ids = {one.state.name: one.id for one in store.people()}
    assert found.people[0, :2].tolist() == [ids["Eve"], ids["Bob"]] and found.people[1, 0] == ids["Ada"]
    assert found.people.tolist()[0][3:] == found.people.tolist()[1][3:] == [-1, -1], "there are three"
    assert found.similarities[0, :2] == pytest.approx([0.8, 0.6], abs=1e-3)
    assert found.similarities[1, 0] == pytest.approx(np.sqrt(0.5), abs=1e-3)
    assert (found.n_photos[1, 0], found.n_photos[0, 0], found.n_photos[0, 4]) == (2, 1, 0)
    assert found.qualities[1, 0] == pytest.approx(0.625, abs=1e-3)
    assert found.similarities[0, 4] == -np.inf and found.qualities[0, 4] == 0


def test_a_search_follows_every_change_of_this_and_of_others(store: Store, place: Place) -> None:
    other = place.open()
    steps: list[tuple[Callable[[Store], Any], dict[int, list[str]]]] = [
        (lambda one: enroll(one, Ada=0, Bob=1), {0: ["Ada"], 1: ["Bob"]}),
        (lambda one: edits.rename(one, "Ada", "Zoë"), {0: ["Zoë"]}),
        (lambda one: one.add("Bob", entry(2)), {2: ["Bob"]}),
        (lambda one: edits.move(one, "Bob", numbers(one, "Bob")[:1], "Eve"), {1: ["Eve"], 2: ["Bob"]}),
        (lambda one: edits.merge(one, ["Eve", "Zoë"], "Bob"), {0: ["Bob"], 1: ["Bob"], 2: ["Bob"]}),
        (lambda one: edits.remove(one, "Bob"), {0: [], 1: []}),
        (lambda one: edits.undo(one), {0: ["Bob"], 1: ["Bob"]}),
        (lambda one: edits.remove_photos(one, "Bob", numbers(one, "Bob")[1:]), {1: ["Bob"]}),
        (lambda one: one.erase(), {1: ["Bob"]}),
    ]
    for number, (step, expected) in enumerate(steps):
        step((store, other)[number % 2])
        for opened in (store, other, place.open()):
            for seed, who in expected.items():
                assert nearest(opened, seed) == who, f"step {number}"


def test_templates_of_a_collection_and_of_a_person(store: Store, place: Place) -> None:
    enroll(store, Ada=[0, 1], Bob=[2, 3])
    other = place.open()

    def similarity() -> list[float]:
        values = []
        for opened in (store, other):
            found = opened.nearest(np.stack([vector(0), vector(2)]), 1)
            values.append([round(float(one), 2) for one in found.similarities[:, 0]])
            assert found.n_photos[:, 0].tolist() == [2 if one == 0.71 else 1 for one in values[-1]]
        assert values[0] == values[1]
        return values[0]

    assert similarity() == [0.71, 0.71], "the mean of two photos at a right angle"
    edits.edit(store, "Ada", templates="best")
    assert similarity() == [1.0, 0.71]
    store.set("templates", "best")
    assert similarity() == [1.0, 1.0]
    edits.edit(other, "Bob", templates="mean")
    assert similarity() == [1.0, 0.71]
    edits.undo(store)
    other.set("templates", "mean")
    edits.edit(other, "Ada", templates="")
    assert similarity() == [0.71, 0.71]


# Settings, collections, versions


def test_settings(store: Store, place: Place) -> None:
    assert store.setting("model") is None
    assert store.set_once("model", {"name": "a", "size": [1, 2]}) == {"name": "a", "size": [1, 2]}
    assert store.set_once("model", {"name": "b"}) == {"name": "a", "size": [1, 2]}, "the first one holds"
    for value in ({"name": "é\u202e"}, 0.01, None, [], "text"):
        store.set("model", value)
        assert store.setting("model") == value == place.open().setting("model")


def test_collections_know_nothing_of_each_other(store: Store, place: Place) -> None:
    other = place.open("team-b")
    enroll(store, Ada=[0, 1])
    store.set("model", "a")
    assert (other.count(), other.people(), other.log(), other.setting("model")) == (0, [], [], None)
    assert (other.find("Ada"), other.find_digest(entry(0).digest), nearest(other, 0)) == (None, [], [])
    assert other.get([person(store, "Ada").id]) == []
    enroll(other, Ada=2, Bob=0)
    edits.edit(other, "Bob", external_id="7")
    edits.edit(store, "Ada", external_id="7")
    assert names(store) == ["Ada"] and nearest(store, 2) == ["Ada"] and nearest(other, 2) == ["Ada"]
    assert sorted(store.collections()) == sorted(other.collections()) == ["default", "team-b"]
    before = held(store), held(other)
    theirs, mine = person(other, "Ada"), person(store, "Ada")
    (photo,) = numbers(other, "Ada")
    for change in (
        Change("rename", "", (PersonChange(theirs.id, theirs.state, PersonState("Eve")),)),
        Change("remove", "", (PersonChange(theirs.id, theirs.state, None),), (PhotoChange(photo, theirs.id, None),)),
        Change("remove", "", (), (PhotoChange(photo, theirs.id, None),)),
        Change("move", "", (), (PhotoChange(photo, theirs.id, mine.id),)),
        Change("move", "", (), (PhotoChange(numbers(store, "Ada")[0], mine.id, theirs.id),)),
    ):
        with pytest.raises(Conflict):
            store.apply(change)
    edits.remove(other, "Ada")
    with pytest.raises(Conflict):  # a removed photo of another collection
        store.apply(Change("move", "", (), (PhotoChange(photo, None, mine.id),)))
    assert store.erase() == 0
    edits.undo(other)
    assert (held(store), held(other)) == before


def test_the_version_tells_changes_of_this_and_of_others(store: Store, place: Place) -> None:
    other = place.open()
    seen = [store.version()]

    def changed() -> bool:
        seen.append(store.version())
        return seen[-1] not in seen[:-1]

    store.people(), store.nearest(vector(0)[None], 1), other.log()
    assert not changed(), "nothing has changed"
    for change in (
        lambda: store.add("Ada", entry(0)),
        lambda: other.add("Ada", entry(1)),
        lambda: edits.rename(other, "Ada", "Eve"),
        lambda: edits.remove(store, "Eve"),
        lambda: edits.undo(other),
    ):
        change()
        assert changed()
        assert not changed()


# Durability and sharing


def test_what_was_acknowledged_is_there_after_a_restart(store: Store, place: Place) -> None:
    store.add("Ada", entry(2, quality=0.5, metadata={"a": 1}, crop=b"picture"))
    enroll(store, Ada=0, Bob=[1, 3])
    edits.edit(store, "Ada", external_id="a")
    edits.remove(store, "Bob")
    store.set("rate", 0.01)
    before = held(store), store.log(), store.setting("rate"), store.crop(numbers(store, "Ada")[0])
    place.close()
    place.restart()
    again = place.open()
    assert (held(again), again.log(), again.setting("rate"), again.crop(numbers(again, "Ada")[0])) == before
    assert nearest(again, 2) == ["Ada"]
    edits.undo(again)
    assert nearest(again, 1) == ["Bob"]


def test_threads_share_it(store: Store) -> None:
    def work(k: int) -> bool:
        added = store.add(f"person {k % 5}", entry(8 + k))
        return added and len(nearest(store, 8 + k)) == 1

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(40)))
    assert [one.n_photos for one in store.people()] == [8] * 5
    assert len(store.vectors(DIMENSION).owners) == 40 and len(store.log(100)) == 40


def test_threads_change_the_same_person(store: Store) -> None:
    """Each change is retried after a conflict, and none is lost."""
    enroll(store, Ada=range(8, 48))  # type: ignore[arg-type]
    photos = numbers(store, "Ada")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: edits.move(store, "Ada", [photos[k]], f"person {k % 3}"), range(30)))
    assert {one.state.name: one.n_photos for one in store.people()} == {
        "Ada": 10, "person 0": 10, "person 1": 10, "person 2": 10,
    }  # fmt: skip


def test_a_gallery_over_it(place: Place) -> None:
    """A gallery accepts a store instead of a path, and closes it."""
    embedder = StubEmbedder()
    crop = np.zeros((embedder.spec.size, embedder.spec.size, 3), np.uint8)
    with Gallery(place.open(), embedder, create=True) as gallery:  # type: ignore[arg-type]
        gallery.add("Ada", vector(0), crop, metadata={"n": 1}, keep_crop=True)
        gallery.add("Bob", vector(1), crop)
        probes = np.stack([vector(k) for k in range(3)])
        assert [match.name for match in gallery.identify(probes)] == ["Ada", "Bob", None]
        assert gallery.merge(["Bob"], "Ada") == 1
        gallery.undo()
    with Gallery(place.open(), embedder) as gallery:  # type: ignore[arg-type]
        assert [one.name for one in gallery.people()] == ["Ada", "Bob"]
        assert gallery.photos("Ada")[0].has_crop
    other = StubEmbedder(fingerprint="0" * 64)
    with pytest.raises(GalleryError, match="cannot be compared"):
        Gallery(place.open(), other)  # type: ignore[arg-type]
    with Gallery(place.open("others"), other, create=True) as gallery:  # type: ignore[arg-type]
        gallery.add("Eve", vector(0), crop)
        assert len(gallery) == 1


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    with pytest.raises(GalleryError):
        store.people()


def test_a_dropped_collection_is_gone(place: Place) -> None:
    """All people, removed people, settings and log are gone; the other collection is unchanged, and a new one is empty."""
    kept, dropped, same = place.open("kept"), place.open("dropped"), place.open("dropped")
    enroll(kept, Ada=0)
    enroll(dropped, Bob=[1, 2], Eve=3)
    edits.remove(dropped, "Eve")
    dropped.set("templates", "best")
    before, version = held(kept), kept.version()
    dropped.drop()
    assert "dropped" not in kept.collections() and held(kept) == before and kept.version() >= version
    with pytest.raises(GalleryError):
        same.add("Cy", entry(4))
    with pytest.raises(GalleryError):
        same.count()
    again = place.open("dropped")
    assert again.count() == 0 and again.people() == [] and again.log() == [] and again.setting("templates") is None
    enroll(again, Dan=1)
    assert nearest(again, 1) == ["Dan"] and nearest(kept, 0) == ["Ada"]


def test_a_photo_for_a_person_of_a_number_alone(store: Store) -> None:
    enroll(store, Ada=0)
    ada = person(store, "Ada").id
    assert store.add("Ada", entry(1), ada) and store.add("Bob", entry(2), 0)
    before = held(store)
    for name, number in (("Ada", 0), ("Ada", person(store, "Bob").id), ("Nobody", ada)):
        with pytest.raises(Conflict, match="was changed meanwhile"):
            store.add(name, entry(3), number)
    assert held(store) == before
