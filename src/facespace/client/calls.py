"""Requests about one collection, as `Call` objects for the transport."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from facespace.client.answers import Person
from facespace.client.forms import Form
from facespace.client.pictures import Picture, picture_of
from facespace.client.transport import Call
from facespace.io.image import Source
from facespace.io.text import clean_name, one_line


class Calls:
    """Builds the requests about `collection`.

    >>> Calls("guests").read("/v1/log", limit=3).query
    {'collection': 'guests', 'limit': 3}
    """

    def __init__(self, collection: str) -> None:
        self.collection = collection

    def read(self, path: str, **query: Any) -> Call:
        """Return a request that changes nothing."""
        return Call("GET", path, self._query(query), repeatable=True)

    def look(self, path: str, photo: Source, **query: Any) -> Call:
        """Return a request about one photo; the answer includes landmarks."""
        return Call("POST", path, self._query({"landmarks": True, **query}), picture=picture_of(photo), repeatable=True)

    def compare(self, path: str, form: Form, **query: Any) -> Call:
        """Return a request about several photos."""
        return Call("POST", path, self._query(query), form=form, repeatable=True)

    def send(self, path: str, form: Form, key: str | None, **query: Any) -> Call:
        """Return a request that enrolls photos. The service recognises a repetition by the idempotency key."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return Call("POST", path, self._query(query), headers, form=form, repeatable=True)

    def change(self, path: str, body: dict[str, Any], person: Person | str | None = None) -> Call:
        """Return a request for a change. The service makes it once, and only if a given `Person` is up to date."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        if person is not None:
            headers |= if_match(person)
        return Call("POST", path, self._query({}), headers, json=body, repeatable=True)

    def edit(self, path: str, person: Person | str, changes: dict[str, Any]) -> Call:
        """Return a request that edits a person. The request is not repeated if it may have arrived."""
        return Call("PATCH", path, self._query({}), if_match(person), json=changes)

    def remove(self, path: str, person: Person | str | None = None) -> Call:
        """Return a request that removes something. The request is not repeated if it may have arrived."""
        return Call("DELETE", path, self._query({}), {} if person is None else if_match(person))

    def _query(self, query: dict[str, Any]) -> dict[str, Any]:
        return {"collection": self.collection, **query}


def enrolment_form(
    name: str, photos: Sequence[Source], *, external_id: str | None = None, metadata: dict[str, Any] | None = None
) -> Form:
    """Return the form that enrolls photos. Raises `ValueError` for an invalid name and `ImageError` for an unreadable photo."""
    texts = [("name", clean_name(name))]
    if external_id is not None:
        texts.append(("external_id", external_id))
    if metadata is not None:
        texts.append(("metadata", json.dumps(metadata, sort_keys=True, allow_nan=False)))
    return photo_form(photos, texts)


def photo_form(photos: Sequence[Source], texts: Sequence[tuple[str, str]] = (), others: Sequence[Source] = ()) -> Form:
    """Return a form with the fields `texts`, each photo as a field `photo`, and each of `others` as a field `other`."""
    named: list[tuple[str, Picture]] = [("photo", picture_of(photo)) for photo in photos]
    return Form(texts, named + [("other", picture_of(other)) for other in others])


def path_of(person: Person | str, *more: str) -> str:
    """Return the path of a person, or with `more` the path of something that belongs to the person.

    >>> path_of("3", "photos")
    '/v1/people/3/photos'
    """
    return "/".join(("/v1/people", segment(id_of(person)), *map(segment, more)))


def if_match(person: Person | str) -> dict[str, str]:
    """Return the `If-Match` header: the `etag` of a `Person`, or `*` (any state) for an id."""
    etag = person.etag if isinstance(person, Person) else ""
    return {"If-Match": f'"{etag}"' if etag else "*"}


def id_of(one: Any) -> str:
    """Return the id of an object, or the id itself.

    >>> id_of("3"), id_of(Person("3", "Ada", 1, ""))
    ('3', '3')
    """
    known = getattr(one, "id", one)
    if not isinstance(known, str) or not known:
        raise TypeError(f"an id must be text that is not empty, got {one_line(repr(known))[:60]}")
    return known


def segment(text: str) -> str:
    """Quote text as one segment of a path.

    Raises `ValueError` for text that could lead to another path. Quoting a slash does not help: servers decode `%2F`.

    >>> segment("zoë?")
    'zo%C3%AB%3F'
    """
    if text in ("", ".", "..") or "/" in text or "\\" in text or not text.isprintable():
        raise ValueError(f"{one_line(text)[:60]!r} cannot be an id or a collection")
    return quote(text, safe="")
