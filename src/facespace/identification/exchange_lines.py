"""What stands in an export of a gallery as JSON: its header, and a line for each person and photo, all checked."""

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

MAX_LINE = 4 * 2**20  # bytes: sixty thousand rejected photos of one person
MAX_DIMENSION = 65_536
_MAX_COUNT = 2**40
_MAX_TEXT = 65_536
_MAX_EVIDENCE = 65_536  # characters of what a calibration rests on
_DIGEST = re.compile("[0-9a-f]{64}")
_DIGITS = 20  # of a whole number
_PERSON = {"name", "external_id", "metadata", "rejected", "templates", "added", "photos"}
_PHOTO = {"digest", "source", "made_by", "added", "quality", "metadata", "crop", "actor"}


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of all its people: `model` as `compatibility.model_of` does, `settings` of the collection."""

    model: dict[str, Any]
    collection: str
    settings: dict[str, Any] = field(default_factory=dict)
    n_people: int = 0
    n_photos: int = 0
    n_crops: int = 0


class PersonLine(NamedTuple):
    """A person whose photos follow."""

    state: PersonState
    added: str
    n_photos: int

    def check_photos(self, digests: Sequence[str]) -> None:
        """`ValueError` where a photo is there twice or was rejected."""
        if len(set(digests)) != len(digests):
            raise ValueError(f"{self.state.name!r} has a photo twice")
        if not set(digests).isdisjoint(self.state.rejected):
            raise ValueError(f"{self.state.name!r} has a photo that was rejected")


class PhotoLine(NamedTuple):
    """A photo without its vector and crop."""

    digest: str
    source: str
    made_by: str
    added: str
    quality: float | None
    metadata: dict[str, Any]
    has_crop: bool
    actor: str


class Line(NamedTuple):
    """One line as JSON gave it, and where it stands."""

    value: Any
    where: str

    def as_person(self, before: str) -> PersonLine:
        """The person it tells of, who comes after the name `before`; `ValueError` says what is wrong."""
        told = self._object(_PERSON, ("name", "added", "photos"))
        try:
            state = state_from_row(told["name"], told.get("external_id"), told)
        except (TypeError, ValueError) as error:
            raise self._wrong(str(error)) from None
        if state.name <= before:
            raise self._wrong("names must ascend, each there once")
        n_photos = told["photos"]
        if not _is_whole(n_photos) or not 1 <= n_photos <= _MAX_COUNT:
            raise self._wrong("a person must have a number of photos")
        return PersonLine(state, self._time(told), n_photos)

    def as_photo(self) -> PhotoLine:
        """The photo it tells of; `ValueError` says what is wrong."""
        told = self._object(_PHOTO, ("digest", "source", "made_by", "added"))
        digest, quality, crop = told["digest"], told.get("quality"), told.get("crop", False)
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise self._wrong("a digest must be 64 hexadecimal digits")
        if quality is not None and not (_is_number(quality) and 0 <= quality <= 1):
            raise self._wrong("a quality must be between 0 and 1")
        if not isinstance(crop, bool):
            raise self._wrong("crop must be true or false")
        try:
            metadata = checked_metadata(told.get("metadata", {}))
        except ValueError as error:
            raise self._wrong(str(error)) from None
        return PhotoLine(
            digest, self._text(told, "source"), self._text(told, "made_by"), self._time(told),
            None if quality is None else float(quality), metadata, crop, self._text(told, "actor") if "actor" in told else "",
        )  # fmt: skip

    def _object(self, known: set[str], needed: Sequence[str]) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self._wrong("an object was expected")
        if unknown := sorted(set(self.value) - known):
            raise self._wrong(f"the field {plain_text(unknown[0])[:40]!r} is not known")
        if missing := [key for key in needed if key not in self.value]:
            raise self._wrong(f"the field {missing[0]!r} is missing")
        return self.value

    def _text(self, told: Mapping[str, Any], key: str) -> str:
        text = told[key]
        if not isinstance(text, str) or len(text) > _MAX_TEXT or plain_text(text) != text:
            raise self._wrong(f"{key} must be text of at most {_MAX_TEXT} characters without controls")
        return text

    def _time(self, told: Mapping[str, Any]) -> str:
        try:
            seconds_of(str(told["added"])[:40])
        except ValueError as error:
            raise self._wrong(str(error)) from None
        return str(told["added"])

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"{self.where}: {what}")


def person_line(record: PersonRecord) -> bytes:
    """The line of a person; `GalleryError` where it would be longer than a line may be."""
    return _line({**state_to_json(record.state), "added": record.added, "photos": len(record.photos)})


def photo_line(photo: PhotoRecord) -> bytes:
    """The line of a photo."""
    entry = photo.entry
    told: dict[str, Any] = {
        "digest": entry.digest, "source": entry.source, "made_by": entry.made_by, "added": photo.added,
    }  # fmt: skip
    if entry.quality is not None:
        told["quality"] = entry.quality
    if entry.metadata:
        told["metadata"] = entry.metadata
    if entry.crop is not None:
        told["crop"] = True
    if photo.actor:
        told["actor"] = photo.actor
    return _line(told)


def _line(value: dict[str, Any]) -> bytes:
    try:
        data = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # half a pair of surrogates in metadata
        data = json.dumps(value, allow_nan=False).encode("ascii") + b"\n"
    if len(data) > MAX_LINE:
        what = value.get("name", "a photo")
        raise GalleryError(f"{what}: {len(data)} bytes of JSON are more than the {MAX_LINE} an export takes")
    return data


def read_line(data: bytes, where: str) -> Line:
    """A line as JSON; `ValueError` where it is too long, or none."""
    if len(data) > MAX_LINE or not data.endswith(b"\n"):
        raise ValueError(f"{where}: longer than {MAX_LINE} bytes, or cut short")
    return Line(read_json(data, where), where)


def read_json(data: bytes, where: str) -> Any:
    """JSON of UTF-8 without NaN and without numbers of very many digits; `ValueError` says where it is not."""
    try:
        return _DECODER.decode(data.decode("utf-8"))
    except RecursionError:
        raise ValueError(f"{where}: nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})"[:200]) from None


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:  # so many digits take a time of their own
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(parse_int=_whole, parse_constant=_constant)


def read_header(data: bytes, version: int, name: str) -> Header:
    """Model, collection, settings and counts of gallery.json; `ValueError` where it is damaged.

    `GalleryError` for a newer format than `version`, naming the file `name`.
    """
    told = read_json(data, "gallery.json")
    if not isinstance(told, dict) or told.get("format") != "facespace-gallery":
        raise ValueError("gallery.json is of another program")
    found = told.get("version")
    if not _is_whole(found) or found < 1:
        raise ValueError("gallery.json has no version")
    if found > version:
        raise GalleryError(
            f"{name}: written by a newer facespace (format {found}, this one reads up to {version}); upgrade"
        )
    collection, counts = told.get("collection"), told.get("counts")
    if not isinstance(collection, str) or plain_text(collection)[:100] != collection:
        raise ValueError("its collection has no name")
    if not isinstance(counts, dict):
        raise ValueError("its counts are missing")  # noqa: TRY004 - of a file
    numbers = []
    for key in ("people", "photos", "crops"):
        n = counts.get(key)
        if not _is_whole(n) or not 0 <= n <= _MAX_COUNT:
            raise ValueError("its counts are no numbers")
        numbers.append(n)
    return Header(checked_model(told.get("model")), collection, checked_settings(told.get("settings")), *numbers)


def checked_model(model: Any) -> dict[str, Any]:
    """A model as `compatibility.model_of` tells it; `ValueError` for anything else."""
    if not isinstance(model, dict) or set(model) != {"model", "fingerprint", "dimension", "input_spec", "centered"}:
        raise ValueError("what it says of its model is not complete")
    name, dimension = model["model"], model["dimension"]
    if not isinstance(name, str) or not 0 < len(name) <= 1000 or plain_text(name) != name:
        raise ValueError("the name of its model is no name")
    if not isinstance(model["fingerprint"], str) or not _DIGEST.fullmatch(model["fingerprint"]):
        raise ValueError("the fingerprint of its model is no digest")
    if not _is_whole(dimension) or not 1 <= dimension <= MAX_DIMENSION:
        raise ValueError(f"vectors must have 1 to {MAX_DIMENSION} numbers")
    if not isinstance(model["centered"], bool) or not isinstance(model["input_spec"], dict):
        raise ValueError("what it says of its model is not complete")  # noqa: TRY004 - of a file
    try:
        InputSpec.from_dict(model["input_spec"])
    except (ModelError, TypeError) as error:
        raise ValueError(str(error)) from None
    return model


def checked_settings(settings: Any) -> dict[str, Any]:
    """The settings that are exported, `templates` and `calibration`; `ValueError` for anything else."""
    if not isinstance(settings, dict) or set(settings) - {"templates", "calibration"}:
        raise ValueError("its settings are not known")
    if settings.get("templates", "mean") not in ("mean", "best"):
        raise ValueError("templates must be mean or best")
    if "calibration" in settings:
        _check_calibration(settings["calibration"])
    return settings


def _check_calibration(told: Any) -> None:
    if not isinstance(told, dict) or set(told) != {"rate", "offset", "evidence"}:
        raise ValueError("its calibration is not complete")
    rate, offset, evidence = told["rate"], told["offset"], told["evidence"]
    # As in `Gallery.calibration`, which says why; up to rounding.
    if not (_is_number(rate) and 0 < rate < 1) or not (_is_number(offset) and abs(offset) <= 1.001):
        raise ValueError("its calibration is none that calibrate can give")
    if not isinstance(evidence, dict) or len(json.dumps(evidence, allow_nan=False)) > _MAX_EVIDENCE:
        raise ValueError("what its calibration rests on is no object")


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
