"""Edits of a gallery by its users: rename, merge, split, remove and reject, and undo.

Each edit is one `Change` of a store. If another process changed the same people meanwhile, they are read again and the
edit is retried. A person is given by name, or as `Seen`: an id and the fingerprint of the state that the user saw.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from facespace.errors import GalleryError, UnknownPerson
from facespace.identification.stores.changes import (
    TEMPLATES,
    checked_external_id,
    checked_metadata,
    state_to_json,
)
from facespace.identification.stores.protocol import (
    Change,
    Conflict,
    LogEntry,
    PersonChange,
    PersonState,
    PhotoChange,
    Store,
    StoredPerson,
    StoredPhoto,
)
from facespace.io.text import clean_name

_LOG_LIMIT = 10_000  # entries of the log that are read
_N_ATTEMPTS = 20


class Stale(GalleryError):
    """The person was changed after the caller read them; read the person again before changing them."""


class Refused(GalleryError):
    """The change cannot be applied to the present state of the gallery; a retry does not help."""


class NoSuchPhoto(Refused):
    """The person has no photo with that id."""


class NameTaken(Refused):
    """Another person already has the name or the external id; `other` is the id of that person."""

    def __init__(self, message: str, other: int) -> None:
        super().__init__(message)
        self.other = other


class Seen(NamedTuple):
    """Refers to a person by `StoredPerson.id`, in the state with this `fingerprint`, or in any state if it is None."""

    id: int
    fingerprint: str | None = None


PersonRef = str | Seen


class Done(NamedTuple):
    """The result of a change: its `number` in the log (None if nothing had to change), and how many photos changed."""

    number: int | None
    n_photos: int = 0


def fingerprint(person: StoredPerson, photos: Sequence[StoredPhoto]) -> str:
    """Return a short hash of a person's state and photo ids; it changes whenever one of them does."""
    content = [person.id, state_to_json(person.state), [photo.id for photo in photos]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def person_called(store: Store, who: PersonRef) -> StoredPerson:
    """Return the person `who`; raise `UnknownPerson` if the store lacks it, `Stale` if its fingerprint differs."""
    if not isinstance(who, Seen):
        found = store.find(name := clean_name(who))
        if found is None:
            raise UnknownPerson(f"{store.name}: no person is called {name!r}")
        return found
    there = store.get([who.id]) if 0 < who.id < 2**63 else []
    if not there:
        raise UnknownPerson(f"{store.name}: no person has the id {who.id}")
    if who.fingerprint is not None and fingerprint(there[0], store.photos(who.id)) != who.fingerprint:
        raise Stale(
            f"{store.name}: {there[0].state.name!r} was changed since you read it; read it again before changing it"
        )
    return there[0]


def rename(store: Store, old: PersonRef, new: str) -> Done:
    """Give a person another name; raise `NameTaken` if another person has it."""
    new = clean_name(new)

    def change() -> Change | None:
        person, other = person_called(store, old), store.find(new)
        if person.state.name == new:
            return None
        if other is not None:
            raise NameTaken(f"{store.name}: another person is called {new!r} already; merge joins the two", other.id)
        after = dataclasses.replace(person.state, name=new)
        return Change("rename", f"{person.state.name} is {new}", (PersonChange(person.id, person.state, after),))

    return Done(_apply(store, change))


def edit(
    store: Store,
    name: PersonRef,
    *,
    new_name: str | None = None,
    external_id: str | None = None,
    metadata: dict[str, Any] | None = None,
    templates: str | None = None,
) -> Done:
    """Change the fields that are not None. Raise `NameTaken` if another person has the new name or external id."""
    given: dict[str, Any] = {}
    if new_name is not None:
        given["name"] = clean_name(new_name)
    if external_id is not None:
        given["external_id"] = checked_external_id(external_id)
    if metadata is not None:
        given["metadata"] = checked_metadata(metadata)
    if templates is not None:
        given["templates"] = checked_templates(templates)

    def change() -> Change | None:
        person = person_called(store, name)
        after = dataclasses.replace(person.state, **given)
        if after == person.state:
            return None
        if after.name != person.state.name and (other := store.find(after.name)):
            raise NameTaken(
                f"{store.name}: another person is called {after.name!r} already; merge joins the two", other.id
            )
        if external_id and (other := store.find_external(external_id)) and other.id != person.id:
            raise NameTaken(f"{store.name}: {other.state.name!r} has the external id {external_id!r} already", other.id)
        kind, text = "edit", f"{person.state.name}: {', '.join(given)}"
        if dataclasses.replace(person.state, name=after.name) == after:
            kind, text = "rename", f"{person.state.name} is {after.name}"
        return Change(kind, text, (PersonChange(person.id, person.state, after),))

    return Done(_apply(store, change))


def checked_templates(templates: str) -> str:
    """Return `templates` if it is `mean`, `best`, or "" for the collection's setting; otherwise raise `ValueError`."""
    if templates not in TEMPLATES:
        raise ValueError(f"templates must be 'mean' or 'best', got {templates!r}")
    return templates


def remove(store: Store, name: PersonRef) -> Done:
    """Remove a person with all photos; the removal can be undone until the person is erased."""
    n_photos = 0

    def change() -> Change:
        nonlocal n_photos
        person = person_called(store, name)
        photos = store.photos(person.id)
        n_photos = len(photos)
        return Change(
            "remove", person.state.name, (PersonChange(person.id, person.state, None),),
            tuple(PhotoChange(photo.id, person.id, None) for photo in photos),
        )  # fmt: skip

    return Done(_apply(store, change), n_photos)


def remove_photos(store: Store, name: PersonRef, numbers: Sequence[int], *, reject: bool = False) -> Done:
    """Remove some photos of a person. If no photos are left, the person is removed too.

    `reject` records that the photos do not show this person: the same crops are never enrolled for the person again.
    With `reject`, raise `Refused` if no photos would be left.
    """

    def change() -> Change:
        person, photos, left = _chosen(store, name, numbers)
        after: PersonState | None = person.state
        if reject:
            digests = dict.fromkeys((*person.state.rejected, *(photo.digest for photo in photos)))
            after = dataclasses.replace(person.state, rejected=tuple(digests))
        elif not left:
            after = None
        if not left and reject:
            raise Refused(
                f"{store.name}: {person.state.name!r} has no other photos; remove the person, or move the photos to another name"
            )
        people = () if after == person.state else (PersonChange(person.id, person.state, after),)
        kind = "reject" if reject else "remove"
        text = f"{len(photos)} photo{'' if len(photos) == 1 else 's'} of {person.state.name}"
        return Change(kind, text, people, tuple(PhotoChange(photo.id, person.id, None) for photo in photos))

    return Done(_apply(store, change), len(set(numbers)))


def move(store: Store, name: PersonRef, numbers: Sequence[int], to: str, *, reject: bool = False) -> Done:
    """Move some photos of a person to the person called `to`, who may be new.

    If the old person has no photos left, that person is removed. Otherwise `reject` records that the photos do not show
    the old person: the same crops are never enrolled for that person again.
    """
    to = clean_name(to)

    def change() -> Change:
        person, photos, left = _chosen(store, name, numbers)
        other = store.find(to)
        if other is not None and other.id == person.id:
            raise Refused(f"{store.name}: the photos already belong to {to!r}")
        if other is not None and (refused := set(other.state.rejected) & {photo.digest for photo in photos}):
            raise Refused(f"{store.name}: {len(refused)} of these photos were rejected as not showing {to}")
        people = []
        if not left:
            people.append(PersonChange(person.id, person.state, None))
        elif reject:
            digests = dict.fromkeys((*person.state.rejected, *(photo.digest for photo in photos)))
            after = dataclasses.replace(person.state, rejected=tuple(digests))
            people.append(PersonChange(person.id, person.state, after))
        if other is None:
            people.append(PersonChange(0, None, PersonState(to)))
        owner = 0 if other is None else other.id
        text = f"{len(photos)} photo{'' if len(photos) == 1 else 's'} of {person.state.name} to {to}"
        moved = tuple(PhotoChange(photo.id, person.id, owner) for photo in photos)
        return Change("split" if other is None else "move", text, tuple(people), moved)

    return Done(_apply(store, change), len(set(numbers)))


def merge(store: Store, names: Sequence[PersonRef], into: PersonRef) -> Done:
    """Move all photos of the people `names` to the person `into`, and remove those people."""
    moved = 0

    def change() -> Change | None:
        nonlocal moved
        target = person_called(store, into)
        people, photos, state = [], [], target.state
        given = {person.id: person for person in (person_called(store, one) for one in names)}
        for person in given.values():
            if person.id == target.id:
                continue
            people.append(PersonChange(person.id, person.state, None))
            photos += [PhotoChange(photo.id, person.id, target.id) for photo in store.photos(person.id)]
            if not state.external_id and person.state.external_id:
                state = dataclasses.replace(state, external_id=person.state.external_id)
            state = dataclasses.replace(
                state,
                metadata={**person.state.metadata, **state.metadata},
                rejected=tuple(dict.fromkeys((*state.rejected, *person.state.rejected))),
            )
        moved = len(photos)
        if not people:
            return None
        gone = ", ".join(one.before.name for one in people if one.before is not None)
        if state != target.state:
            people.append(PersonChange(target.id, target.state, state))
        return Change("merge", f"{gone} into {target.state.name}", tuple(people), tuple(photos))

    return Done(_apply(store, change), moved)


def merged_into(store: Store, person: int) -> list[int]:
    """Return the ids of removed people who were merged into the person with this id, directly or through other people.

    They are the same person under other names, so they must be erased together with this person.
    """
    merges = [
        one.change for one in store.log(_LOG_LIMIT) if one.kind == "merge" and one.change is not None and not one.undone
    ]
    found = [person]
    for number in found:  # the list grows while it is read
        for change in merges:
            if any(photo.after == number for photo in change.photos):
                found += [one.id for one in change.people if one.after is None and one.id not in found]
    there = {one.id for one in store.get(found[1:])}
    return [number for number in found[1:] if number not in there]


def undo(store: Store, number: int | None = None) -> LogEntry:
    """Undo the change with this number in the log, or else the last one that can be undone; return its log entry.

    Raise `GalleryError` if there is no such change, or if the same people or photos were changed since.
    """
    entries = store.log(_LOG_LIMIT)
    if number is None:
        chosen = next(
            (one for one in entries if one.change is not None and not one.undone and one.kind != "undo"), None
        )
    else:
        chosen = next((one for one in entries if one.id == number), None)
    if chosen is None:
        raise Refused(
            f"{store.name}: {'nothing is left to undo' if number is None else f'no change has the number {number}'}"
        )
    if chosen.change is None or chosen.undone:
        why = "was already undone" if chosen.undone else "cannot be undone: the people or photos were erased"
        raise Refused(f"{store.name}: change {chosen.id} {why}")
    text = f"{chosen.id}: {chosen.kind} {chosen.text}"
    try:
        store.apply(dataclasses.replace(chosen.change.inverse(), text=text), undoes=chosen.id)
    except Conflict as conflict:
        raise Refused(f"{conflict} (the same people or photos were changed later; undo that change first)") from None
    return chosen


def _apply(store: Store, make: Callable[[], Change | None]) -> int | None:
    """Apply the change that `make` builds from the present state, and retry on conflicts; return its number in the log.

    Return None if `make` does, because nothing has to change.
    """
    attempt = 0
    while (change := make()) is not None:
        attempt += 1
        try:
            return store.apply(change)
        except Conflict:
            if attempt == _N_ATTEMPTS:
                raise
    return None


def _chosen(store: Store, name: PersonRef, numbers: Sequence[int]) -> tuple[StoredPerson, list[StoredPhoto], int]:
    """Return the person, the photos with these ids, and how many other photos the person has."""
    person = person_called(store, name)
    photos = {photo.id: photo for photo in store.photos(person.id)}
    wrong = [number for number in numbers if number not in photos]
    if wrong:
        raise NoSuchPhoto(
            f"{store.name}: {person.state.name!r} has no photo {wrong[0]}; facespace gallery show lists them"
        )
    if not numbers:
        raise Refused(f"{store.name}: no photo was chosen; name at least one")
    chosen = [photos[number] for number in dict.fromkeys(numbers)]
    return person, chosen, len(photos) - len(chosen)
