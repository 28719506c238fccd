"""Requests: their contents, and which may be repeated."""

from __future__ import annotations

import pytest

from facespace.client.answers import Person, StoredPhoto
from facespace.client.calls import Calls, enrolment_form, id_of, if_match, path_of, photo_form, segment

ADA = Person("3", "Ada", 1, "", etag="abc")


def test_every_request_is_about_the_collection(hopper_file) -> None:
    calls, form = Calls("guests"), photo_form([hopper_file])
    for call in (
        calls.read("/a"), calls.look("/a", hopper_file), calls.compare("/a", form), calls.send("/a", form, None), calls.change("/a", {}),
        calls.edit("/a", ADA, {}), calls.remove("/a"),
    ):  # fmt: skip
        assert call.query["collection"] == "guests"


def test_which_requests_may_be_repeated(hopper_file) -> None:
    calls, form = Calls("default"), photo_form([hopper_file])
    for harmless in (calls.read("/a"), calls.look("/a", hopper_file), calls.compare("/a", form)):
        assert harmless.repeatable
        assert "Idempotency-Key" not in harmless.headers
    for recognised in (calls.send("/a", form, None), calls.change("/a", {})):
        assert recognised.repeatable
        assert len(recognised.headers["Idempotency-Key"]) == 32
    assert calls.send("/a", form, "mine").headers["Idempotency-Key"] == "mine"
    assert calls.change("/a", {}).headers != calls.change("/a", {}).headers
    assert not calls.edit("/a", ADA, {}).repeatable
    assert not calls.remove("/a", ADA).repeatable


def test_changes_contain_the_state_that_was_read() -> None:
    assert if_match(ADA) == {"If-Match": '"abc"'}
    assert if_match("3") == if_match(Person("3", "Ada", 1, "")) == {"If-Match": "*"}
    assert Calls("default").change("/a", {}, ADA).headers["If-Match"] == '"abc"'
    assert Calls("default").remove("/a").headers == {}


def test_paths() -> None:
    assert path_of(ADA) == "/v1/people/3"
    assert path_of("3", "photos", id_of(StoredPhoto("7", "", ""))) == "/v1/people/3/photos/7"
    assert segment("a b?#%") == "a%20b%3F%23%25"
    for wrong in (".", "..", "a/b", "a\\b", "a\nb", "a\u202eb", ""):
        with pytest.raises(ValueError, match="cannot be an id"):
            segment(wrong)
    for wrong in (None, 3, "", ["3"]):
        with pytest.raises(TypeError, match="an id must be text"):
            id_of(wrong)


def test_the_form_of_an_enrolment(hopper_file) -> None:
    form = enrolment_form("  Zoe\u0308 ", [hopper_file], external_id="N-1", metadata={"b": 1, "a": "é"})
    assert form.texts == [("name", "Zoë"), ("external_id", "N-1"), ("metadata", '{"a": "\\u00e9", "b": 1}')]
    assert [name for name, _ in form.photos] == ["photo"]
    for name in ("", " ", "x" * 201):
        with pytest.raises(ValueError, match="a name must have"):
            enrolment_form(name, [hopper_file])
    with pytest.raises(ValueError, match="JSON"):
        enrolment_form("Ada", [hopper_file], metadata={"a": float("nan")})
    assert [name for name, _ in photo_form([hopper_file], others=[hopper_file]).photos] == ["photo", "other"]
