"""Applies, undoes and erases changes of people and photos in the tables of an SQL store."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Sequence
from typing import Any

from facespace.identification.stores import tally
from facespace.identification.stores.changes import change_from_json
from facespace.identification.stores.protocol import Change, Conflict, PersonChange, PersonState, PhotoChange
from facespace.identification.stores.sql_tables import Cursor
from facespace.identification.stores.sql_values import SqlValues

_FACES_OF = "SELECT count(*) FROM face WHERE person = ? AND gone IS NULL"


def apply_change(store: SqlValues, cursor: Cursor, change: Change) -> tuple[Change, list[int]]:
    """Apply a change; return it with the ids of new people, and the ids of all whose templates may have changed."""
    for what in (change.people, change.photos):
        if len({one.id for one in what}) != len(what):
            raise ValueError("a change must name each person and each photo once")
    now, (n_people, n_photos), sum_ = int(time.time()), store._counts(cursor), store._tally(cursor)
    ids: dict[int, int] = {}
    # All old names and external ids are freed before any new name or external id is taken.
    for one in change.people:
        sum_ -= _check_person(store, cursor, one)
        if one.before is not None:
            cursor.change("UPDATE person SET gone = ? WHERE id = ?", (now, one.id))
    for one in change.people:
        if one.after is not None:
            _check_free(store, cursor, one)
            ids[one.id], stamp = _put_person(store, cursor, one, now)
            sum_ += stamp
        n_people += (one.after is not None) - (one.before is not None)
    touched: set[int] = set()
    done = []
    for photo in change.photos:
        owner = photo.after if photo.after is None else ids.get(photo.after, photo.after)
        owner = _move(store, cursor, photo, owner, now)
        sum_ += sum(
            sign * tally.of_photos([photo.id], [whose])
            for sign, whose in ((-1, photo.before), (1, owner))
            if whose is not None
        )
        done.append(photo._replace(after=owner))
        n_photos += (owner is not None) - (photo.before is not None)
        touched |= {one for one in (photo.before, owner) if one is not None}
    for person in touched | {ids.get(one.id, one.id) for one in change.people}:
        _check_owner(store, cursor, person)
    sql = "UPDATE collection SET n_people = ?, n_photos = ?, tally = ? WHERE id = ?"
    cursor.change(sql, (n_people, n_photos, tally.added(sum_), store._collection_id))
    # A person's new state may change how their templates are made, even if the photos stay the same.
    touched |= {ids.get(one.id, one.id) for one in change.people}
    people = tuple(one._replace(id=ids.get(one.id, one.id)) for one in change.people)
    return dataclasses.replace(change, people=people, photos=tuple(done)), sorted(touched)


def _check_person(store: SqlValues, cursor: Cursor, change: PersonChange) -> int:
    """Return the stored person's stamp, or 0; raise `Conflict` if the stored person differs from the change's `before`."""
    if change.id <= 0:
        return 0
    rows = cursor.rows(
        "SELECT name, external_id, extra, gone, stamp FROM person WHERE id = ? AND collection = ?",
        (change.id, store._collection_id),
    )
    held = None
    if rows and rows[0][3] is None:
        held = store._state(*rows[0][:3])
    if not rows or held != change.before:
        raise Conflict(f"{store.name}: {_name_in(change)} was changed meanwhile; try again")
    return 0 if held is None else store._integer(rows[0][4])


def _check_free(store: SqlValues, cursor: Cursor, change: PersonChange) -> None:
    assert change.after is not None
    taken = [("name", change.after.name)] + (
        [("external_id", change.after.external_id)] if change.after.external_id else []
    )
    for column, value in taken:
        key = store._sealing.key_of_text(value)
        rows = cursor.rows(
            f"SELECT id FROM person WHERE collection = ? AND gone IS NULL AND {column} = ?",
            (store._collection_id, key),
        )
        if any(key != change.id for (key,) in rows):
            what = "is called" if column == "name" else "has the external id"
            raise Conflict(f"{store.name}: another person {what} {value!r} already")


def _put_person(store: SqlValues, cursor: Cursor, change: PersonChange, now: int) -> tuple[int, int]:
    """Store the person's new state; return the id and the new stamp."""
    state: PersonState = change.after  # type: ignore[assignment]
    if change.id <= 0:
        return store._new_person(cursor, state, now)
    values, stamp = store._columns_of(state), tally.new_stamp()
    sql = "UPDATE person SET name = ?, external_id = ?, extra = ?, gone = NULL, stamp = ? WHERE id = ?"
    cursor.change(sql, (*values, stamp, change.id))
    return change.id, stamp


def _move(store: SqlValues, cursor: Cursor, photo: PhotoChange, owner: int | None, now: int) -> int | None:
    """Give a photo to a person, or remove it; return its new owner."""
    rows = cursor.rows(
        "SELECT face.person, face.gone FROM face JOIN person ON person.id = face.person"
        " WHERE face.id = ? AND person.collection = ?",
        (photo.id, store._collection_id),
    )
    held = rows[0][0] if rows and rows[0][1] is None else None
    if not rows or held != photo.before:
        raise Conflict(f"{store.name}: photo {photo.id} was changed meanwhile; try again")
    twice = (
        "SELECT a.id FROM face a JOIN face b ON b.digest = a.digest AND b.id = ? WHERE a.person = ? AND a.gone IS NULL"
        " AND a.id <> b.id"
    )
    if owner is None or cursor.rows(twice, (photo.id, owner)):  # a person keeps only one copy of a crop
        cursor.change("UPDATE face SET gone = ? WHERE id = ?", (now, photo.id))
        return None
    cursor.change("UPDATE face SET person = ?, gone = NULL WHERE id = ?", (owner, photo.id))
    return owner


