"""Reads the log of a gallery at Qdrant."""

from __future__ import annotations

from typing import Any

from facespace.identification.stores.changes import change_from_json
from facespace.identification.stores.protocol import Change, LogEntry, PersonChange, PhotoChange
from facespace.identification.stores.qdrant_ledger import Ledger
from facespace.identification.stores.qdrant_points import GONE, LIVE, PHOTO_FIELDS, equal, one_of, where
from facespace.identification.stores.qdrant_server import models, parts


def log_entries(ledger: Ledger, limit: int) -> list[LogEntry]:
    """Return the last changes, latest first."""
    ledger.head()
    reader = ledger.reader
    if limit < 1:
        return []
    condition = where(equal("kind", "log"), equal("state", LIVE))
    order = models.OrderBy(key="id", direction=models.Direction.DESC)
    lines = list(ledger.server.scroll(ledger.records, condition, order=order, limit=limit))
    stored = [
        reader.object(reader.field(one, "change"), "a change in the log") if reader.field(one, "change") else None
        for one in lines
    ]
    enrolled = [
        (reader.integer(value.get("photo")), reader.integer(value.get("person")))
        for line, value in zip(lines, stored, strict=True)
        if value is not None and reader.field(line, "what") == "enroll"
    ]
    people, photos = _people(ledger, [one for _, one in enrolled]), _photos(ledger, [one for one, _ in enrolled])
    entries = []
    for line, value in zip(lines, stored, strict=True):
        kind, text = reader.text(reader.field(line, "what")), reader.text(reader.field(line, "text"))
        change = None
        if value is not None and kind == "enroll":
            change, text = _enrolment(value, people, photos)
        elif value is not None:
            try:
                change = change_from_json(kind, "", value)
            except ValueError as error:
                raise reader.damaged(str(error)) from None
        at, actor = reader.time(reader.field(line, "added")), reader.text(reader.field(line, "actor"))
        undone = bool(reader.field(line, "undone"))
        entries.append(LogEntry(reader.integer(reader.field(line, "id")), at, actor, kind, text, change, undone))
    return entries


def _enrolment(value: dict[str, Any], people: dict[int, Any], photos: dict[int, Any]) -> tuple[Change | None, str]:
    """Return the change of an enrolment, which is logged without a name, and its line for the user."""
    photo, person = value["photo"], value["person"]
    if photo not in photos or person not in people:
        return None, "a photo that was erased"
    state, source = people[person].state, photos[photo].photo.source
    new = (PersonChange(person, None, state),) if value.get("new") else ()
    text = f"{state.name}: {source}" if source else state.name
    return Change("enroll", "", new, (PhotoChange(photo, None, person),)), text


def _people(ledger: Ledger, ids: list[int]) -> dict[int, Any]:
    found = {}
    for part in parts(sorted(set(ids))):
        condition = where(equal("kind", "person"), one_of("state", [LIVE, GONE]), one_of("id", part))
        for record in ledger.server.scroll(ledger.records, condition):
            one = ledger.reader.person(record)
            found[one.id] = one
    return found


def _photos(ledger: Ledger, ids: list[int]) -> dict[int, Any]:
    found = {}
    for part in parts(sorted(set(ids))):
        condition = where(one_of("state", [LIVE, GONE]), one_of("id", part))
        for record in ledger.server.scroll(ledger.photos, condition, fields=PHOTO_FIELDS):
            one = ledger.reader.photo(record)
            found[one.photo.id] = one
    return found
