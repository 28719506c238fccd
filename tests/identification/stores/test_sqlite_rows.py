"""Rows for the search index: batches that end within a person, changed people, and checks of the counts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.stores import sqlite_rows
from facespace.identification.stores.sqlite import SQLiteStore
from support.galleries import damage, random_entry

D = 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people.gallery"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    opened = SQLiteStore(path, create=True)
    opened._connection.execute("PRAGMA synchronous = OFF")
    yield opened
    opened.close()


def rows(store: SQLiteStore) -> tuple[list[int], list[int], np.ndarray]:
    """Return the ids, numbers of photos and vectors of all rows."""
    with store._read() as cursor:
        pieces = list(sqlite_rows.people_rows(store, cursor, D))
    ids, vectors, n_photos, _ = (np.concatenate(values) for values in zip(*pieces, strict=True))
    return ids.tolist(), n_photos.tolist(), vectors


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 100])
def test_a_person_is_never_cut_in_two(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """For all batch sizes, the means are those of all photos of a person."""
    monkeypatch.setattr(sqlite_rows, "_BATCH", at_once)
    n_photos = [1, 5, 1, 1, 2, 9, 1]
    for person, n in enumerate(n_photos):
        for k in range(n):
            store.add(f"person {person}", random_entry(100 * person + k, D))
    ids, counts, vectors = rows(store)
    assert (ids, counts) == ([1, 2, 3, 4, 5, 6, 7], n_photos)
    for person, n in enumerate(n_photos):
        mean = sum(random_entry(100 * person + k, D).embedding.astype(np.float16).astype(float) for k in range(n))
        np.testing.assert_allclose(vectors[person], mean / np.linalg.norm(mean), atol=1e-3)
    store.set("templates", "best")
    ids, counts, vectors = rows(store)
    assert ids == [person + 1 for person, n in enumerate(n_photos) for _ in range(n)] and counts == [1] * 20
    np.testing.assert_allclose(vectors[1], random_entry(100, D).embedding, atol=1e-3)


def test_only_what_changed_is_read_again(store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(20):
        store.add(f"person {k}", random_entry(k, D))
    other = SQLiteStore(path)
    probe = random_entry(3, D).embedding[None]
    assert other.nearest(probe, 1).people.tolist() == [[4]]
    monkeypatch.setattr(
        "facespace.identification.stores.sqlite.read_index", lambda *_: pytest.fail("everybody was read")
    )
    edits.remove(store, "person 3")
    store.add("again", random_entry(3, D))
    assert other.nearest(probe, 1).people.tolist() == [[21]]
    index = other._people(D)
    assert other._people(D) is index, "nothing has changed"
    edits.edit(store, "person 7", metadata={"a": 1})
    assert other.nearest(probe, 1).people.tolist() == [[21]]
    monkeypatch.undo()
    monkeypatch.setattr(sqlite_rows, "_MAX_BEHIND", 0)
    edits.undo(store, next(one.id for one in store.log() if one.kind == "remove"))
    assert other.nearest(probe, 2).people.tolist() == [[4, 21]], "too many changes: all people are read again"
    other.close()


def test_an_older_file_in_its_place_is_read_whole(store: SQLiteStore, path: Path) -> None:
    store.add("Ada", random_entry(0, D))
    before = path.read_bytes()
    store.add("Bob", random_entry(1, D))
    probe = random_entry(1, D).embedding[None]
    assert store.nearest(probe, 1).people.tolist() == [[2]]
    with path.open("r+b") as file:  # like `cp backup.gallery people.gallery`
        file.write(before)
        file.truncate()
    assert store.nearest(probe, 1).people.tolist() == [[1]]


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("UPDATE person SET stamp = stamp + 1 WHERE id = 5", "its people are from two different states"),
        ("UPDATE face SET gone = 5 WHERE id = 5", "20 people and 20 photos, but its counts are 20 and 21"),
        ("UPDATE face SET gone = 5 WHERE id = 6", "19 people and 20 photos, but its counts are 20 and 21"),
        ("UPDATE face SET person = 9 WHERE id = 5", "its people are from two different states"),
        ("UPDATE person SET gone = 5 WHERE id = 6", "19 people and 20 photos"),
        (
            "INSERT INTO person (collection, name, added) VALUES (1, 'x', 5)",
            "its people are from two different states",
        ),
        ("DELETE FROM face WHERE id = 6", "19 people and 20 photos"),
        ("UPDATE collection SET tally = 7", "its people are from two different states"),
    ],
)
@pytest.mark.parametrize("few", [0, 100])
def test_counts_and_the_tally_must_hold(
    store: SQLiteStore, path: Path, statement: str, match: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are checked when a small gallery is opened, and at the first search in a large one."""
    for k in range(20):
        store.add(f"person {k}", random_entry(k, D))
    store.add("person 4", random_entry(99, D))
    damage(path, statement)
    monkeypatch.setattr(sqlite_rows, "_COUNTED_ON_OPENING", few)
    if few:
        with pytest.raises(GalleryError, match=match):
            SQLiteStore(path)
        return
    other = SQLiteStore(path)
    with pytest.raises(GalleryError, match=f"{match}.*copy it again with facespace gallery copy"):
        other.nearest(random_entry(0, D).embedding[None], 1)
    other.close()


def test_names_that_are_not_in_their_index(store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is treated as too large to be checked completely when it is opened."""
    monkeypatch.setattr("facespace.identification.stores.sqlite_checks._SMALL", 0)
    for k in range(20):
        store.add(f"person {k}", random_entry(k, D))
    store.close()
    connection = sqlite3.connect(path)
    ((first,), (page,)) = (
        connection.execute(sql).fetchone()
        for sql in ("SELECT rootpage FROM sqlite_master WHERE name = 'person_name'", "PRAGMA page_size")
    )
    connection.close()
    whole = path.read_bytes()
    store = SQLiteStore(path)
    edits.rename(store, "person 3", "Zoë")
    store.close()
    with path.open("r+b") as file:
        file.seek(page * (first - 1))
        file.write(whole[page * (first - 1) : page * first])
    with pytest.raises(GalleryError, match="its index of names is from another state"):
        SQLiteStore(path)
    monkeypatch.setattr(sqlite_rows, "_LAST", 0)
    store = SQLiteStore(path)
    for use in (store.people, lambda: store.find("person 3"), lambda: store.add("person 3", random_entry(77, D))):
        with pytest.raises(GalleryError, match="names in the table and in its index differ"):
            use()
    store.close()
