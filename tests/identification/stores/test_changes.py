"""Changes as JSON, and the checks of metadata, external ids and states."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from facespace.identification.stores import changes
from facespace.identification.stores.protocol import Change, PersonChange, PersonState, PhotoChange

STATE = PersonState("Zoë", "crm-7", {"team": ["blue", None, 1.5]}, ("0" * 64, "a" * 64), "best")


def test_a_change_goes_round() -> None:
    change = Change(
        "merge", "Ada into Zoë",
        (PersonChange(3, PersonState("Ada"), None), PersonChange(4, PersonState("Zoë"), STATE), PersonChange(0, None, STATE)),
        (PhotoChange(7, 3, 4), PhotoChange(2**40, None, 4), PhotoChange(9, 4, None)),
    )  # fmt: skip
    text = changes.change_to_json(change)
    assert changes.change_from_json("merge", "Ada into Zoë", json.loads(text)) == change
    assert changes.change_from_json("x", "", {}) == Change("x", "")


def test_an_inverse_of_an_inverse_is_the_change_itself_as_an_undo() -> None:
    change = Change("move", "text", (PersonChange(1, STATE, None),), (PhotoChange(3, 1, None),))
    inverse = change.inverse()
    assert inverse == Change("undo", "text", (PersonChange(1, None, STATE),), (PhotoChange(3, None, 1),))
    assert (inverse.inverse().people, inverse.inverse().photos) == (change.people, change.photos)


@pytest.mark.parametrize(
    "stored",
    [
        None, [], 3, {"people": 3}, {"people": [3]}, {"people": [[1, 2]]}, {"people": [[1, 2, None]]},
        {"people": [["1", None, None]]}, {"people": [[True, None, None]]}, {"people": [[2**63, None, None]]},
        {"people": [[1, {}, None]]}, {"people": [[1, {"name": ""}, None]]}, {"people": [[1, {"name": "a\nb"}, None]]},
        {"people": [[1, {"name": "a", "external_id": 3}, None]]}, {"people": [[1, {"name": "a", "metadata": []}, None]]},
        {"people": [[1, {"name": "a", "rejected": ["x"]}, None]]}, {"people": [[1, {"name": "a", "templates": "x"}, None]]},
        {"photos": {}}, {"photos": [[1, 2, 3, 4]]}, {"photos": [[1, 2, 3.0]]}, {"photos": [[None, 2, 3]]},
    ],
    ids=repr,
)  # fmt: skip
def test_invalid_changes(stored: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        changes.change_from_json("", "", stored)


@pytest.mark.parametrize("state", [PersonState("Ada"), STATE])
def test_a_state_goes_round(state: PersonState) -> None:
    known = json.loads(json.dumps(changes.state_to_json(state)))
    assert changes.state_from_row(known.pop("name"), known.pop("external_id", None), known) == state
    assert set(changes.state_to_json(PersonState("Ada"))) == {"name"}


def deep(n: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(n):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        (None, "must be a JSON object, got NoneType"), ([], "must be a JSON object, got list"),
        ({"a": math.nan}, "must be a JSON object"), ({"a": b"x"}, "must be a JSON object"), ({"a": {1, 2}}, "must be a JSON"),
        ({"a": "x" * 16_400}, "at most 16384 characters as JSON, got"), (deep(100_000), "must be a JSON object"),
        (deep(101), "at most 100 levels deep, got 102"),
    ],
    ids=["None", "list", "NaN", "bytes", "set", "long", "deep", "too deep to be answered"],
)  # fmt: skip
def test_metadata_is_a_small_json_object(metadata: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        changes.checked_metadata(metadata)


def test_deep_metadata_that_is_already_stored_can_be_read() -> None:
    row = ("Ada", None, {"metadata": deep(101)})
    assert changes.state_from_row(*row).metadata == deep(101)
    assert changes.checked_metadata({"a": '[[{"\\"' * 200, "b": deep(98)})


def test_metadata_is_kept_as_json_keeps_it() -> None:
    given = {"b": (1, 2), "a": {"é": None}}
    assert changes.checked_metadata(given) == {"a": {"é": None}, "b": [1, 2]}


@pytest.mark.parametrize("value", [None, 3, "x" * 201, "a\nb", "a\0b", "\x1b[2J", "\udce9"])
def test_an_external_id_is_short_plain_text(value: Any) -> None:
    with pytest.raises(
        ValueError, match="an external id must be text of at most 200 characters without control characters"
    ):
        changes.checked_external_id(value)


def test_external_ids_of_others() -> None:
    for value in ("", "x" * 200, "crm/7 é", "7"):
        assert changes.checked_external_id(value) == value
