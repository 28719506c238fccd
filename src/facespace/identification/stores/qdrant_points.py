"""The payloads of a gallery's points at Qdrant: how they are written, and how they are read and checked.

Every point has a `state`: `staged` until the change that creates it is committed, then `live`, and `gone` from its removal
until it is erased. `v` is the number of the last change that wrote it.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import GalleryError
from facespace.identification.stores.changes import extra_of, state_from_row
from facespace.identification.stores.protocol import Entry, PersonState, StoredPerson, StoredPhoto
from facespace.identification.stores.qdrant_server import models
from facespace.io.text import plain_text

FORMAT = 1
STAGED, LIVE, GONE = "staged", "live", "gone"
_SPACE = uuid.UUID("6d2b4f1e-5f0c-5c3c-9c63-66616365acde")
HEAD = str(uuid.uuid5(_SPACE, "head"))
DUMMY = [1.0]  # the vector of a record
_ORDER_BYTES = 6  # of a name in one order key: the server compares numbers as float64, exact up to 53 bits
ORDER = ("order0", "order1", "order2", "order3")
_MAX_TEXT = 65_536
_MAX_CROP = 64 * 2**20

_INTEGER, _KEYWORD = models.PayloadSchemaType.INTEGER, models.PayloadSchemaType.KEYWORD
# Fields that are used in filters have an index.
RECORD_INDICES: dict[str, Any] = {
    **dict.fromkeys(("kind", "state", "pending", "name", "external", "templates", "rows"), _KEYWORD),
    **dict.fromkeys(("id", "v", "seq", "added", "gone", "n_photos", *ORDER), _INTEGER),
}
PHOTO_INDICES: dict[str, Any] = {
    **dict.fromkeys(("state", "digest"), _KEYWORD), **dict.fromkeys(("id", "person", "v", "added", "gone"), _INTEGER),
}  # fmt: skip
ROW_INDICES: dict[str, Any] = {"state": _KEYWORD, "person": _INTEGER, "added": _INTEGER}
PHOTO_FIELDS = models.PayloadSelectorExclude(exclude=["crop"])


def new_point() -> str:
    """Return a unique id for a new point."""
    return str(uuid.uuid4())


def setting_point(key: str) -> str:
    """Return the id of a setting's point, which is the same in every process."""
    return str(uuid.uuid5(_SPACE, f"setting {key}"))


# Conditions


def where(*conditions: Any) -> Any:
    """Return a filter for points that meet all conditions."""
    return models.Filter(must=list(conditions))


def equal(field: str, value: Any) -> Any:
    """Return the condition that the field has that value."""
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def one_of(field: str, values: Sequence[Any]) -> Any:
    """Return the condition that the field has one of these values."""
    return models.FieldCondition(key=field, match=models.MatchAny(any=list(values)))


def below(field: str, value: float) -> Any:
    """Return the condition that the field is less than that number."""
    return models.FieldCondition(key=field, range=models.Range(lt=value))


def at_least(field: str, value: float) -> Any:
    """Return the condition that the field is at least that number."""
    return models.FieldCondition(key=field, range=models.Range(gte=value))


def points_in(points: Sequence[str]) -> Any:
    """Return the condition that the point has one of these ids."""
    return models.HasIdCondition(has_id=list(points))


def setting(payload: dict[str, Any], *conditions: Any) -> Any:
    """Return the operation that sets fields of the points that meet the conditions; it creates no points."""
    return models.SetPayloadOperation(set_payload=models.SetPayload(payload=payload, filter=where(*conditions)))


def deleting(*conditions: Any) -> Any:
    """Return the operation that deletes the points that meet the conditions."""
    return models.DeleteOperation(delete=models.FilterSelector(filter=where(*conditions)))


def point(key: str, vector: Sequence[float], payload: dict[str, Any]) -> Any:
    """Return a point to write."""
    return models.PointStruct(id=key, vector=list(vector), payload=payload)


# Points that are read


@dataclass(frozen=True, slots=True)
class Head:
    """The point of a gallery that commits changes: a change is committed when this point is written.

    `seq` is the number of the last change. `pending` is the id of its `Intent` while it is unfinished. `last_person`,
    `last_photo` and `last_log` are the last ids used. `templates` is the setting of that name, or empty.
    """

    seq: int = 0
    pending: str = ""
    n_people: int = 0
    n_photos: int = 0
    last_person: int = 0
    last_photo: int = 0
    last_log: int = 0
    templates: str = ""

    def payload(self) -> dict[str, Any]:
        """Return the payload to write."""
        return {"kind": "head", "format": FORMAT, **dataclasses.asdict(self)}


