"""Reads and writes many people with all their photos in an SQL store, many in one statement and in one change."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from facespace.identification.stores import tally
from facespace.identification.stores.changes import change_to_json
from facespace.identification.stores.protocol import Change, Entry, PersonChange, PersonState, PhotoChange, StoredPerson
from facespace.identification.stores.records import Counts, PersonRecord, PhotoRecord, joined, seconds_of
from facespace.identification.stores.sql import SqlStore
from facespace.identification.stores.sql_tables import Cursor, Row

_VALUES_PER_STATEMENT = 500


def read_people(store: SqlStore, people: Sequence[StoredPerson]) -> Iterator[PersonRecord]:
    """Yield these people with all their photos, leaving out those without photos; raise `GalleryError` for damage."""
    rows: list[Row] = []
    with store._read() as cursor:
        for part in _parts([one.id for one in people]):
            rows += cursor.rows(
                "SELECT face.person, face.digest, face.source, making.text, making.actor, face.added, face.quality, face.extra,"
                " face.vector, crop.face, crop.data FROM face LEFT JOIN making ON making.id = face.making"
                " LEFT JOIN crop ON crop.face = face.id"
                f" WHERE face.person IN ({_marks(part)}) AND face.gone IS NULL ORDER BY face.person, face.id",
                part,
            )
    dimension = len(store._opened_bytes(rows[0][8])) // 2 if rows else 0
    vectors = store._vectors_of([row[8] for row in rows], dimension).astype(np.float32)
    photos: dict[int, list[PhotoRecord]] = {}
    for row, vector in zip(rows, vectors, strict=True):
        person, column, source, making, actor, added, quality, extra, _, face, crop = row
        digest, metadata = store._photo_fields(column, extra)
        entry = Entry(
            vector, digest, store._opened(source), store._text(making), store._quality(quality), metadata,
            None if face is None else store._opened_bytes(crop),
        )  # fmt: skip
        record = PhotoRecord(entry, store._time(added), store._text(actor))
        photos.setdefault(store._integer(person), []).append(record)
    for one in people:
        if one.id in photos:
            yield PersonRecord(one.state, one.added, tuple(photos[one.id]))


def add_people(
    store: SqlStore, people: Sequence[PersonRecord], *, text: str, skip_known: bool, undoable: bool
) -> Counts:
    """Add people to the store in one change; see `bulk.add_people`."""
    counts, stamps = Counts(), 0
    changed: list[PersonChange] = []
    moved: list[PhotoChange] = []
    with store._write() as cursor:
        known = _known(store, cursor, people)
        taken = _external_ids(store, cursor, people)
        makings: dict[tuple[str, str], int] = {}
        for record in people:
            held = known.get(record.state.name)
            if held is not None and skip_known:
                counts = counts.plus(Counts(known_people=1))
                continue
            digests = _digests(store, cursor, held.id) if held is not None else set()
            plan = joined(record, held.state if held is not None else None, digests, _is_free(store, taken, held))
            counts = counts.plus(plan.counts)
            before = None if held is None else held.state
            if held is None:
                owner, stamp = store._new_person(cursor, plan.state, seconds_of(record.added))
                stamps += stamp
            else:
                owner = held.id
                if plan.state != held.state:
                    stamps += _set_state(store, cursor, owner, plan.state)
            if plan.state.external_id:
                taken[store._sealing.key_of_text(plan.state.external_id)] = owner
            photos = [_new_photo(store, cursor, owner, one, makings) for one in plan.photos]
            if before != plan.state or photos:
                known[record.state.name] = StoredPerson(owner, plan.state, 0, record.added)
            if before != plan.state:
                changed.append(PersonChange(owner, before, plan.state))
            moved += [PhotoChange(one, None, owner) for one in photos]
        if not changed and not moved:
            return counts
        photos_and_owners = [one.id for one in moved], [one.after for one in moved if one.after is not None]
        sum_ = tally.added(store._tally(cursor), tally.of_photos(*photos_and_owners), stamps)
        sql = "UPDATE collection SET n_people = n_people + ?, n_photos = n_photos + ?, tally = ? WHERE id = ?"
        cursor.change(sql, (counts.new_people, counts.new_photos, sum_, store._collection_id))
        change = Change("import", text, tuple(changed), tuple(moved))
        store._log(cursor, "import", text, change_to_json(change) if undoable else None)
        owners = itertools.chain((one.id for one in changed), (one.after for one in moved if one.after is not None))
        store._touch(cursor, list(dict.fromkeys(owners)))
    return counts


def _known(store: SqlStore, cursor: Cursor, people: Sequence[PersonRecord]) -> dict[str, StoredPerson]:
    """Return the people who are already in the store, by name."""
    found: dict[str, StoredPerson] = {}
    for part in _parts([store._sealing.key_of_text(one.state.name) for one in people]):
        rows = cursor.rows(
            "SELECT id, name, external_id, extra, 0, 0 FROM person"
            f" WHERE collection = ? AND gone IS NULL AND name IN ({_marks(part)})",
            (store._collection_id, *part),
        )
        found |= {one.state.name: one for one in store._people_of(rows)}
    return found


def _external_ids(store: SqlStore, cursor: Cursor, people: Sequence[PersonRecord]) -> dict[str, int]:
    """Return which people in the store have these external ids: external id as stored → person."""
    found: dict[str, int] = {}
    keys = [store._sealing.key_of_text(one.state.external_id) for one in people if one.state.external_id]
    for part in _parts(keys):
        sql = f"SELECT external_id, id FROM person WHERE collection = ? AND gone IS NULL AND external_id IN ({_marks(part)})"
        found |= {str(key): store._integer(person) for key, person in cursor.rows(sql, (store._collection_id, *part))}
    return found


def _is_free(store: SqlStore, taken: dict[str, int], held: StoredPerson | None) -> Callable[[str], bool]:
    allowed = (None, None if held is None else held.id)
    return lambda external_id: taken.get(store._sealing.key_of_text(external_id)) in allowed


def _set_state(store: SqlStore, cursor: Cursor, person: int, state: PersonState) -> int:
    """Change a person's fields; return the difference between the new and the old stamp."""
    ((before,),) = cursor.rows("SELECT stamp FROM person WHERE id = ?", (person,))
    stamp = tally.new_stamp()
    sql = "UPDATE person SET name = ?, external_id = ?, extra = ?, stamp = ? WHERE id = ?"
    cursor.change(sql, (*store._columns_of(state), stamp, person))
    return stamp - store._integer(before)


def _digests(store: SqlStore, cursor: Cursor, person: int) -> set[str]:
    rows = cursor.rows("SELECT digest, extra FROM face WHERE person = ? AND gone IS NULL", (person,))
    return {store._photo_fields(digest, extra)[0] for digest, extra in rows}


def _new_photo(
    store: SqlStore, cursor: Cursor, owner: int, photo: PhotoRecord, makings: dict[tuple[str, str], int]
) -> int:
    making = photo.entry.made_by, photo.actor
    if making not in makings:
        makings[making] = store._making(cursor, *making)
    return store._new_photo(cursor, owner, photo.entry, makings[making], seconds_of(photo.added))


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _VALUES_PER_STATEMENT):
        yield values[start : start + _VALUES_PER_STATEMENT]


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
