"""People and their photos as the API returns them: ids, ETags, cursors, and the pages of a list."""

from __future__ import annotations

import base64
import binascii
import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from facespace.identification import edits
from facespace.identification.edits import Seen
from facespace.identification.gallery import Gallery
from facespace.identification.stores.changes import MAX_METADATA_DEPTH, depth_of
from facespace.identification.stores.protocol import Store, StoredPerson, StoredPhoto
from facespace.io.text import clean_name, one_line
from facespace.server.problems import Problem

MAX_PAGE = 500  # people in one answer
MAX_SCANNED = 20_000  # people whose names one request searches
MAX_PERSON_PHOTOS = 1_000  # photos of one person listed in one answer
_BATCH = 1_000
_ID = re.compile("[1-9][0-9]{0,18}")
_TAG = re.compile(r'(W/)?"([^"]*)"')
_SHOWN = 40

EXAMPLE_PHOTO: dict[str, Any] = {
    "id": "7", "source": "party.jpg", "added": "2026-01-02T03:04:05Z", "quality": 0.81, "metadata": {}, "has_crop": True,
    "actor": "front desk (key 3f9a)",
}  # fmt: skip
EXAMPLE_PERSON: dict[str, Any] = {
    "id": "3", "name": "Ada Lovelace", "external_id": "emp-17", "metadata": {"team": "engines"}, "templates": "",
    "n_photos": 2, "added": "2026-01-02T03:04:05Z", "etag": "5f1c0a9d7be24c31a8e0d9b4", "cover": "7",
}  # fmt: skip

R = TypeVar("R")


class Person(BaseModel):
    """One enrolled person."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_PERSON]})

    id: str
    name: str
    external_id: str = Field(description="The person's id in another system; empty if not set.")
    metadata: dict[str, Any]
    templates: str = Field(
        description="Whether faces are compared with the `mean` or the `best` of the photos; empty for the collection's choice."
    )
    n_photos: int
    added: str = Field(description="When the person was enrolled, UTC.")
    etag: str = Field(description="Changes with the person and the photos; send it in quotes as If-Match.")
    cover: str | None = Field(description="The id of the photo whose crop represents the person.")


class PhotoEntry(BaseModel):
    """One photo of a person."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_PHOTO]})

    id: str
    source: str = Field(description="Where the photo came from, such as its file name.")
    added: str
    quality: float | None
    metadata: dict[str, Any]
    has_crop: bool
    actor: str = Field(description="The key or user that enrolled it.")


class PersonWithPhotos(Person):
    """One person with their photos."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**EXAMPLE_PERSON, "photos": [EXAMPLE_PHOTO]}]})

    photos: list[PhotoEntry]


def person_entry(store: Store, person: StoredPerson, photos: list[StoredPhoto] | None = None) -> dict[str, Any]:
    """Return a person as JSON."""
    if photos is None:
        photos = store.photos(person.id)
    state = person.state
    with_crop = [photo for photo in photos if photo.has_crop]
    cover = max(with_crop, key=lambda photo: photo.quality or 0.0, default=None)
    return {
        "id": str(person.id), "name": state.name, "external_id": state.external_id, "metadata": encodable(state.metadata),
        "templates": state.templates, "n_photos": len(photos), "added": person.added,
        "etag": edits.fingerprint(person, photos), "cover": None if cover is None else str(cover.id),
    }  # fmt: skip


def photo_entry(photo: StoredPhoto) -> dict[str, Any]:
    """Return a photo as JSON."""
    return {
        "id": str(photo.id), "source": photo.source, "added": photo.added,
        "quality": None if photo.quality is None else round(photo.quality, 3), "metadata": encodable(photo.metadata),
        "has_crop": photo.has_crop, "actor": photo.actor,
    }  # fmt: skip


def encodable(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return metadata that UTF-8 can encode: lone surrogates, which JSON escapes can contain, become question marks.

    Metadata nested deeper than the limit, from a gallery made elsewhere, is left out.

    >>> encodable({"a": chr(0xD800), "b": 1})
    {'a': '?', 'b': 1}
    """
    try:
        text = json.dumps(metadata, ensure_ascii=False)
        if depth_of(text) > MAX_METADATA_DEPTH:
            return {}
        text.encode()
    except RecursionError:
        return {}
    except UnicodeEncodeError:
        return dict(json.loads(text.encode("utf-8", "replace")))
    return metadata