def _check_owner(store: SqlValues, cursor: Cursor, person: int) -> None:
    rows = cursor.rows("SELECT gone, collection FROM person WHERE id = ?", (person,))
    ((n_photos,),) = cursor.rows(_FACES_OF, (person,))
    is_there = bool(rows) and tuple(rows[0]) == (None, store._collection_id)
    if n_photos and not is_there:
        raise Conflict(f"{store.name}: a photo would have no owner; try again")
    if is_there and not n_photos:  # a person without photos cannot be identified, and breaks the counts
        raise Conflict(f"{store.name}: a person would have no photos; try again")


def _name_in(change: PersonChange) -> str:
    state = change.before or change.after
    return "a person" if state is None else repr(state.name)


def logged_change(store: SqlValues, cursor: Cursor, kind: Any, stored: Any) -> tuple[Change | None, str]:
    """Return the change stored in a row of the log (None without one), and a line for the user.

    The line is made only for an enrolment, whose row has no text; for other changes it is empty.
    """
    if stored is None:
        return None, ""
    value = store._object(store._opened(stored), "a change in the log")
    try:
        if kind != "enroll":
            return change_from_json(str(kind), "", value), ""
        photo, person = store._integer(value.get("photo")), store._integer(value.get("person"))
    except ValueError as error:
        raise store._damaged(str(error)) from None
    rows = cursor.rows(
        "SELECT p.name, p.external_id, p.extra, face.source FROM person p JOIN face ON face.id = ? WHERE p.id = ?",
        (photo, person),
    )
    if not rows:
        return None, "a photo that was erased"
    name, external_id, extra, source = rows[0]
    state = store._state(name, external_id, extra)
    people = (PersonChange(person, None, state),) if value.get("new") else ()
    change = Change("enroll", "", people, (PhotoChange(photo, None, person),))
    return change, f"{state.name}: {opened}" if (opened := store._opened(source)) else state.name


def erase_removed(
    store: SqlValues, cursor: Cursor, people: Sequence[int] | None, before: float | None
) -> tuple[int, list[str], list[int]]:
    """Erase removed photos and people, and their traces in the log.

    Return how many photos were erased, a line for the log about each person, and the ids of the photos' owners.
    """
    latest = int(before) if before is not None else 2**62
    of = "SELECT id FROM person WHERE collection = ?"
    values: tuple[Any, ...] = (store._collection_id,)
    if people is not None:
        of += f" AND id IN ({', '.join('?' * len(people)) or 'NULL'})"  # PostgreSQL does not allow an empty list
        values += tuple(people)
    photos = cursor.rows(
        f"SELECT face.id, face.person, making.actor, face.added FROM face LEFT JOIN making ON making.id = face.making"
        f" WHERE face.person IN ({of}) AND (face.gone < ? OR face.person IN (SELECT id FROM person WHERE gone < ?))",
        (*values, latest, latest),
    )
    gone = [key for (key,) in cursor.rows(f"{of} AND gone < ?", (*values, latest))]
    for photo, *_ in photos:
        cursor.change("DELETE FROM crop WHERE face = ?", (photo,))
        cursor.change("DELETE FROM face WHERE id = ?", (photo,))
    for person in gone:
        cursor.change("DELETE FROM person WHERE id = ?", (person,))
    owners = sorted({owner for _, owner, *_ in photos} | set(gone))
    tokens = {owner: f"somebody {secrets.token_hex(8)}" for owner in owners}
    _forget(store, cursor, {key: tokens[owner] for key, owner, *_ in photos}, {one: tokens[one] for one in gone})
    texts = []
    for owner in owners:
        of_owner = [(actor, added) for _, one, actor, added in photos if one == owner]
        times = [store._time(added) for _, added in of_owner]
        actors = ", ".join(sorted({store._text(actor) for actor, _ in of_owner}))
        since = f", enrolled by {actors} between {min(times)} and {max(times)}" if times else ""
        n = len(of_owner)
        texts.append(f"{tokens[owner]}: {n} photo{'' if n == 1 else 's'}{since}")
    return len(photos), texts, owners


def _forget(store: SqlValues, cursor: Cursor, photos: dict[int, str], people: dict[int, str]) -> None:
    """Replace erased people and photos in log entries by random names; these entries can no longer be undone."""
    if not photos and not people:
        return
    rows = cursor.rows(
        "SELECT id, kind, change FROM log WHERE collection = ? AND change IS NOT NULL", (store._collection_id,)
    )
    for key, kind, stored in rows:
        value = store._object(store._opened(stored), "a change in the log")
        if kind == "enroll":
            moved, named = [value.get("photo")], [value.get("person")]
        else:
            moved = [one[0] for one in value.get("photos", [])]
            named = [one[0] for one in value.get("people", [])]
            named += [owner for one in value.get("photos", []) for owner in one[1:]]
        tokens = {people[one] for one in named if one in people} | {photos[one] for one in moved if one in photos}
        if tokens:
            text = store._sealing.seal_text(", ".join(sorted(tokens)))
            cursor.change("UPDATE log SET change = NULL, text = ? WHERE id = ?", (text, key))
