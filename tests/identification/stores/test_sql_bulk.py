"""Many people in one change of an SQL store."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.stores import tally
from facespace.identification.stores.bulk import add_people, people_of
from facespace.identification.stores.records import Counts
from facespace.identification.stores.sqlite import SQLiteStore
from support.gallery_people import D, everybody, open_people, person, photo, told


@pytest.fixture
def store(tmp_path: Path) -> SQLiteStore:
    return open_people(tmp_path / "people.gallery", [])


def test_times_are_kept(store: SQLiteStore) -> None:
    add_people(store, everybody(), text="test")
    assert told(store) == told(everybody())


def test_one_change_can_be_undone(store: SQLiteStore) -> None:
    add_people(store, [person("Ada", 1, metadata={"x": 1})], text="first")
    before = told(store)
    add_people(store, [person("Ada", 1, 2, metadata={"y": 2}), person("Bob", 3)], text="12 people of a.facespace")
    assert (store.log()[0].kind, store.log()[0].text) == ("import", "12 people of a.facespace")
    edits.undo(store)
    assert told(store) == before and store.count() == 1
    edits.undo(store, store.log()[1].id - 1)
    assert store.count() == 0


def test_a_large_one_cannot_be_and_says_so(store: SQLiteStore) -> None:
    add_people(store, [person("Ada", 1)], text="test", undoable=False)
    with pytest.raises(GalleryError, match="nothing is left to undo"):
        edits.undo(store)


def test_it_is_whole_or_not_at_all(store: SQLiteStore) -> None:
    wrong = person("Bob", 2)
    wrong = type(wrong)(wrong.state, "a time in it is not valid", wrong.photos)
    with pytest.raises(ValueError, match="time must be"):
        add_people(store, [person("Ada", 1), wrong], text="test")
    assert (store.count(), told(store)) == (0, [])


def test_counts_and_tally_are_those_of_the_rows(store: SQLiteStore) -> None:
    """The checks for a mixture of two states hold as after every other change."""

    def held() -> list[Any]:
        with store._read() as cursor:
            return cursor.rows("SELECT n_people, n_photos, tally FROM collection")

    add_people(store, everybody(), text="test")
    add_people(store, [person("Ada", 77, metadata={"new": 1}), person("Eve", 78)], text="test")
    before = held()
    with store._write() as cursor:
        tally.count_again(cursor, store._collection_id)
    assert held() == before
    assert store.nearest(photo(78).entry.embedding[None], 1).similarities[0, 0] > 0.99


def test_other_stores_find_the_added_people(store: SQLiteStore, tmp_path: Path) -> None:
    other = SQLiteStore(tmp_path / "people.gallery")
    probe = photo(2).entry.embedding[None]
    add_people(store, [person("Ada", 1)], text="test")
    assert other.nearest(probe, 1).similarities[0, 0] < 0.99
    add_people(store, [person("Bob", 2), person("Ada", 1, 3)], text="test")
    found = other.nearest(probe, 3)
    assert other.get([int(found.people[0, 0])])[0].state.name == "Bob" and found.similarities[0, 0] > 0.99
    assert sorted(found.n_photos[0].tolist()) == [0, 1, 2]


def test_a_name_twice_in_one_call_is_one_person(store: SQLiteStore) -> None:
    assert add_people(store, [person("Ada", 1), person("Ada", 1, 2)], text="test") == Counts(1, 1, 2, 1)
    assert (store.count(), store.people()[0].n_photos) == (1, 2)


def test_an_external_id_twice_in_one_call_goes_to_the_first(store: SQLiteStore) -> None:
    counts = add_people(store, [person("Ada", 1, external_id="x"), person("Bob", 2, external_id="x")], text="test")
    assert len(counts.remarks) == 1
    found = store.find_external("x")
    assert found is not None and found.state.name == "Ada"


def test_collections_are_apart(tmp_path: Path) -> None:
    first = open_people(tmp_path / "people.gallery", [person("Ada", 1, external_id="x")])
    second = SQLiteStore(tmp_path / "people.gallery", collection="other", create=True)
    assert add_people(second, [person("Ada", 1, external_id="x")], text="test") == Counts(1, 0, 1)
    assert told(first) == told(second)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE face SET vector = 5",
        "UPDATE face SET vector = zeroblob(16)",
        "UPDATE face SET vector = zeroblob(17) WHERE id = 2",
        "UPDATE face SET digest = 5",
        "UPDATE face SET quality = 7",
        "UPDATE face SET source = x'00'",
        "UPDATE face SET extra = '[]'",
        "UPDATE face SET making = 99",
        "UPDATE face SET added = -1",
        "UPDATE crop SET data = 'text'",
    ],
)
def test_damage_is_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "people.gallery"
    open_people(path, [person("Ada", 1, 2, crop=True)]).close()
    with sqlite3.connect(path) as connection:
        connection.execute(damage)
    connection.close()
    with (
        contextlib.closing(SQLiteStore(path)) as store,
        pytest.raises(GalleryError, match=r"people.gallery: damaged"),
    ):
        list(people_of(store))


def test_vectors_are_exact(store: SQLiteStore) -> None:
    """float16 values are read exactly as they were written."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((50, D)).astype(np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    people = [
        type(base)(base.state, base.added, (photo(k, embedding=vector.astype(np.float32)),))
        for k, vector in enumerate(vectors)
        for base in [person(f"{k:03d}", k)]
    ]
    add_people(store, people, text="test")
    found = np.stack([one.photos[0].entry.embedding for one in people_of(store)]).astype(np.float16)
    assert (found == vectors).all()
