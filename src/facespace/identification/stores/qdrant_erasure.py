"""Permanently erases removed people and photos at Qdrant."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from facespace.identification.stores.qdrant_changes import Draft
from facespace.identification.stores.qdrant_points import (
    GONE,
    LIVE,
    PHOTO_FIELDS,
    PersonPoint,
    PhotoPoint,
    below,
    equal,
    one_of,
    where,
)
from facespace.identification.stores.qdrant_server import parts

_STALE_SECONDS = 3600  # after this time, staged points of undecided changes are erased too


def erase_removed(draft: Draft, people: Sequence[int] | None, before: float | None) -> tuple[int, bool]:
    """Erase removed photos and people, also from the log; return the number of photos and whether it was committed."""
    ledger, reader, server = draft.ledger, draft.ledger.reader, draft.ledger.server
    latest = int(before) if before is not None else 2**62
    of: list[list[Any]] = [[]] if people is None else [list(part) for part in parts(people)]
    condition: Any
    gone: dict[int, PersonPoint] = {}
    photos: dict[int, PhotoPoint] = {}
    with_photos = ledger.dimension() is not None
    for part in of:
        among = (one_of("id", part),) if people is not None else ()
        condition = where(equal("kind", "person"), equal("state", GONE), below("gone", latest), *among)
        gone |= {one.id: one for one in map(reader.person, server.scroll(ledger.records, condition))}
        among = (one_of("person", part),) if people is not None else ()
        condition = where(equal("state", GONE), below("gone", latest), *among)
        found = server.scroll(ledger.photos, condition, fields=PHOTO_FIELDS) if with_photos else ()
        photos |= {one.photo.id: one for one in map(reader.photo, found)}
    for part in parts(sorted(gone)) if with_photos else ():
        condition = where(equal("state", GONE), one_of("person", part))
        found = server.scroll(ledger.photos, condition, fields=PHOTO_FIELDS)
        photos |= {one.photo.id: one for one in map(reader.photo, found)}
    left = ledger.staged_before(int(time.time()) - _STALE_SECONDS)
    if not photos and not gone and not any(left.values()):
        return 0, True
    owners = sorted({one.photo.person for one in photos.values()} | set(gone))
    tokens = {owner: f"somebody {secrets.token_hex(8)}" for owner in owners}
    for owner in owners:
        some = [one.photo for one in photos.values() if one.photo.person == owner]
        times, actors = [one.added for one in some], ", ".join(sorted({one.actor for one in some}))
        since = f", enrolled by {actors} between {min(times)} and {max(times)}" if times else ""
        draft.log("erase", f"{tokens[owner]}: {len(some)} photo{'' if len(some) == 1 else 's'}{since}", "")
    intent = draft.intent
    intent.erased = {
        "records": [*left.get("records", []), *(one.point for one in gone.values())],
        "photos": [*left.get("photos", []), *(one.point for one in photos.values())],
        "rows": left.get("rows", []),
    }
    _forget(draft, {key: tokens[one.photo.person] for key, one in photos.items()}, {one: tokens[one] for one in gone})
    return len(photos), draft.commit()


def _forget(draft: Draft, photos: dict[int, str], people: dict[int, str]) -> None:
    """Replace erased people and photos in lines of the log by random names; these lines can no longer be undone."""
    ledger, reader = draft.ledger, draft.ledger.reader
    condition = where(equal("kind", "log"), equal("state", LIVE))
    texts: dict[str, list[str]] = {}
    for record in ledger.server.scroll(ledger.records, condition):
        if not reader.field(record, "change"):
            continue
        value = reader.object(reader.field(record, "change"), "a change in the log")
        try:
            if reader.field(record, "what") == "enroll":
                moved, named = [value.get("photo")], [value.get("person")]
            else:
                moved = [one[0] for one in value.get("photos", [])]
                named = [one[0] for one in value.get("people", [])]
                named += [owner for one in value.get("photos", []) for owner in one[1:]]
            tokens = {people[one] for one in named if one in people} | {photos[one] for one in moved if one in photos}
        except (TypeError, IndexError, KeyError):
            raise reader.damaged("a change in the log is not valid") from None
        if tokens:
            texts.setdefault(", ".join(sorted(tokens)), []).append(str(record.id))
    draft.intent.forgotten += list(texts.items())