def person_with_photos(store: Store, number: int) -> dict[str, Any]:
    """Return a person with their photos, as JSON. Raise `UnknownPerson` if the number does not exist."""
    person = edits.person_called(store, Seen(number))
    photos = store.photos(number)
    listed = [photo_entry(photo) for photo in photos[:MAX_PERSON_PHOTOS]]
    return {**person_entry(store, person, photos), "photos": listed}


def person_number(text: str) -> int:
    """Return a person's number from an id in a request. Raise `Problem` 404 if it is not an id.

    >>> person_number("12")
    12
    """
    return _number(text, "no_such_person", "person")


def photo_number(text: str) -> int:
    """Return a photo's number from an id in a request. Raise `Problem` 404 if it is not an id."""
    return _number(text, "no_such_photo", "photo")


def _number(text: str, code: str, what: str) -> int:
    if not _ID.fullmatch(text) or int(text) >= 2**63:
        raise Problem(404, code, f"there is no {what} {one_line(text[:_SHOWN])!r}")
    return int(text)


def if_match(request: Request, gallery: Gallery, number: int, *, needed: bool = True) -> Seen:
    """Return the person, and the state that the client has seen, from the header If-Match. This call may block.

    `*` stands for any state. Raise `Problem` 428 if the header is `needed` but missing, 412 if it contains no valid ETag.
    """
    given = request.headers.get("if-match")
    if given is None:
        if needed:
            raise Problem(
                428,
                "if_match_needed",
                "send If-Match with the person's ETag, so that newer changes are not overwritten",
            )
        return Seen(number)
    if given.strip() == "*":
        return Seen(number)
    tags = [tag for weak, tag in _TAG.findall(given) if not weak]
    if not tags:
        raise Problem(412, "stale", 'If-Match must be an ETag of this person in quotes, such as "5f1c0a9d", or *')
    if len(tags) > 1:
        person = edits.person_called(gallery.store, Seen(number))
        now = edits.fingerprint(person, gallery.store.photos(number))
        return Seen(number, now if now in tags else tags[0])
    return Seen(number, tags[0])


def checked_name(text: str) -> str:
    """Return a person's name as it is stored. Raise `Problem` 422 if it is not a valid name."""
    return checked(clean_name, text)


def checked(check: Callable[[Any], R], value: Any) -> R:
    """Return `check(value)`. If it raises `ValueError`, raise `Problem` 422 with its message."""
    try:
        return check(value)
    except (TypeError, ValueError) as error:
        raise Problem(422, "invalid", one_line(str(error))[:300]) from None


def cursor_of(name: str) -> str:
    """Return a cursor for a list that continues after `name`: opaque text, from which `name_of` returns the name.

    >>> name_of(cursor_of("Ada"))
    'Ada'
    """
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def name_of(cursor: str) -> str:
    """Return the name in a cursor of `cursor_of`. Raise `Problem` 422 for any other text."""
    try:
        name = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        name = ""
    if not name or "\0" in name or cursor_of(name) != cursor:
        raise Problem(422, "invalid", "after must be the `next` of an earlier answer")
    return name


def folded(text: str) -> str:
    """Return text without case and accents, for searching.

    >>> folded("Zoë"), folded("STRASSE") == folded("Straße")
    ('zoe', True)
    """
    apart = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFKC", "".join(letter for letter in apart if not unicodedata.combining(letter)))


class Page(NamedTuple):
    """Some people of a list, and the cursor of the next page, or None at the end."""

    people: list[StoredPerson]
    next: str | None


def people_page(store: Store, *, after: str | None, limit: int, search: str = "") -> Page:
    """Return a page of people ordered by name; with `search`, people with that text in their name or external id.

    With `search`, a page may be short although more follow: one request reads at most 20,000 people.
    """
    name = "" if after is None else name_of(after)
    query = folded(search.strip())
    if not query:
        people = store.people(after=name, limit=limit + 1)
        return Page(people[:limit], cursor_of(people[limit - 1].state.name) if len(people) > limit else None)
    found: list[StoredPerson] = []
    n_seen = 0
    while people := store.people(after=name, limit=_BATCH):
        for one in people:
            n_seen, name = n_seen + 1, one.state.name
            if query in folded(name) or (one.state.external_id and query in folded(one.state.external_id)):
                if len(found) == limit:
                    return Page(found, cursor_of(found[-1].state.name))
                found.append(one)
        if len(people) < _BATCH:
            return Page(found, None)
        if n_seen >= MAX_SCANNED:
            return Page(found, cursor_of(name))
    return Page(found, None)
