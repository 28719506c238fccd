"""Removed rows after changes of an SQL store, and enrolments in its log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from facespace.identification import edits
from facespace.identification.stores.protocol import Change, PersonChange, PersonState, PhotoChange
from facespace.identification.stores.sqlite import SQLiteStore
from support.galleries import entry


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    opened = SQLiteStore(tmp_path / "people.gallery", create=True)
    yield opened
    opened.close()


def counted(store: SQLiteStore, table: str) -> int:
    (n,) = store._connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(n)


@pytest.mark.parametrize(
    "change",
    [
        Change("", "", (PersonChange(0, None, PersonState("Bob")), PersonChange(0, None, PersonState("Eve")))),
        Change("", "", (), (PhotoChange(1, 1, None), PhotoChange(1, 1, None))),
    ],
    ids=["people", "photos"],
)
def test_a_change_names_each_once(store: SQLiteStore, change: Change) -> None:
    store.add("Ada", entry(0))
    with pytest.raises(ValueError, match="must name each person and each photo once"):
        store.apply(change)
    assert store.count() == 1 and len(store.log()) == 1


def test_removed_rows_stay_until_they_are_erased(store: SQLiteStore) -> None:
    store.add("Ada", entry(0, crop=b"picture"))
    store.add("Bob", entry(1))
    edits.remove(store, "Ada")
    assert [counted(store, table) for table in ("person", "face", "crop")] == [2, 2, 1]
    store.erase()
    assert [counted(store, table) for table in ("person", "face", "crop")] == [1, 1, 0]


def test_the_log_of_an_enrolment_has_the_present_name(store: SQLiteStore) -> None:
    store.add("Ada", entry(0))
    store.add("Ada", entry(1, source=""))
    edits.rename(store, "Ada", "Zoë")
    rows = store._connection.execute("SELECT text, length(change) FROM log WHERE kind = 'enroll'").fetchall()
    assert all(text == "" and length < 50 for text, length in rows)
    second, first = store.log()[1:]
    assert (first.text, second.text) == ("Zoë: photo 0.jpg", "Zoë")
    assert first.change is not None and second.change is not None
    assert first.change.people == (PersonChange(1, None, PersonState("Zoë")),) and second.change.people == ()


def test_the_log_of_an_enrolment_after_an_erasure(store: SQLiteStore) -> None:
    store.add("Ada", entry(0))
    store.add("Bob", entry(1))
    edits.remove(store, "Ada")
    store.erase()
    erased, removed, _, enrolled = store.log()
    assert erased.kind == "erase" and erased.text.endswith(removed.at)
    token = erased.text.partition(":")[0]
    assert token.startswith("somebody ") and enrolled.text == removed.text == token
    assert f"1 photo, enrolled by {enrolled.actor} between" in erased.text


def test_random_names_are_another_for_each_person(store: SQLiteStore) -> None:
    for k, name in enumerate(("Ada", "Bob")):
        store.add(name, entry(k))
        edits.remove(store, name)
    store.erase()
    assert len({one.text.partition(":")[0] for one in store.log() if one.kind == "erase"}) == 2
