"""Several datasets as one."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest

from facespace.datasets.names import Names
from facespace.datasets.union import UnionImages
from facespace.errors import DatasetError


class Few:
    """A minimal dataset: image k consists of `letter` and k."""

    def __init__(self, letter: str, names: Sequence[str], labels: Sequence[int]) -> None:
        self.letter, self.names, self.labels = letter, names, np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        assert 0 <= index < len(self)
        return f"{self.letter}{index}".encode()

    def read(self, index: int) -> np.ndarray:
        assert 0 <= index < len(self)
        return np.full((1, 1, 3), ord(self.letter) + index, np.uint8)


def test_labels_are_merged_by_name_and_order_is_kept() -> None:
    union = UnionImages([
        Few("a", ["Zoë", "Anna"], [0, 1, 0]),
        Few("b", ["Ben", "Anna", "nobody"], [1, 0]),
        Few("c", ["Zoë"], [0]),
    ])  # fmt: skip
    assert union.names == ("Zoë", "Anna", "Ben", "nobody")
    assert union.labels.tolist() == [0, 1, 0, 1, 2, 0]
    assert union.labels.dtype == np.int64
    assert len(union) == 6
    assert [union.encoded(k) for k in range(6)] == [b"a0", b"a1", b"a2", b"b0", b"b1", b"c0"]
    assert [int(union.read(k)[0, 0, 0]) for k in range(6)] == [97, 98, 99, 98, 99, 99]


def test_each_image_keeps_its_name() -> None:
    rng = np.random.default_rng(0)
    parts = []
    for letter in "abcd":
        names = [f"p{k}" for k in rng.permutation(20)[:9]]
        parts.append(Few(letter, names, rng.integers(9, size=rng.integers(12)).tolist()))
    union = UnionImages(parts)
    expected = [part.names[label] for part in parts for label in part.labels]
    assert [union.names[label] for label in union.labels] == expected
    assert len(set(union.names)) == len(union.names)
    encoded = [part.encoded(k) for part in parts for k in range(len(part))]
    assert [union.encoded(k) for k in range(len(union))] == encoded


def test_datasets_without_names_share_no_identity() -> None:
    union = UnionImages([Few("a", Names(3, {1: "Ben"}), [0, 1, 2]), *(Few(x, Names(2, {}), [0, 1, 1]) for x in "bc")])
    assert union.names == (
        "0", "Ben", "2", "0 (dataset 2)", "1 (dataset 2)", "0 (dataset 3)", "1 (dataset 3)"
    )  # fmt: skip
    assert union.labels.tolist() == [0, 1, 2, 3, 4, 4, 5, 6, 6]
    alone = UnionImages([Few("b", Names(2, {}), [0, 1])])
    assert alone.names == ("0", "1")


@pytest.mark.parametrize(
    "names",
    [
        [str(k) for k in sorted(range(12), key=str)],  # in the order of sorted folders
        [f"{k:06d}" for k in range(12)],
        [f"{k:02d}" for k in range(1, 13)],
        ["1", "0"],
        ["1"],
    ],
)
def test_numbered_folders_share_no_identity(names: list[str]) -> None:
    union = UnionImages([Few(x, names, range(len(names))) for x in "ab"])
    assert union.names == tuple(f"{name} (dataset {k})" for k in (1, 2) for name in names)
    assert union.labels.tolist() == list(range(2 * len(names)))


def test_converted_unions_keep_numbered_identities_apart() -> None:
    part = UnionImages([Few("a", ["0", "1"], [0, 1]), Few("b", ["Anna"], [0])])
    union = UnionImages([part, part])
    assert union.names == (
        "0 (dataset 1) (dataset 1)", "1 (dataset 1) (dataset 1)", "Anna",
        "0 (dataset 1) (dataset 2)", "1 (dataset 1) (dataset 2)",
    )  # fmt: skip
    assert union.labels.tolist() == [0, 1, 2, 3, 4, 2]


@pytest.mark.parametrize(
    ("first", "second"),
    [(["7", "Ben"], ["Cleo", "7"]), (["0000045", "0000099"], ["0000099", "0000102"]), (["2", "3"], ["3", "4"])],
)
def test_numbers_with_gaps_are_names_with_a_warning(first: list[str], second: list[str]) -> None:
    with pytest.warns(
        UserWarning,
        match="^1 identities whose names are equal numbers in several datasets are treated as the same people",
    ):
        union = UnionImages([Few("a", first, [0, 1]), Few("b", second, [1, 0])])
    assert set(union.names) == {*first, *second}
    assert [union.names[label] for label in union.labels] == [*first, second[1], second[0]]


def test_empty_datasets_and_no_datasets() -> None:
    union = UnionImages([Few("a", [], []), Few("b", ["B"], [0]), Few("c", ["C"], []), Few("d", ["D"], [0])])
    assert union.names == ("B", "C", "D")
    assert [union.encoded(k) for k in range(2)] == [b"b0", b"d0"]
    with pytest.raises(DatasetError, match="at least one dataset, got none"):
        UnionImages([])


def test_a_union_of_unions() -> None:
    parts = [Few("a", ["A", "B"], [0, 1]), Few("b", ["B", "C"], [1, 0]), Few("c", ["C"], [0])]
    flat, deep = UnionImages(parts), UnionImages([parts[0], UnionImages(parts[1:])])
    assert flat.names == deep.names
    assert flat.labels.tolist() == deep.labels.tolist()
    copy = pickle.loads(pickle.dumps(deep))
    assert [copy.encoded(k) for k in range(5)] == [flat.encoded(k) for k in range(5)]


@pytest.mark.parametrize("index", [-1, 3, 10**20])
def test_no_such_image(index: int) -> None:
    union = UnionImages([Few("a", ["A"], [0, 0]), Few("b", ["A"], [0])])
    for method in (union.encoded, union.read):
        with pytest.raises(IndexError):
            method(index)
