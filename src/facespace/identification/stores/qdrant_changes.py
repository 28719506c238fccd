"""Prepares and commits a change at Qdrant: reads the affected people and photos, changes them, and commits the result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.embedding.calibration import UNKNOWN_QUALITY
from facespace.identification.stores.protocol import (
    Change,
    Conflict,
    Entry,
    PersonChange,
    PersonState,
    PhotoChange,
    StoredPhoto,
)
from facespace.identification.stores.qdrant_ledger import Intent, Ledger, log_line
from facespace.identification.stores.qdrant_points import (
    DUMMY,
    GONE,
    LIVE,
    PHOTO_FIELDS,
    STAGED,
    Head,
    PersonPoint,
    PhotoPoint,
    equal,
    new_point,
    one_of,
    photo_payload,
    point,
    where,
)
from facespace.identification.stores.qdrant_server import parts
from facespace.metrics.unit_vectors import to_unit_length


class Draft:
    """The people and photos that a change affects: their state on the server at `head`, and their new state."""

    def __init__(self, ledger: Ledger, head: Head, actor: str) -> None:
        self.ledger = ledger
        self.head = head
        self.people: dict[int, PersonPoint] = {}
        self.photos: dict[int, PhotoPoint] = {}
        self._now = int(time.time())
        self._actor = actor
        self._old_people: dict[int, PersonPoint] = {}
        self._old_photos: dict[int, PhotoPoint] = {}
        self._new: dict[int, tuple[dict[str, Any], npt.NDArray[np.float16]]] = {}
        self._loaded: set[int] = set()  # people of whom all photos were read
        self.intent = Intent(head)

    # Reading

    def called(self, name: str) -> PersonPoint | None:
        """Return the person with that name, or None."""
        return self._first("name", name)

    def _first(self, field: str, value: str) -> PersonPoint | None:
        condition = where(equal("kind", "person"), equal("state", LIVE), equal(field, value))
        for record in self.ledger.server.scroll(self.ledger.records, condition, limit=1):
            one = self.ledger.reader.person(record)
            self._keep(one)
            return self.people[one.id]
        return None

    def load_people(self, ids: Iterable[int]) -> None:
        """Read the people with these ids, including removed people."""
        for part in parts([one for one in sorted(set(ids)) if one > 0 and one not in self.people]):
            condition = where(equal("kind", "person"), one_of("state", [LIVE, GONE]), one_of("id", part))
            for record in self.ledger.server.scroll(self.ledger.records, condition):
                self._keep(self.ledger.reader.person(record))

    def load_photos(self, ids: Iterable[int]) -> None:
        """Read the photos with these ids, including removed photos."""
        self._read_photos("id", [one for one in sorted(set(ids)) if one > 0], [LIVE, GONE])

    def load_photos_of(self, people: Iterable[int]) -> None:
        """Read all photos of these people that are not removed."""
        missing = [one for one in sorted(set(people)) if one > 0 and one not in self._loaded]
        self._read_photos("person", missing, [LIVE])
        self._loaded |= set(missing)

    def _read_photos(self, field: str, values: Sequence[int], states: Sequence[str]) -> None:
        for part in parts(values):
            condition = where(one_of("state", states), one_of(field, part))
            for record in self.ledger.server.scroll(self.ledger.photos, condition, fields=PHOTO_FIELDS):
                one = self.ledger.reader.photo(record)
                self._old_photos.setdefault(one.photo.id, one)
                self.photos.setdefault(one.photo.id, one)

    def _keep(self, one: PersonPoint) -> None:
        self._old_people.setdefault(one.id, one)
        self.people.setdefault(one.id, one)

    # Changing

    def put_person(self, key: int, state: PersonState) -> int:
        """Set a person's state; a new person, whose `key` is 0 or less, gets an id. Return the id."""
        if key > 0:
            self.people[key] = dataclasses.replace(self.people[key], state=state, live=True, gone=0)
            return key
        key = self.head.last_person + 1
        self.head = dataclasses.replace(self.head, last_person=key)
        self.people[key] = PersonPoint(new_point(), key, state, True, 0, self._now)
        self._loaded.add(key)
        return key

    def add_photo(self, entry: Entry, vector: npt.NDArray[np.float16], owner: int) -> int:
        """Add a new photo to a person; return its id."""
        key = self.head.last_photo + 1
        self.head = dataclasses.replace(self.head, last_photo=key)
        self._new[key] = (photo_payload(entry, key, owner, self._now, self._actor), vector)
        photo = StoredPhoto(
            key, owner, entry.digest, entry.source, entry.made_by, self._actor, "", entry.quality, entry.metadata,
            entry.crop is not None,
        )  # fmt: skip
        self.photos[key] = PhotoPoint(new_point(), photo, True, self._now)
        return key

    def apply(self, change: Change) -> Change:
        """Apply a change to the draft; return it with the ids of new people. Raise `Conflict` as `Store.apply` does."""
        for what in (change.people, change.photos):
            if len({one.id for one in what}) != len(what):
                raise ValueError("a change must name each person and each photo once")
        owners = {one for photo in change.photos for one in (photo.before, photo.after) if one is not None}
        self.load_people({one.id for one in change.people} | owners)
        self.load_photos(photo.id for photo in change.photos)
        self.load_photos_of(owners)
        # All old names and external ids are freed before any new name or external id is taken.
        for one in change.people:
            self._check_person(one)
            if one.before is not None:
                self.people[one.id] = dataclasses.replace(self.people[one.id], live=False, gone=self._now)
        ids: dict[int, int] = {}
        for one in change.people:
            if one.after is not None:
                self._check_free(one)
                ids[one.id] = self.put_person(one.id, one.after)
        photos = [self._move(photo, ids) for photo in change.photos]
        people = tuple(one._replace(id=ids.get(one.id, one.id)) for one in change.people)
        after = {photo.after for photo in photos if photo.after is not None}
        self._count()
        for key in owners | after | {one.id for one in people}:
            person = self.people.get(key)
            if (person is None and key in after) or (person is not None and person.n_photos and not person.live):
                raise Conflict(f"{self.ledger.server.name}: a photo would have no owner; try again")
            if person is not None and person.live and not person.n_photos:  # could never be identified
                raise Conflict(f"{self.ledger.server.name}: a person would have no photos; try again")
        return dataclasses.replace(change, people=people, photos=tuple(photos))

    def _check_person(self, change: PersonChange) -> None:
        if change.id <= 0:
            return
        held = self.people.get(change.id)
        if held is None or (held.state if held.live else None) != change.before:
            state = change.before or change.after
            name = "a person" if state is None else repr(state.name)
            raise Conflict(f"{self.ledger.server.name}: {name} was changed meanwhile; try again")

    def _check_free(self, change: PersonChange) -> None:
        assert change.after is not None
        taken = [("name", change.after.name)]
        if change.after.external_id:
            taken.append(("external", change.after.external_id))
        for field, value in taken:
            self._first(field, value)  # adds the person to self.people
            for one in self.people.values():
                held = one.state.name if field == "name" else one.state.external_id
                if one.live and held == value and one.id != change.id:
                    what = "is called" if field == "name" else "has the external id"
                    raise Conflict(f"{self.ledger.server.name}: another person {what} {value!r} already")

    def _move(self, change: PhotoChange, ids: dict[int, int]) -> PhotoChange:
        """Give a photo to a person, or remove it; a person keeps only one copy of a crop."""
        held = self.photos.get(change.id)
        if held is None or held.owner != change.before:
            raise Conflict(f"{self.ledger.server.name}: photo {change.id} was changed meanwhile; try again")
        owner = None if change.after is None else ids.get(change.after, change.after)
        digest = held.photo.digest
        if owner is not None and any(
            one.owner == owner and one.photo.digest == digest and one.photo.id != change.id
            for one in self.photos.values()
        ):
            owner = None
        if owner is None:
            self.photos[change.id] = dataclasses.replace(held, live=False, gone=self._now)
        else:
            photo = dataclasses.replace(held.photo, person=owner)
            self.photos[change.id] = dataclasses.replace(held, photo=photo, live=True, gone=0)
        return change._replace(after=owner)

    def _count(self) -> None:
        """Update the photo counts of the affected people, and the total counts."""
        n_photos = {key: self._old_people[key].n_photos if key in self._old_people else 0 for key in self.people}
        total = 0
        for key, one in self.photos.items():
            before, after = self._old_photos[key].owner if key in self._old_photos else None, one.owner
            for owner, step in ((before, -1), (after, 1)):
                if owner is not None:
                    n_photos[owner] = n_photos.get(owner, 0) + step
                    total += step
        for key, person in self.people.items():
            self.people[key] = dataclasses.replace(person, n_photos=max(0, n_photos[key]))
        old = sum(one.live for one in self._old_people.values())
        now = sum(one.live for one in self.people.values())
        start = self.intent.head
        self.head = dataclasses.replace(
            self.head, n_people=max(0, start.n_people + now - old), n_photos=max(0, start.n_photos + total)
        )

    # Deciding

    def set_templates(self, text: str) -> None:
        """Set the collection's setting `templates`, as JSON."""
        self.head = dataclasses.replace(self.head, templates=text)

    def log(self, what: str, text: str, change: str) -> int:
        """Add a line to the log; return its number."""
        key = self.head.last_log + 1
        self.head = dataclasses.replace(self.head, last_log=key)
        line = log_line(key, self._actor, what, text, change)
        self.intent.new_records.append(line)
        self.intent.logs.append(line.id)
        return key

    def take_back(self, line: str) -> None:
        """Mark a line of the log as undone."""
        self.intent.undone.append(line)

    def commit(self) -> bool:
        """Commit the change; return False if another process was first."""
        self._count()
        self._put_rows()
        start, intent = self.intent.head, self.intent
        intent.head = self.head
        for key, person in self.people.items():
            if person == self._old_people.get(key):
                continue
            payload = {**person.payload(), "state": LIVE if person.live else GONE}
            intent.people.append((payload, [person.point]))
            if key not in self._old_people:
                intent.new_records.append(point(person.point, DUMMY, {**payload, "state": STAGED, "v": 0}))
        groups: dict[tuple[int, bool], list[str]] = {}
        for key, photo in self.photos.items():
            if photo != self._old_photos.get(key):
                groups.setdefault((photo.photo.person, photo.live), []).append(photo.point)
            if key in self._new:
                payload, vector = self._new[key]
                intent.new_photos.append(point(photo.point, vector.astype(float).tolist(), payload))
        for (owner, live), points in groups.items():
            gone = {"state": GONE, "gone": self._now}
            intent.photos.append(({"state": LIVE, "person": owner, "gone": 0} if live else gone, points))
        return self.ledger.commit(start, intent)

    def _put_rows(self) -> None:
        """Recompute the search rows of people whose photos or `templates` changed."""
        default = self.ledger.reader.default_rows(self.head)
        changed = []
        for key, person in self.people.items():
            rows = person.state.templates or default
            self.people[key] = dataclasses.replace(person, rows=rows)
            if person.n_photos > 1 and rows != person.rows:
                self.load_photos_of([key])
            if (
                key in self._loaded and self._photos_of(key, self.photos) != self._photos_of(key, self._old_photos)
            ) or (person.n_photos > 1 and rows != person.rows):
                changed.append(key)
        for part in parts(changed):
            self._put_rows_of(part)

    def _put_rows_of(self, people: Sequence[int]) -> None:
        server, condition = self.ledger.server, where(equal("state", LIVE), one_of("person", people))
        stored: dict[int, list[Any]] = {}
        for record in server.scroll(self.ledger.rows, condition):
            stored.setdefault(self.ledger.reader.integer(self.ledger.reader.field(record, "person")), []).append(record)
        needed: list[tuple[int, list[int]]] = []
        for key in people:
            photos = self._photos_of(key, self.photos)
            single = len(photos) == 1 or self.people[key].rows == "best"
            there = {self.ledger.reader.field(one, "photo"): str(one.id) for one in stored.get(key, [])}
            kept = set(photos) & set(there) if single else set()
            stay = {there[one] for one in kept}
            self.intent.deleted_rows += [str(one.id) for one in stored.get(key, []) if str(one.id) not in stay]
            needed += [(key, [one]) for one in photos if one not in kept] if single else [(key, photos)]
        vectors = self._vectors([photo for _, photos in needed for photo in photos])
        for key, photos in needed:
            if not photos:
                continue
            qualities = [self.photos[one].photo.quality for one in photos]
            known = np.array([UNKNOWN_QUALITY if one is None else one for one in qualities], np.float32)
            vector = mean_of([vectors[one] for one in photos])
            payload = {
                "person": key, "photo": photos[0] if len(photos) == 1 else 0, "n_photos": len(photos),
                "quality": float(known.mean()), "state": STAGED, "added": self._now,
            }  # fmt: skip
            row = point(new_point(), vector.astype(float).tolist(), payload)
            self.intent.new_rows.append(row)
            self.intent.added_rows.append(row.id)

    def _photos_of(self, person: int, photos: dict[int, PhotoPoint]) -> list[int]:
        return sorted(key for key, one in photos.items() if one.owner == person)

    def _vectors(self, photos: Sequence[int]) -> dict[int, npt.NDArray[np.float16]]:
        found = {key: self._new[key][1] for key in photos if key in self._new}
        places = {self.photos[key].point: key for key in photos if key not in found}
        records = self.ledger.server.read(self.ledger.photos, list(places), vectors=True, fields=False)
        if len(records) != len(places):
            raise self.ledger.reader.damaged("the vector of a photo is missing")
        dimension = self.ledger.dimension() if records else 0
        vectors = self.ledger.reader.vectors(records, dimension or 0)
        return found | {places[str(one.id)]: vector for one, vector in zip(records, vectors, strict=True)}


def mean_of(vectors: Sequence[npt.NDArray[np.float16]]) -> npt.NDArray[np.float16]:
    """Return the mean (D,) of unit vectors, scaled to length 1; a single vector is returned unchanged.

    >>> mean_of([np.array([1, 0], np.float16), np.array([0, 1], np.float16)]).tolist()
    [0.70703125, 0.70703125]
    """
    if len(vectors) == 1:
        return vectors[0]
    return to_unit_length(np.array(vectors).astype(np.float64).sum(axis=0)).astype(np.float16)
