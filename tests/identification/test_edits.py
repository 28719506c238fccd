"""Edits of a gallery. The contract of stores tests that each can be undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from facespace.errors import GalleryError, UnknownPerson
from facespace.identification import edits
from facespace.identification.stores.protocol import Change, Conflict, PersonState
from facespace.identification.stores.sqlite import SQLiteStore
from support.galleries import entry, held


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    """A store with Ada (three photos), Bob (two) and Eve (one)."""
    opened = SQLiteStore(tmp_path / "people.gallery", create=True)
    for k, name in enumerate(("Ada", "Ada", "Ada", "Bob", "Bob", "Eve")):
        opened.add(name, entry(k))
    yield opened
    opened.close()


def numbers(store: SQLiteStore, name: str) -> list[int]:
    return [photo.id for photo in store.photos(edits.person_called(store, name).id)]


def states(store: SQLiteStore) -> dict[str, int]:
    return {one.state.name: one.n_photos for one in store.people()}


def test_a_person_by_name(store: SQLiteStore) -> None:
    assert edits.person_called(store, "  Ada\n").state == PersonState("Ada")
    with pytest.raises(UnknownPerson, match="no person is called 'ada'"):
        edits.person_called(store, "ada")


def test_rename(store: SQLiteStore) -> None:
    edits.rename(store, "Ada", " Zoe\u0308 ")
    assert states(store) == {"Bob": 2, "Eve": 1, "Zoë": 3}
    n_entries = len(store.log())
    edits.rename(store, "Zoë", "Zoë")
    assert len(store.log()) == n_entries, "nothing was changed"
    with pytest.raises(GalleryError, match="another person is called 'Bob' already; merge joins the two"):
        edits.rename(store, "Zoë", "Bob")
    with pytest.raises(UnknownPerson, match="no person is called 'Ada'"):
        edits.rename(store, "Ada", "Eva")


def test_edit(store: SQLiteStore) -> None:
    edits.edit(store, "Ada", external_id="a", metadata={"x": 1}, templates="best")
    edits.edit(store, "Ada", metadata={"y": 2})
    assert edits.person_called(store, "Ada").state == PersonState("Ada", "a", {"y": 2}, (), "best")
    n_entries = len(store.log())
    edits.edit(store, "Ada", metadata={"y": 2})
    edits.edit(store, "Ada")
    assert len(store.log()) == n_entries
    with pytest.raises(GalleryError, match="'Ada' has the external id 'a' already"):
        edits.edit(store, "Bob", external_id="a")
    edits.edit(store, "Ada", external_id="", metadata={}, templates="")
    assert edits.person_called(store, "Ada").state == PersonState("Ada")
    edits.edit(store, "Bob", external_id="a")
    for wrong in ({"external_id": "a\n"}, {"metadata": []}, {"templates": "x"}):
        with pytest.raises(ValueError, match="must be"):
            edits.edit(store, "Bob", **wrong)


def test_remove(store: SQLiteStore) -> None:
    assert edits.remove(store, "Ada").n_photos == 3
    assert states(store) == {"Bob": 2, "Eve": 1}
    with pytest.raises(UnknownPerson):
        edits.remove(store, "Ada")


def test_remove_photos(store: SQLiteStore) -> None:
    first, second, third = numbers(store, "Ada")
    edits.remove_photos(store, "Ada", [second, second])
    assert numbers(store, "Ada") == [first, third]
    assert store.log()[0].text == "1 photo of Ada"
    edits.remove_photos(store, "Ada", [first, third])
    assert states(store) == {"Bob": 2, "Eve": 1}, "a person without photos is removed"
    edits.undo(store)
    assert numbers(store, "Ada") == [first, third]


WRONG: list[tuple[Callable[[SQLiteStore], Any], str]] = [
    (lambda store: edits.remove_photos(store, "Ada", []), "no photo was chosen"),
    (
        lambda store: edits.remove_photos(store, "Ada", numbers(store, "Bob")),
        r"'Ada' has no photo 4; facespace gallery show",
    ),
    (lambda store: edits.remove_photos(store, "Ada", [10**9]), "'Ada' has no photo 1000000000"),
    (lambda store: edits.move(store, "Ada", numbers(store, "Ada"), "Ada"), "the photos already belong to 'Ada'"),
    (lambda store: edits.move(store, "Ada", [], "Cy"), "no photo was chosen"),
    (lambda store: edits.remove_photos(store, "Eve", numbers(store, "Eve"), reject=True), "'Eve' has no other photos"),
    (lambda store: edits.merge(store, ["Nobody"], "Ada"), "no person is called 'Nobody'"),
    (lambda store: edits.merge(store, ["Ada"], "Nobody"), "no person is called 'Nobody'"),
    (lambda store: edits.undo(store, 10**9), "no change has the number 1000000000"),
]


@pytest.mark.parametrize(("do", "match"), WRONG)
def test_a_refused_edit_changes_nothing(store: SQLiteStore, do: Callable[[SQLiteStore], Any], match: str) -> None:
    before = held(store), store.version(), len(store.log())
    with pytest.raises(GalleryError, match=match):
        do(store)
    assert (held(store), store.version(), len(store.log())) == before


def test_merge_joins_ids_metadata_and_rejections(store: SQLiteStore) -> None:
    edits.edit(store, "Ada", metadata={"team": "blue"})
    edits.edit(store, "Bob", external_id="b", metadata={"team": "red", "door": 3})
    edits.remove_photos(store, "Bob", numbers(store, "Bob")[:1], reject=True)
    assert edits.merge(store, ["Bob", "Bob", "Ada", "Eve"], "Ada").n_photos == 2
    assert states(store) == {"Ada": 5}
    state = edits.person_called(store, "Ada").state
    assert state == PersonState("Ada", "b", {"team": "blue", "door": 3}, (entry(3).digest,))
    assert store.log()[0].text == "Bob, Eve into Ada"
    n_entries = len(store.log())
    assert edits.merge(store, ["Ada"], "Ada") == (None, 0) and len(store.log()) == n_entries


def test_split_and_move(store: SQLiteStore) -> None:
    first, second, third = numbers(store, "Ada")
    edits.move(store, "Ada", [second], "Cy")
    edits.move(store, "Ada", [first], "Bob")
    assert states(store) == {"Ada": 1, "Bob": 3, "Cy": 1, "Eve": 1}
    assert [one.kind for one in store.log(2)] == ["move", "split"]
    edits.move(store, "Ada", [third], "Cy")
    assert states(store) == {"Bob": 3, "Cy": 2, "Eve": 1} and numbers(store, "Cy") == [second, third]


def test_not_this_person(store: SQLiteStore) -> None:
    """A rejected crop can be neither enrolled for the person again nor moved back, but others can get it."""
    first, second, _ = numbers(store, "Ada")
    edits.remove_photos(store, "Ada", [first], reject=True)
    edits.move(store, "Ada", [second], "Bob", reject=True)
    assert edits.person_called(store, "Ada").state.rejected == (entry(0).digest, entry(1).digest)
    for k in (0, 1):
        with pytest.raises(GalleryError, match="this photo does not show Ada; left out"):
            store.add("Ada", entry(k))
    with pytest.raises(GalleryError, match="1 of these photos were rejected as not showing Ada"):
        edits.move(store, "Bob", [second], "Ada")
    assert store.add("Eve", entry(0))
    edits.rename(store, "Ada", "Zoë")
    with pytest.raises(GalleryError, match="does not show Zoë"):
        store.add("Zoë", entry(0))
    edits.move(store, "Bob", numbers(store, "Bob")[:2], "Eve", reject=True)
    edits.move(store, "Bob", numbers(store, "Bob"), "Eve", reject=True)
    assert states(store) == {"Eve": 5, "Zoë": 1}, "the person with the rejection is gone"


def test_the_last_change_that_can_be_is_undone(store: SQLiteStore) -> None:
    edits.rename(store, "Ada", "Zoë")
    edits.remove(store, "Bob")
    assert [edits.undo(store).kind for _ in range(3)] == ["remove", "rename", "enroll"]
    assert states(store) == {"Ada": 3, "Bob": 2}
    assert store.log()[0].text.startswith("6: enroll Eve")


class Rival:
    """A store in which another client changes the same person right before each of the first n changes."""

    def __init__(self, store: SQLiteStore, n_times: int) -> None:
        self._store, self._n_times = store, n_times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def apply(self, change: Change, **options: Any) -> int:
        if self._n_times:
            self._n_times -= 1
            edits.edit(self._store, "Ada", metadata={"n": self._n_times})
        return self._store.apply(change, **options)


def test_a_change_is_retried_after_a_conflict(store: SQLiteStore) -> None:
    edits.rename(Rival(store, 3), "Ada", "Zoë")  # type: ignore[arg-type]
    assert edits.person_called(store, "Zoë").state.metadata == {"n": 0}, "the others' changes are kept"
    edits.rename(store, "Zoë", "Ada")
    with pytest.raises(Conflict, match="'Ada' was changed meanwhile; try again"):
        edits.rename(Rival(store, 99), "Ada", "Zoë")  # type: ignore[arg-type]
    assert "Ada" in states(store)


def seen(store: SQLiteStore, name: str) -> edits.Seen:
    person = edits.person_called(store, name)
    return edits.Seen(person.id, edits.fingerprint(person, store.photos(person.id)))


CHANGES: dict[str, Callable[[Any, edits.Seen, edits.Seen], Any]] = {
    "rename": lambda store, ada, _: edits.rename(store, ada, "Zoë"),
    "edit": lambda store, ada, _: edits.edit(store, ada, new_name="Zoë", metadata={"x": 1}),
    "remove": lambda store, ada, _: edits.remove(store, ada),
    "photos": lambda store, ada, _: edits.remove_photos(store, ada, [1]),
    "reject": lambda store, ada, _: edits.remove_photos(store, ada, [1], reject=True),
    "move": lambda store, ada, _: edits.move(store, ada, [1], "Cy"),
    "merge into": lambda store, ada, bob: edits.merge(store, [bob], ada),
    "merge from": lambda store, ada, bob: edits.merge(store, [ada], bob),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_person_who_is_not_as_seen_stays(store: SQLiteStore, what: str) -> None:
    ada, bob = seen(store, "Ada"), seen(store, "Bob")
    store.add("Ada", entry(9))
    before = held(store)
    with pytest.raises(edits.Stale, match="'Ada' was changed since you read it; read it again"):
        CHANGES[what](store, ada, bob)
    assert held(store) == before
    done = CHANGES[what](store, seen(store, "Ada"), bob)
    assert done.number == store.log()[0].id and held(store) != before
    edits.undo(store, done.number)
    CHANGES[what](store, edits.Seen(ada.id), edits.Seen(bob.id))


@pytest.mark.parametrize("what", CHANGES)
def test_a_person_changed_between_reading_and_editing_stays(store: SQLiteStore, what: str) -> None:
    ada, bob = seen(store, "Ada"), seen(store, "Bob")
    rival = Rival(store, 1)
    if what in ("photos", "move"):  # they change only photos, so the person's fields may change at the same time
        CHANGES[what](rival, ada, bob)
        assert edits.person_called(store, "Ada").state.metadata == {"n": 0}
        return
    if what == "merge into":
        CHANGES[what](rival, ada, bob)
        assert edits.person_called(store, "Ada").state.metadata == {"n": 0}
        return
    with pytest.raises(edits.Stale):
        CHANGES[what](rival, ada, bob)
    assert states(store) == {"Ada": 3, "Bob": 2, "Eve": 1}


def test_the_fingerprint_follows_everything(store: SQLiteStore) -> None:
    told = {seen(store, "Ada").fingerprint}
    for change in (
        lambda: edits.rename(store, "Ada", "Zoë"),
        lambda: edits.rename(store, "Zoë", "Ada"),
        lambda: edits.edit(store, "Ada", external_id="a"),
        lambda: edits.edit(store, "Ada", metadata={"a": 1}),
        lambda: edits.edit(store, "Ada", templates="best"),
        lambda: store.add("Ada", entry(9)),
        lambda: edits.remove_photos(store, "Ada", numbers(store, "Ada")[:1], reject=True),
    ):
        change()
        told.add(seen(store, store.people(limit=4)[0 if store.find("Ada") else 2].state.name).fingerprint)
    assert len(told) == 7, "after the two renames it is the original fingerprint"


def test_a_person_by_number(store: SQLiteStore) -> None:
    ada = edits.person_called(store, "Ada")
    assert edits.person_called(store, edits.Seen(ada.id)) == ada
    for number in (0, -1, 10**9, 2**63, 2**70):
        with pytest.raises(UnknownPerson, match=f"no person has the id {number}"):
            edits.person_called(store, edits.Seen(number))


def test_a_name_that_is_taken_says_by_whom(store: SQLiteStore) -> None:
    bob = edits.person_called(store, "Bob").id
    for change in (
        lambda: edits.rename(store, "Ada", "Bob"),
        lambda: edits.edit(store, "Ada", new_name="Bob"),
        lambda: edits.edit(store, "Ada", external_id="b"),
    ):
        edits.edit(store, "Bob", external_id="b")
        with pytest.raises(edits.NameTaken) as caught:
            change()
        assert caught.value.other == bob


def test_a_photo_goes_to_the_person_of_that_number_alone(store: SQLiteStore) -> None:
    ada = edits.person_called(store, "Ada").id
    assert store.add("Ada", entry(9), ada) and not store.add("Ada", entry(9), ada)
    edits.rename(store, "Ada", "Zoë")
    before = held(store)
    with pytest.raises(Conflict, match="'Ada' was changed meanwhile"):
        store.add("Ada", entry(10), ada)
    edits.rename(store, "Bob", "Ada")
    with pytest.raises(Conflict, match="'Ada' was changed meanwhile"):
        store.add("Ada", entry(10), ada)
    edits.rename(store, "Ada", "Bob")
    assert held(store) == before
