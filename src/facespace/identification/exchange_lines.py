"""The JSON of a gallery export: its header and a line for each person and photo, written and checked on reading."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeGuard

from facespace.errors import GalleryError, ModelError
from facespace.faces.input_spec import InputSpec
from facespace.identification.stores.changes import (
    checked_metadata,
    state_from_row,
    state_to_json,
)
from facespace.identification.stores.protocol import PersonState
from facespace.identification.stores.records import PersonRecord, PhotoRecord, seconds_of
from facespace.io.text import plain_text

MAX_LINE = 4 * 2**20  # bytes: enough for sixty thousand rejected photos of one person
MAX_DIMENSION = 65_536
_MAX_COUNT = 2**40
_MAX_TEXT = 65_536
_MAX_EVIDENCE = 65_536  # characters of a calibration's evidence as JSON
_DIGEST = re.compile("[0-9a-f]{64}")
_N_DIGITS = 20  # the most digits of an integer
_PERSON = {"name", "external_id", "metadata", "rejected", "templates", "added", "photos"}
_PHOTO = {"digest", "source", "made_by", "added", "quality", "metadata", "crop", "actor"}


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an export: the model of the vectors (as returned by `compatibility.model_of`), the collection and its
    settings, and the numbers of people, photos and kept crops.
    """

    model: dict[str, Any]
    collection: str
    settings: dict[str, Any] = field(default_factory=dict)
    n_people: int = 0
    n_photos: int = 0
    n_crops: int = 0


class PersonLine(NamedTuple):
    """The line of a person; the lines of the person's `n_photos` photos follow it."""

    state: PersonState
    added: str
    n_photos: int

    def check_photos(self, digests: Sequence[str]) -> None:
        """Raise `ValueError` if a photo occurs twice or was rejected."""
        if len(set(digests)) != len(digests):
            raise ValueError(f"{self.state.name!r} has a photo twice")
        if not set(digests).isdisjoint(self.state.rejected):
            raise ValueError(f"{self.state.name!r} has a photo that was rejected")


class PhotoLine(NamedTuple):
    """The line of a photo, without its vector and crop."""

    digest: str
    source: str
    made_by: str
    added: str
    quality: float | None
    metadata: dict[str, Any]
    has_crop: bool
    actor: str


class Line(NamedTuple):
    """The decoded JSON of one line, and its position for error messages."""

    value: Any
    where: str

    def as_person(self, before: str) -> PersonLine:
        """Return the person on the line; raise `ValueError` if it is invalid or its name is not after `before`."""
        fields = self._object(_PERSON, ("name", "added", "photos"))
        try:
            state = state_from_row(fields["name"], fields.get("external_id"), fields)
        except (TypeError, ValueError) as error:
            raise self._wrong(str(error)) from None
        if state.name <= before:
            raise self._wrong("names must be unique and in ascending order")
        n_photos = fields["photos"]
        if not _is_integer(n_photos) or not 1 <= n_photos <= _MAX_COUNT:
            raise self._wrong("photos must be the number of the person's photos, at least 1")
        return PersonLine(state, self._time(fields), n_photos)

    def as_photo(self) -> PhotoLine:
        """Return the line as a photo; raise `ValueError` if it is not valid."""
        fields = self._object(_PHOTO, ("digest", "source", "made_by", "added"))
        digest, quality, crop = fields["digest"], fields.get("quality"), fields.get("crop", False)
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise self._wrong("a digest must be 64 hexadecimal digits")
        if quality is not None and not (_is_number(quality) and 0 <= quality <= 1):
            raise self._wrong("a quality must be between 0 and 1")
        if not isinstance(crop, bool):
            raise self._wrong("crop must be true or false")
        try:
            metadata = checked_metadata(fields.get("metadata", {}))
        except ValueError as error:
            raise self._wrong(str(error)) from None
        return PhotoLine(
            digest, self._text(fields, "source"), self._text(fields, "made_by"), self._time(fields),
            None if quality is None else float(quality), metadata, crop,
            self._text(fields, "actor") if "actor" in fields else "",
        )  # fmt: skip

    def _object(self, known: set[str], needed: Sequence[str]) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self._wrong("a line must be a JSON object")
        if unknown := sorted(set(self.value) - known):
            raise self._wrong(f"the field {plain_text(unknown[0])[:40]!r} is not known")
        if missing := [key for key in needed if key not in self.value]:
            raise self._wrong(f"the field {missing[0]!r} is missing")
        return self.value

    def _text(self, fields: Mapping[str, Any], key: str) -> str:
        text = fields[key]
        if not isinstance(text, str) or len(text) > _MAX_TEXT or plain_text(text) != text:
            raise self._wrong(f"{key} must be text of at most {_MAX_TEXT} characters without control characters")
        return text

    def _time(self, fields: Mapping[str, Any]) -> str:
        try:
            seconds_of(str(fields["added"])[:40])
        except ValueError as error:
            raise self._wrong(str(error)) from None
        return str(fields["added"])

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"{self.where}: {what}")


def person_line(record: PersonRecord) -> bytes:
    """Return the line that describes a person; raise `GalleryError` if it is longer than `MAX_LINE` bytes."""
    return _line({**state_to_json(record.state), "added": record.added, "photos": len(record.photos)})


