"""Converts changes of people and photos to and from JSON, for the log of a store and for files, with checks."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from facespace.identification.stores.protocol import Change, PersonChange, PersonState, PhotoChange
from facespace.io.text import clean_name, plain_text

MAX_METADATA = 16_384  # characters of a person's or a photo's metadata as JSON
MAX_METADATA_DEPTH = 100  # levels of nested lists and objects; some JSON writers fail at a few hundred
MAX_EXTERNAL_ID = 200
TEMPLATES = ("", "mean", "best")
_DIGEST = re.compile("[0-9a-f]{64}")


def checked_metadata(metadata: Any) -> dict[str, Any]:
    """Return metadata as it is stored; raise `ValueError` unless it is a valid JSON object.

    It may have at most 16,384 characters and 100 levels.

    >>> checked_metadata({"team": "blue"})
    {'team': 'blue'}
    """
    kept = _stored_metadata(metadata)
    if (depth := depth_of(json.dumps(kept))) > MAX_METADATA_DEPTH:
        raise ValueError(f"metadata must be at most {MAX_METADATA_DEPTH} levels deep, got {depth}")
    return kept


def _stored_metadata(metadata: Any) -> dict[str, Any]:
    """Check metadata as `checked_metadata` does, but accept any depth, because older versions did not limit it."""
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata must be a JSON object, got {type(metadata).__name__}")  # noqa: TRY004 - of a file too
    if not metadata:
        return {}
    try:
        text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata must be a JSON object ({error})") from None
    if len(text) > MAX_METADATA:
        raise ValueError(f"metadata must have at most {MAX_METADATA} characters as JSON, got {len(text)}")
    kept: dict[str, Any] = json.loads(text)
    return kept


def depth_of(text: str) -> int:
    """Return the number of levels of nested lists and objects in a JSON text.

    >>> depth_of('{"a": [1, "[[["]}')
    2
    """
    depth = deepest = 0
    for mark in re.findall(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text):
        depth += (mark in "[{") - (mark in "]}")
        deepest = max(deepest, depth)
    return deepest


def checked_external_id(value: Any) -> str:
    """Return a person's id in another system; raise `ValueError` unless it is text of at most 200 characters."""
    if not isinstance(value, str) or len(value) > MAX_EXTERNAL_ID or plain_text(value) != value:
        raise ValueError(
            f"an external id must be text of at most {MAX_EXTERNAL_ID} characters without control characters"
        )
    return value


def state_to_json(state: PersonState) -> dict[str, Any]:
    """Return a person's state as a JSON object without empty fields."""
    return {"name": state.name, **extra_of(state)} | ({"external_id": state.external_id} if state.external_id else {})


def extra_of(state: PersonState) -> dict[str, Any]:
    """Return the fields of a person that have no column of their own in the table."""
    values = {"metadata": state.metadata, "rejected": list(state.rejected), "templates": state.templates}
    return {key: value for key, value in values.items() if value}


def state_from_row(name: Any, external_id: Any, extra: dict[str, Any]) -> PersonState:
    """Return a person's state from the stored values; raise `ValueError` if they are not valid.

    >>> state_from_row("Ada", None, {"templates": "best"}).templates
    'best'
    """
    if not isinstance(name, str) or clean_name(name) != name:
        raise ValueError("a name in it is not valid")
    rejected, templates = extra.get("rejected", []), extra.get("templates", "")
    if not isinstance(rejected, list) or not all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in rejected):
        raise ValueError("a rejected photo is not a digest")
    if templates not in TEMPLATES:
        raise ValueError("the templates of a person must be mean or best")
    external = "" if external_id is None else checked_external_id(external_id)
    return PersonState(name, external, _stored_metadata(extra.get("metadata", {})), tuple(rejected), templates)


def change_to_json(change: Change) -> str:
    """Return a change as JSON for the log, without its kind and text, which the log stores separately."""
    return json.dumps(
        {
            "people": [[one.id, _optional(one.before), _optional(one.after)] for one in change.people],
            "photos": [list(one) for one in change.photos],
        },
        sort_keys=True,
    )


def change_from_json(kind: str, text: str, stored: Any) -> Change:
    """Return a change from the log's JSON; raise `ValueError` for anything else."""
    if not isinstance(stored, dict):
        raise ValueError("a change in the log is not an object")  # noqa: TRY004 - of a file
    people, photos = stored.get("people", []), stored.get("photos", [])
    for several in (people, photos):
        if not isinstance(several, list) or not all(isinstance(one, list) and len(one) == 3 for one in several):
            raise ValueError("a change in the log must have three values")
    return Change(
        kind,
        text,
        tuple(PersonChange(_integer(key), _state(before), _state(after)) for key, before, after in people),
        tuple(PhotoChange(*_integers(one)) for one in photos),
    )


def _optional(state: PersonState | None) -> dict[str, Any] | None:
    return None if state is None else state_to_json(state)


def _state(value: Any) -> PersonState | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("a person in the log is not an object")  # noqa: TRY004
    return state_from_row(value.get("name"), value.get("external_id"), value)


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise ValueError("an id in the log is not a number")
    return value


def _integers(values: Sequence[Any]) -> tuple[int, int | None, int | None]:
    key, before, after = values
    return _integer(key), None if before is None else _integer(before), None if after is None else _integer(after)