@dataclass(frozen=True, slots=True)
class PersonPoint:
    """A person. `gone` is the time of removal, or 0.

    `rows` is `mean` if a search compares a probe with the mean of the person's photos, or `best` if with every photo.
    """

    point: str
    id: int
    state: PersonState
    live: bool
    n_photos: int
    added: int
    gone: int = 0
    rows: str = ""

    def payload(self) -> dict[str, Any]:
        """Return the payload to write, without the state and the number of the change."""
        name, extra = self.state.name, extra_of(self.state)
        return {
            "kind": "person", "id": self.id, "name": name, "external": self.state.external_id, "added": self.added,
            "gone": self.gone, "n_photos": self.n_photos, "rows": self.rows, "templates": self.state.templates,
            "extra": json.dumps(extra, sort_keys=True), **dict(zip(ORDER, order_of(name), strict=True)),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class PhotoPoint:
    """A photo; if it was removed, `photo.person` is its last owner and `gone` the time of removal."""

    point: str
    photo: StoredPhoto
    live: bool
    added: int
    gone: int = 0

    @property
    def owner(self) -> int | None:
        """The photo's owner; None if the photo was removed."""
        return self.photo.person if self.live else None


def order_of(name: str) -> list[int]:
    """Return numbers that sort like the code points of names; only the first 24 bytes of a name count.

    >>> order_of("Ada") < order_of("Adam") < order_of("Zoë") < order_of("王")
    True
    """
    n = _ORDER_BYTES
    raw = name.encode().ljust(n * len(ORDER), b"\0")
    return [int.from_bytes(raw[k * n : k * n + n], "big") for k in range(len(ORDER))]


def photo_payload(entry: Entry, photo: int, person: int, added: int, actor: str) -> dict[str, Any]:
    """Return the payload of a new photo."""
    crop = {} if entry.crop is None else {"crop": base64.b64encode(entry.crop).decode("ascii")}
    return {
        "id": photo, "person": person, "digest": entry.digest, "source": entry.source, "made_by": entry.made_by,
        "actor": actor, "added": added, "gone": 0, "quality": entry.quality, "v": 0, "state": STAGED,
        "metadata": json.dumps(entry.metadata, sort_keys=True), "has_crop": entry.crop is not None, **crop,
    }  # fmt: skip


class Reader:
    """Reads and checks payloads, which other programs may have written; raises `GalleryError` if one is invalid."""

    def __init__(self, name: str) -> None:
        self._name = name

    def damaged(self, what: str) -> GalleryError:
        """Return the error for damaged data."""
        return GalleryError(f"{self._name}: damaged ({what})")

    def head(self, record: Any) -> Head:
        """Return the head; raise `GalleryError` if a newer facespace wrote it."""
        payload = self._payload(record)
        version = self.integer(payload.get("format"))
        if version > FORMAT:
            raise GalleryError(
                f"{self._name}: written by a newer facespace (format {version}, this one reads up to {FORMAT}); upgrade"
            )
        numbers = ("seq", "n_people", "n_photos", "last_person", "last_photo", "last_log")
        texts = {key: self.text(payload.get(key)) for key in ("pending", "templates")}
        return Head(**{key: self.integer(payload.get(key)) for key in numbers}, **texts)  # type: ignore[arg-type]

    def default_rows(self, head: Head) -> str:
        """Return the collection's setting for comparing photos: `mean` or `best`."""
        value = self.json(head.templates, "the setting templates") if head.templates else ""
        return "best" if value == "best" else "mean"

    def person(self, record: Any) -> PersonPoint:
        """Return a person, live or gone."""
        payload = self._payload(record)
        extra = self.object(payload.get("extra"), "the data of a person")
        try:
            state = state_from_row(payload.get("name"), payload.get("external") or None, extra)
        except (TypeError, ValueError) as error:
            raise self.damaged(str(error)) from None
        id_, n, added, gone = (self.integer(payload.get(key)) for key in ("id", "n_photos", "added", "gone"))
        self.time(added)
        rows = self.text(payload.get("rows"))
        return PersonPoint(str(record.id), id_, state, payload.get("state") == LIVE, n, added, gone, rows)

    def stored_person(self, record: Any) -> StoredPerson:
        """Return a person in the form that `Store` returns."""
        one = self.person(record)
        return StoredPerson(one.id, one.state, one.n_photos, self.time(one.added))

    def photo(self, record: Any) -> PhotoPoint:
        """Return a photo, live or gone."""
        payload = self._payload(record)
        digest, quality = payload.get("digest"), self.quality(payload.get("quality"))
        if not isinstance(digest, str) or len(digest) != 64:
            raise self.damaged("a digest is not 64 characters")
        id_, person, added, gone = (self.integer(payload.get(key)) for key in ("id", "person", "added", "gone"))
        source, made_by, actor = (self.text(payload.get(key)) for key in ("source", "made_by", "actor"))
        metadata = self.object(payload.get("metadata"), "the data of a photo")
        has_crop = bool(payload.get("has_crop"))
        photo = StoredPhoto(id_, person, digest, source, made_by, actor, self.time(added), quality, metadata, has_crop)
        return PhotoPoint(str(record.id), photo, payload.get("state") == LIVE, added, gone)

    def crop(self, record: Any) -> bytes | None:
        """Return the crop of a photo, or None."""
        value = self._payload(record).get("crop")
        if value is None:
            return None
        try:
            if not isinstance(value, str) or len(value) > _MAX_CROP:
                raise ValueError  # noqa: TRY301 - one error for all invalid crops
            return base64.b64decode(value, validate=True)
        except (ValueError, binascii.Error):
            raise self.damaged("a crop is not bytes") from None

    def vectors(self, records: Sequence[Any], dimension: int) -> npt.NDArray[np.float16]:
        """Return the vectors (n,D) of points; raise `GalleryError` for another dimension, or for a length other than 1."""
        stored = [record.vector for record in records]
        if any(not isinstance(one, list) or len(one) != dimension for one in stored):
            raise self.damaged(f"an embedding is not of {dimension} numbers")
        try:
            exact = np.array(stored, np.float32).reshape(len(stored), dimension)
        except (TypeError, ValueError):
            raise self.damaged("an embedding is not of numbers") from None
        if not (np.abs(np.einsum("nd,nd->n", exact, exact) - 1) < 4e-3).all():  # written like this, NaN fails too
            raise self.damaged("an embedding is not of length 1")
        return exact.astype(np.float16)

    # Values

    def field(self, record: Any, key: str) -> Any:
        """Return one field of a payload, unchecked."""
        return self._payload(record).get(key)

    def _payload(self, record: Any) -> dict[str, Any]:
        if not isinstance(record.payload, dict):
            raise self.damaged("a point has no payload")
        return record.payload

    def integer(self, value: Any) -> int:
        """Return a number from 0 to 2**63 - 1, checked."""
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise self.damaged("a number in it is not an integer of at least 0")
        return value

    def text(self, value: Any) -> str:
        """Return a text of at most 65,536 characters, checked."""
        if not isinstance(value, str) or len(value) > _MAX_TEXT:
            raise self.damaged("a text in it is not text, or too long")
        return plain_text(value)

    def time(self, value: Any) -> str:
        """Return a UTC time from seconds since 1970."""
        seconds = self.integer(value)
        if seconds >= 2**38:  # the year 10680
            raise self.damaged("a time in it is too large")
        moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    def quality(self, value: Any) -> float | None:
        """Return a quality from 0 to 1 or None, checked."""
        if value is not None and not (isinstance(value, (float, int)) and 0 <= value <= 1):
            raise self.damaged("the quality of a face is not between 0 and 1")
        return None if value is None else float(value)

    def json(self, text: Any, what: str) -> Any:
        """Return a value from its JSON."""
        try:
            return json.loads(text) if isinstance(text, str) else None
        except (ValueError, RecursionError):
            raise self.damaged(f"{what} is not JSON") from None

    def object(self, text: Any, what: str) -> dict[str, Any]:
        """Return a JSON object from its text."""
        value = self.json(text, what)
        if not isinstance(value, dict):
            raise self.damaged(f"{what} is not a JSON object")
        return value
