"""Values from a file that may come from anyone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification.stores.sql_values import SqlValues

D = 4


class Values(SqlValues):
    """`SqlValues` with a name."""

    name = "people.gallery"  # type: ignore[assignment]


@pytest.fixture
def values() -> Values:
    return Values("default")


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("_integer", [0, 2**63 - 1], [-1, 2**63, 1.0, "1", None, True, b"1"]),
        ("_quality", [None, 0, 1.0, 0.25], [-0.1, 1.1, float("nan"), float("inf"), "1", b""]),
        ("_time", [0, 253_402_300_799], [-1, 253_402_300_800, 2**62, "1", None, 1.5]),
        ("_text", ["", "a" * 65_536], ["a" * 65_537, b"a", None, 1]),
        ("_opened", ["", "a"], ["a" * 300_000, b"a", None, 1]),
        ("_opened_bytes", [b"", b"a"], ["a", None, 1]),
    ],
)
def test_types_and_ranges(values: Values, kind: str, right: list[Any], wrong: list[Any]) -> None:
    check = getattr(values, kind)
    for value in right:
        check(value)
    for value in wrong:
        with pytest.raises(GalleryError, match=r"^people\.gallery: damaged \("):
            check(value)


@pytest.mark.parametrize("text", ["[]", "7", "{", "", None, b"{}", "[" * 100_000])
def test_values_that_must_be_objects(values: Values, text: Any) -> None:
    assert values._object('{"a": 1}', "it") == {"a": 1}
    with pytest.raises(GalleryError, match="damaged"):
        values._object(text, "it")


def test_controls_in_a_text_are_escaped(values: Values) -> None:
    assert values._text("a\x1b[2Jb") == "a\\x1b[2Jb"


def rows(*vectors: list[float]) -> list[bytes]:
    return [np.array(vector, "<f2").tobytes() for vector in vectors]


def test_vectors_are_of_length_one(values: Values) -> None:
    found = values._vectors_of(rows([1, 0, 0, 0], [0.5, -0.5, 0.5, -0.5]), D)
    assert found.dtype == np.float16 and found.tolist() == [[1, 0, 0, 0], [0.5, -0.5, 0.5, -0.5]]
    assert values._vectors_of([], D).shape == (0, D)
    for wrong in ([0, 0, 0, 0], [1, 1, 0, 0], [np.nan, 1, 0, 0], [np.inf, 0, 0, 0], [65_504, 0, 0, 0], [0.9, 0, 0, 0]):
        with pytest.raises(GalleryError, match="an embedding is not of length 1"):
            values._vectors_of(rows([1, 0, 0, 0], wrong), D)
    for other in (b"", b"\0" * 7, b"\0" * 10, "text", None, 1.5):
        with pytest.raises(GalleryError, match="an embedding is not of 4 numbers"):
            values._vectors_of([other], D)


def test_lengths_are_those_that_numpy_computes(values: Values) -> None:
    from facespace.identification.stores.sql_values import _squared_lengths

    vectors = np.random.default_rng(0).standard_normal((300, 33)).astype(np.float16)
    vectors[0] = 6e-8  # the smallest float16 numbers
    exact = (vectors.astype(np.float64) ** 2).sum(axis=1)
    np.testing.assert_allclose(_squared_lengths(vectors), exact, rtol=1e-5, atol=1e-12)