def photo_line(photo: PhotoRecord) -> bytes:
    """Return the line of a photo."""
    entry = photo.entry
    fields: dict[str, Any] = {
        "digest": entry.digest, "source": entry.source, "made_by": entry.made_by, "added": photo.added,
    }  # fmt: skip
    if entry.quality is not None:
        fields["quality"] = entry.quality
    if entry.metadata:
        fields["metadata"] = entry.metadata
    if entry.crop is not None:
        fields["crop"] = True
    if photo.actor:
        fields["actor"] = photo.actor
    return _line(fields)


def _line(value: dict[str, Any]) -> bytes:
    try:
        data = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # a lone surrogate in metadata
        data = json.dumps(value, allow_nan=False).encode("ascii") + b"\n"
    if len(data) > MAX_LINE:
        what = value.get("name", "a photo")
        raise GalleryError(f"{what}: a line of an export must have at most {MAX_LINE} bytes, got {len(data)}")
    return data


def read_line(data: bytes, where: str) -> Line:
    """Return a line decoded from JSON; raise `ValueError` if it is too long or not JSON."""
    if len(data) > MAX_LINE or not data.endswith(b"\n"):
        raise ValueError(f"{where}: longer than {MAX_LINE} bytes, or truncated")
    return Line(read_json(data, where), where)


def read_json(data: bytes, where: str) -> Any:
    """Decode UTF-8 JSON. Raise `ValueError`, which names `where`, if `data` cannot be decoded.

    `NaN`, `Infinity` and integers of more than 20 digits are refused in the same way.
    """
    try:
        return _DECODER.decode(data.decode("utf-8"))
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})"[:200]) from None


def _parse_integer(digits: str) -> int:
    if len(digits) > _N_DIGITS:  # converting very many digits is slow
        raise ValueError(f"a number with {len(digits)} digits")
    return int(digits)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


_DECODER = json.JSONDecoder(parse_int=_parse_integer, parse_constant=_refuse_constant)


def read_header(data: bytes, version: int, name: str) -> Header:
    """Return the header from `data`, the content of gallery.json; raise `ValueError` if it is damaged.

    Raise `GalleryError` if its format is newer than `version`; the message calls the file `name`.
    """
    fields = read_json(data, "gallery.json")
    if not isinstance(fields, dict) or fields.get("format") != "facespace-gallery":
        raise ValueError("gallery.json is not facespace's")
    found = fields.get("version")
    if not _is_integer(found) or found < 1:
        raise ValueError("gallery.json has no version")
    if found > version:
        raise GalleryError(
            f"{name}: written by a newer facespace (format {found}, this one reads up to {version}); upgrade"
        )
    collection, counts = fields.get("collection"), fields.get("counts")
    if not isinstance(collection, str) or plain_text(collection)[:100] != collection:
        raise ValueError("its collection has no valid name")
    if not isinstance(counts, dict):
        raise ValueError("its counts are missing")  # noqa: TRY004 - of a file
    numbers = []
    for key in ("people", "photos", "crops"):
        n = counts.get(key)
        if not _is_integer(n) or not 0 <= n <= _MAX_COUNT:
            raise ValueError("its counts are not valid numbers")
        numbers.append(n)
    return Header(checked_model(fields.get("model")), collection, checked_settings(fields.get("settings")), *numbers)


def checked_model(model: Any) -> dict[str, Any]:
    """Return `model` if it is a valid description as from `compatibility.model_of`; raise `ValueError` otherwise."""
    if not isinstance(model, dict) or set(model) != {"model", "fingerprint", "dimension", "input_spec", "centered"}:
        raise ValueError("the description of its model is not complete")
    name, dimension = model["model"], model["dimension"]
    if not isinstance(name, str) or not 0 < len(name) <= 1000 or plain_text(name) != name:
        raise ValueError("the name of its model is not valid")
    if not isinstance(model["fingerprint"], str) or not _DIGEST.fullmatch(model["fingerprint"]):
        raise ValueError("the fingerprint of its model is not a SHA-256")
    if not _is_integer(dimension) or not 1 <= dimension <= MAX_DIMENSION:
        raise ValueError(f"vectors must have 1 to {MAX_DIMENSION} numbers")
    if not isinstance(model["centered"], bool) or not isinstance(model["input_spec"], dict):
        raise ValueError("the description of its model is not complete")  # noqa: TRY004 - of a file
    try:
        InputSpec.from_dict(model["input_spec"])
    except (ModelError, TypeError) as error:
        raise ValueError(str(error)) from None
    return model


def checked_settings(settings: Any) -> dict[str, Any]:
    """Return `settings` if valid: only `templates` and `calibration`, both optional; raise `ValueError` otherwise."""
    if not isinstance(settings, dict) or set(settings) - {"templates", "calibration"}:
        raise ValueError("its settings have unknown fields")
    if settings.get("templates", "mean") not in ("mean", "best"):
        raise ValueError("templates must be mean or best")
    if "calibration" in settings:
        _check_calibration(settings["calibration"])
    return settings


def _check_calibration(calibration: Any) -> None:
    if not isinstance(calibration, dict) or set(calibration) != {"rate", "offset", "evidence"}:
        raise ValueError("its calibration is not complete")
    rate, offset, evidence = calibration["rate"], calibration["offset"], calibration["evidence"]
    # `Gallery.calibration` explains these limits.
    if not (_is_number(rate) and 0 < rate < 1) or not (_is_number(offset) and abs(offset) <= 1.001):
        raise ValueError("its calibration is not one that calibrate can store")
    if not isinstance(evidence, dict) or len(json.dumps(evidence, allow_nan=False)) > _MAX_EVIDENCE:
        raise ValueError(f"its calibration's evidence must be a JSON object of at most {_MAX_EVIDENCE} characters")


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
