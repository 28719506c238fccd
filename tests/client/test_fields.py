"""Values of answers: which are accepted, and the errors for all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from facespace.client.fields import Fields, read_json
from facespace.errors import ServiceError

READERS: dict[str, Callable[[Fields], Any]] = {
    "text": lambda fields: fields.text("a"),
    "truth": lambda fields: fields.truth("a"),
    "whole": lambda fields: fields.whole("a"),
    "number": lambda fields: fields.number("a"),
    "numbers": lambda fields: fields.numbers("a"),
    "points": lambda fields: fields.points("a"),
    "texts": lambda fields: fields.texts("a"),
    "mapping": lambda fields: fields.mapping("a"),
    "inner": lambda fields: fields.inner("a"),
    "each": lambda fields: list(fields.each("a")),
}
GOOD: dict[str, list[Any]] = {
    "text": ["", "Zoë"],
    "truth": [True, False],
    "whole": [0, 7, 2**63 - 1],
    "number": [0, -1, 0.5, 1e300],
    "numbers": [[], [1, 2.5]],
    "points": [[], [[1, 2]]],
    "texts": [[], ["a"]],
    "mapping": [{}, {"b": [1]}],
    "inner": [{}],
    "each": [[], [{}]],
}
BAD: dict[str, list[Any]] = {
    "text": [1, None, ["a"], {}, True],
    "truth": [0, 1, "true", None, []],
    "whole": [-1, 1.0, True, "1", 2**63, 10**5000, None],
    "number": [True, "1", None, [], float("nan"), float("inf"), 10**400],
    "numbers": [1, "12", [1, "2"], [None], [True], [[1]], [10**400], {"0": 1}],
    "points": [1, [1, 2], [[1]], [[1, 2, 3]], [[1, "2"]]],
    "texts": ["a", [1], [None], {}],
    "mapping": [[], "a", 1, None],
    "inner": [[], "a", 1, None],
    "each": [{}, "a", [1], [[]], [None], None],
}


@pytest.mark.parametrize("kind", READERS)
def test_good_values_are_returned(kind: str) -> None:
    for value in GOOD[kind]:
        got = READERS[kind](Fields({"a": value}, "here"))
        if kind in ("text", "truth", "whole", "number", "numbers", "mapping"):
            assert got == value


@pytest.mark.parametrize("kind", READERS)
def test_bad_values_are_errors_on_one_line(kind: str) -> None:
    for fields in ({"a": value} for value in BAD[kind]):
        with pytest.raises(ServiceError, match=r"^here: a(\[0\])? must be ") as caught:
            READERS[kind](Fields(fields, "here"))
        assert caught.value.code == "unexpected_answer"
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300
    with pytest.raises(ServiceError, match="got nothing"):
        READERS[kind](Fields({}, "here"))


def test_defaults_replace_only_missing_and_null_values() -> None:
    for fields in (Fields({}, "here"), Fields({"a": None}, "here")):
        assert fields.text("a", "x") == "x"
        assert fields.number("a", None) is None
        assert fields.inner_or_none("a") is None
    with pytest.raises(ServiceError, match="a must be text"):
        Fields({"a": 1}, "here").text("a", "x")


def test_an_error_names_the_path_of_the_value() -> None:
    fields = Fields({"people": [{}, {"photos": [{"id": 7}]}]}, "here")
    person = list(fields.each("people"))[1]
    with pytest.raises(ServiceError, match=r"here: people\[1\].photos\[0\].id must be text in the answer, got 7"):
        next(person.each("photos")).text("id")


def test_long_and_strange_values_are_shortened_and_escaped() -> None:
    for value in ("x" * 10_000, "a\x1b[2J\nb", list(range(10_000))):
        with pytest.raises(ServiceError) as caught:
            Fields({"a": value}, "here").number("a")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 250


def test_the_length_of_a_list_of_numbers() -> None:
    assert Fields({"a": [1, 2]}, "here").numbers("a", 2) == [1, 2]
    with pytest.raises(ServiceError, match="a must be 2 numbers in the answer, got a list of 3"):
        Fields({"a": [1, 2, 3]}, "here").numbers("a", 2)


@pytest.mark.parametrize("data", [b"", b"nul", b"[", b'{"a": Infinity}', b"\xff", b"[" * 100_000, b'{"a":' * 100_000])
def test_invalid_json(data: bytes) -> None:
    with pytest.raises(ServiceError, match="here: the answer is not JSON"):
        read_json(data, "here")
