"""Many people read from a store and added to a store, for all kinds of stores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facespace.identification.stores import bulk
from facespace.identification.stores.bulk import add_people, batches, people_of
from facespace.identification.stores.records import Counts
from facespace.identification.stores.sqlite import SQLiteStore
from support.gallery_people import OtherStore, everybody, open_people, person, photo, told

KINDS: dict[str, Callable[[SQLiteStore], Any]] = {
    "of SQL": lambda store: store, "encrypted": lambda store: store, "other": OtherStore,
}  # fmt: skip


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "encrypted":
        monkeypatch.setenv("FACESPACE_GALLERY_KEY", "correct horse battery")
    return KINDS[request.param](SQLiteStore(tmp_path / "people.gallery", create=True))


def without_times(people: Any) -> list[Any]:
    return [(state, [one[:-2] for one in photos]) for state, _, photos in people]


def test_added_people_are_there(store: Any) -> None:
    people = everybody()
    counts = add_people(store, people, text="test")
    assert counts == Counts(len(people), 0, sum(len(one.photos) for one in people))
    assert without_times(told(store)) == without_times(told(people))
    assert store.count() == len(people)


def test_adding_twice_equals_adding_once(store: Any) -> None:
    people = everybody()
    add_people(store, people, text="test")
    before, version = told(store), store.version()
    n_photos = sum(len(one.photos) for one in people)
    assert add_people(store, people, text="test") == Counts(0, len(people), 0, n_photos)
    assert told(store) == before and store.version() == version


def test_a_known_person_gets_new_photos(store: Any) -> None:
    add_people(store, [person("Ada", 1), person("Bob", 5, external_id="a1")], text="test")
    more = [person("Ada", 1, 2, 3, external_id="a1", metadata={"x": 1})]
    assert add_people(store, more, text="test", skip_known=True) == Counts(0, 1)
    assert store.find("Ada").n_photos == 1
    counts = add_people(store, more, text="test")
    assert counts[:5] == (0, 1, 2, 1, 0) and "another person has the external id 'a1'" in counts.remarks[0]
    assert (store.find("Ada").n_photos, store.find("Ada").state.metadata) == (3, {"x": 1})
    assert store.find_external("a1").state.name == "Bob"
    digest = photo(1).entry.digest
    assert store.find_digest(digest) == [store.find("Ada").id]


def test_a_rejected_photo_does_not_come_back(store: Any) -> None:
    rejected = photo(2).entry.digest
    add_people(store, [person("Ada", 1, rejected=(rejected,))], text="test")
    assert add_people(store, [person("Ada", 2, 3)], text="test") == Counts(0, 1, 1, 0, 1)
    assert store.find_digest(rejected) == []


def test_an_interrupted_call_can_be_repeated(tmp_path: Path) -> None:
    people = [
        person("Ada", 1, 2, external_id="x", templates="best"),
        person("Bob", 3, metadata={"x": 1}),
        person("Eve", 4),
    ]
    whole = OtherStore(SQLiteStore(tmp_path / "whole.gallery", create=True))
    add_people(whole, people, text="test")
    for stop in range(whole.calls):
        inner = SQLiteStore(tmp_path / f"{stop}.gallery", create=True)
        with pytest.raises(ConnectionError):
            add_people(OtherStore(inner, stop), people, text="test")  # type: ignore[arg-type]
        add_people(OtherStore(inner), people, text="test")  # type: ignore[arg-type]
        assert without_times(told(inner)) == without_times(told(people)), f"stopped after {stop} changes"
        inner.close()


def test_reading_goes_by_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = everybody()
    store = open_people(tmp_path / "people.gallery", people)
    monkeypatch.setattr(bulk, "_PAGE", 3)
    monkeypatch.setattr(bulk, "_BATCH_PHOTOS", 4)
    assert told(store) == told(people)
    assert without_times(told(OtherStore(store))) == without_times(told(people))  # type: ignore[arg-type]


def test_people_removed_while_reading_are_left_out(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    add_people(store, [person("Ada", 1), person("Bob", 2)], text="test")
    page = store.people(after="", limit=10)
    stale = [dataclasses.replace(one, id=one.id + 100) if one.state.name == "Bob" else one for one in page]
    inner = getattr(store, "_inner", store)
    monkeypatch.setattr(inner, "people", lambda *, after, limit: [] if after else stale)
    assert [one.state.name for one in people_of(store)] == ["Ada"]


def test_batches_are_bounded_by_photos_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    people = [person(name, *range(n)) for name, n in (("A", 2), ("B", 2), ("C", 9), ("D", 1))]
    assert [[one.state.name for one in part] for part in batches(people, 4)] == [["A", "B"], ["C"], ["D"]]
    monkeypatch.setattr(bulk, "_BATCH_BYTES", 2000)
    crops = [person(name, 1, crop=True) for name in "ABC"]
    assert [len(part) for part in batches(crops, 100)] == [2, 1]
    assert list(batches([], 4)) == []
