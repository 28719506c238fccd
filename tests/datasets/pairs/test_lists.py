"""Lists of pairs: reading them, and errors that name the damaged line."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from facespace.datasets.pairs import lists as module
from facespace.datasets.pairs.lists import PairList, find_photos, read_csv_pairs, read_lfw_pairs
from facespace.errors import DatasetError


@pytest.fixture
def lfw(tmp_path: Path):
    """Return a function that reads text as an LFW list."""

    def read(text: str | bytes) -> PairList:
        path = tmp_path / "pairs.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_lfw_pairs(path)

    return read


@pytest.fixture
def table(tmp_path: Path):
    """Return a function that reads text as CSV."""

    def read(text: str | bytes) -> PairList:
        path = tmp_path / "pairs.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_csv_pairs(path)

    return read


def rows(pairs: PairList) -> list[tuple[str, str, bool]]:
    ends = zip(pairs.first, pairs.second, pairs.same, strict=True)
    return [(pairs.photos[a], pairs.photos[b], bool(same)) for a, b, same in ends]


# LFW

TWO_FOLDS = "2\t1\nAnna\t1\t4\nAnna\t1\tBen\t2\nBen\t2\t3\nCleo\t10\tAnna\t12345\n"


def test_two_folds(lfw) -> None:
    pairs = lfw(TWO_FOLDS)
    assert rows(pairs) == [
        ("Anna/Anna_0001", "Anna/Anna_0004", True),
        ("Anna/Anna_0001", "Ben/Ben_0002", False),
        ("Ben/Ben_0002", "Ben/Ben_0003", True),
        ("Cleo/Cleo_0010", "Anna/Anna_12345", False),
    ]
    assert pairs.fold is not None
    assert pairs.fold.tolist() == [1, 1, 2, 2]
    assert pairs.people == ("Anna", "Anna", "Ben", "Ben", "Cleo", "Anna")
    assert pairs.groups == {}
    assert (pairs.first.dtype, pairs.second.dtype, pairs.fold.dtype) == (np.int64,) * 3
    assert pairs.same.dtype == np.bool_


def test_one_number_means_no_folds(lfw) -> None:
    pairs = lfw("2\nA 1 2\nA 2 3\nA 1 B 1\nA 1 B 2\n")
    assert pairs.same.tolist() == [True, True, False, False]
    assert pairs.fold is None


def test_three_pairs_of_each_kind_in_each_fold(lfw) -> None:
    fold = "A 1 2\nA 2 3\nA 1 3\nA 1 B 1\nA 1 B 2\nA 1 B 3\n"
    pairs = lfw("2 3\n" + fold * 2)
    assert pairs.same.tolist() == [True, True, True, False, False, False] * 2
    assert pairs.fold is not None
    assert pairs.fold.tolist() == [1] * 6 + [2] * 6


@pytest.mark.parametrize(
    "same_text",
    [
        TWO_FOLDS.replace("\t", " "),
        TWO_FOLDS.replace("\t", "   "),
        TWO_FOLDS.replace("\n", "\r\n"),
        "\ufeff" + TWO_FOLDS,
        TWO_FOLDS + "\n\r\n  \n",
        TWO_FOLDS.rstrip("\n"),
        TWO_FOLDS.replace("\n", " \n"),
    ],
    ids=["blanks", "many blanks", "Windows", "BOM", "empty lines at the end", "no line end", "blanks at line ends"],
)
def test_ways_to_write_the_same_list(lfw, same_text: str) -> None:
    assert rows(lfw(same_text)) == rows(lfw(TWO_FOLDS))


def test_names_are_kept_as_they_are(lfw) -> None:
    zoe = "Zoe\u0308 de la Cruz"  # decomposed, with blanks: like the name of its folder
    pairs = lfw(f"1\n{zoe}\t1\t2\n{zoe}\t1\tA.J._Cook\t1\n")
    assert pairs.photos == (f"{zoe}/{zoe}_0001", f"{zoe}/{zoe}_0002", "A.J._Cook/A.J._Cook_0001")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "line 1: expected a header like `10 300`"),
        ("Anna 1 2\nAnna 1 Ben 2\n", "line 1: .*got a pair; put the header before it"),
        ("Anna 1 Ben 2\n", "got a pair"),
        ("many\n", "line 1: expected a header.*got `many`"),
        ("0 300\n", "line 1: expected a header"),
        ("10 -3\n", "line 1: expected a header"),
        ("1.5\n", "line 1: expected a header"),
        ("9999999999 1\n", "line 1: expected a header"),
        ("\u0661\nA 1 2\nA 1 B 2\n", "line 1: expected a header"),  # a digit, but not an ASCII one
        ("1\nA 1 2\n", r"the header announces 2 pairs \(1 of one person and 1 of two\), got 1 lines"),
        ("1\nA 1 2\nA 1 B 2\nA 1 B 3\n", "got 3 lines"),
        ("10 300\nA 1 2\n", r"announces 6,000 pairs \(10 folds of 300 of one person and 300 of two\)"),
        ("999999999 999999999\nA 1 2\n", "got 1 lines"),
        ("1\nA 1 B 2\nA 1 2\n", "line 2: expected `Name i j`.*got 4 fields"),
        ("1\nA 1 2\nA 1 3\n", "line 3: expected `Name i Name j`.*got 3 fields"),
        ("1\nA 1 2\n\nA 1 B 2\n", "got 3 lines"),
        ("2\nA 1 2\n\nA 1 B 2\nA 1 B 3\n", "line 3: expected `Name i j`.*got 0 fields"),
        ("1\nA 1 2 3 4\nA 1 B 2\n", "line 2: .*got 5 fields"),
        ("1\nA 1 2\nA 1 A 2\n", "line 3: expected a pair of two people, got `A` twice"),
        ("1\nA 1 x\nA 1 B 2\n", "line 2: the number of a photo must be a whole number from 1, got `x`"),
        ("1\nA 0 1\nA 1 B 2\n", "line 2: .*got `0`"),
        ("1\nA -1 1\nA 1 B 2\n", "line 2: .*got `-1`"),
        ("1\nA 1 2\nA 1 B 2.0\n", "line 3: .*got `2.0`"),
        ("1\nA 1 1e3\nA 1 B 2\n", "line 2: .*got `1e3`"),
        (f"1\nA 1 {'9' * 5000}\nA 1 B 2\n", "line 2: .*got `9{60}…`"),
        ("1\n../x 1 2\nA 1 B 2\n", "line 2: a name must be that of a folder of photos, got `../x`"),
        ("1\n.. 1 2\nA 1 B 2\n", "line 2: a name must be"),
        ("1\nA/B 1 2\nA 1 B 2\n", "line 2: a name must be"),
        ("1\n. 1 2\nA 1 B 2\n", "line 2: a name must be"),
        ("1\n/etc 1 2\nA 1 B 2\n", "line 2: a name must be"),
        ("1\nA\\B 1 2\nA 1 B 2\n", "line 2: a name must be"),
        ("1\nC: 1 2\nA 1 B 2\n", "line 2: a name must be"),
        ("1\nA 1 2\nA 1 x/../../B 2\n", "line 3: a name must be"),
        ("1\nA\0 1 2\nA 1 B 2\n", r"line 2: a name must be .*got `A\\x00`"),
        ("1\n\t1\t2\nA 1 B 2\n", "line 2: .*got 2 fields"),
        ("1\n\x1b[31m\t1\tx\nA 1 B 2\n", "line 2: .*got `x`"),
        ("1\n\x1b[31m 1 2 4 5\nA 1 B 2\n", r"line 2: .*`\\x1b\[31m 1 2 4 5`"),
        (b"1\nA 1 2\nA 1 \xff 2\n", "must be UTF-8 text, but byte 12 is not"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_a_damaged_list_is_refused(lfw, text: str | bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=f"pairs.txt.*{message}") as caught:
        lfw(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("read", [read_lfw_pairs, read_csv_pairs])
def test_invalid_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read) -> None:
    with pytest.raises(DatasetError, match=r"none\.txt: no such file"):
        read(tmp_path / "none.txt")
    with pytest.raises(DatasetError, match="not a regular file"):
        read(tmp_path)
    with pytest.raises(DatasetError, match=r"a\\x00b: cannot be read"):
        read("a\0b")
    (tmp_path / "long.txt").write_text("x" * 101)
    monkeypatch.setattr(module, "_MAX_BYTES", 100)
    with pytest.raises(DatasetError, match="must have at most 100 bytes, got 101"):
        read(tmp_path / "long.txt")


@pytest.mark.skipif(sys.platform == "win32", reason="a fifo")
def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DatasetError, match="not a regular file"):
        read_lfw_pairs(tmp_path / "fifo")


# CSV


def test_csv(table) -> None:
    pairs = table("a,b,same,light\nx/1.png,x/2.png,1,dim\nx/1.png,y/1.heic,0,bright\n")
    assert rows(pairs) == [("x/1.png", "x/2.png", True), ("x/1.png", "y/1.heic", False)]
    assert pairs.groups == {"light": ("dim", "bright")}
    assert pairs.people is None
    assert pairs.fold is None


def test_columns_in_any_order_with_folds_and_people(table) -> None:
    pairs = table(
        "fold, person_b,same,b,age gap,person_a,a\n"
        '2,Anna,yes,"x,y/2.png",3,Anna,1.png\n'
        '1,Ben,no,3.png,,Anna,1.png\n'
    )  # fmt: skip
    assert rows(pairs) == [("1.png", "x,y/2.png", True), ("1.png", "3.png", False)]
    assert pairs.fold is not None
    assert pairs.fold.tolist() == [2, 1]
    assert pairs.people == ("Anna", "Anna", "Ben")
    assert pairs.groups == {"age gap": ("3", "")}


def test_people_of_one_side_alone_are_not_used(table) -> None:
    pairs = table("a,b,same,person_a\n1,2,1,Anna\n")
    assert pairs.people is None
    assert pairs.groups == {}


@pytest.mark.parametrize(
    ("word", "same"), [("1", True), ("TRUE", True), ("Yes", True), ("0", False), ("False", False), (" no ", False)]
)
def test_words_for_same(table, word: str, same: bool) -> None:
    assert table(f"a,b,same\n1,2,{word}\n").same.tolist() == [same]


@pytest.mark.parametrize(
    "text",
    ["a,b,same\r\n1,2,1\r\n", "\ufeffa,b,same\n1,2,1\n", '"a","b","same"\n"1","2","1"', "a,b,same\n\n1,2,1\n\n"],
    ids=["Windows", "BOM", "quoted", "empty lines"],
)
def test_ways_to_write_the_same_table(table, text: str) -> None:
    assert rows(table(text)) == [("1", "2", True)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n", "line 1: the header must have the columns a, b and same"),
        ("a;b;same\n1;2;1\n", "line 1: the header must have the columns a, b and same, got `a;b;same`"),
        ("a,b\n1,2\n", "line 1: the header must have"),
        ("a,b,same,a\n1,2,1,1\n", "line 1: every column must have a name of its own"),
        ("a,b,same,\n1,2,1,1\n", "line 1: every column must have a name"),
        ("a,b,same\n", "csv: a list of pairs must have at least one pair"),
        ("a,b,same\n1,2,1\n1,2\n", "line 3: expected 3 fields as in the header, got 2"),
        ("a,b,same\n1,2,1,4\n", "line 2: expected 3 fields as in the header, got 4"),
        ("a,b,same\n1,2,maybe\n", "line 2: same must be 1/0, true/false or yes/no, got `maybe`"),
        ("a,b,same\n1,2,\n", "line 2: same must be"),
        (
            "a,b,same\n/etc/passwd,2,1\n",
            "line 2: a must be a path inside the folder of images; `/etc/passwd` is absolute",
        ),
        ("a,b,same\n1,C:\\x,1\n", "line 2: b must be a path inside .*is absolute"),
        ("a,b,same\n1,\\\\server\\share\\x,1\n", "is absolute"),
        ("a,b,same\n1,x/../../y,1\n", "line 2: b must be .*leads out of it"),
        ("a,b,same\n1,..,1\n", "leads out of it"),
        ("a,b,same\n1,x\\..\\..\\y,1\n", "leads out of it"),
        ("a,b,same\n1,,1\n", "line 2: b must be .*is empty"),
        ("a,b,same\n1,./,1\n", "line 2: b must be .*is not the name of a file"),
        ('a,b,same\n"1\n",2,1\n1,2,x\n', "line 4: same must be"),  # the error counts lines of the file, not rows
        ('a,b,same\n1,2,1\n1,"2,1\n', "line 3: unexpected end of data"),
        ('a,b,same\n1,2,"1"x\n', "line 2: "),
        (f"a,b,same\n1,{'x' * 200_000},1\n", "line 2: field larger than field limit"),
        ("a,b,same,fold\n1,2,1,0\n", "line 2: fold must be a whole number from 1, got `0`"),
        ("a,b,same,fold\n1,2,1,1.0\n", "line 2: fold must be"),
        ("a,b,same,fold\n1,2,1,\n", "line 2: fold must be"),
        ("a,b,same,fold\n1,2,1,1\n1,2,1,3\n", "csv: folds must be numbered from 1 without gaps, got 1, 3"),
        ("a,b,same,fold\n1,2,1,999999999\n", "csv: folds must be numbered from 1"),
        ("a,b,same,person_a,person_b\n1,2,1,Anna,\n", "line 2: person_b must be a name, got an empty field"),
        ("a,b,same,person_a,person_b\n1,2,1,A,B\n", "line 2: same is `1`, but the people are `A` and `B`"),
        ("a,b,same,person_a,person_b\n1,2,0,A,A\n", "line 2: same is `0`, but the people are `A` and `A`"),
        ("a,b,same,person_a,person_b\n1,2,0,A,B\n2,3,0,C,D\n", "line 3: `2` shows `C` here and `B` in an earlier line"),
        (b"a,b,same\n1,\xff,1\n", "must be UTF-8 text"),
        ("a,b,same\n1,x\0y,1\n", "line 2: "),
        ("a,b,same\n1,\x1b[0m/..,1\n", r"line 2: .*`\\x1b\[0m/..`"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_a_damaged_table_is_refused(table, text: str | bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        table(text)
    assert "pairs.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


# Invariants of a list of pairs

GOOD = {
    "photos": ("a", "b"),
    "people": ("A", "B"),
    "first": np.array([0, 0]),
    "second": np.array([1, 0]),
    "same": np.array([False, True]),
    "fold": np.array([1, 2]),
    "groups": {"light": ("dim", "dim")},
}


def test_a_good_list() -> None:
    assert len(PairList(**GOOD).same) == 2
    assert PairList(**GOOD | {"fold": None, "people": None, "groups": {}}).fold is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        PairList(**GOOD).photos = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"first": np.array([0, 2])}, "indices of the 2 photos"),
        ({"second": np.array([0, -1])}, "indices of the 2 photos"),
        ({"first": np.array([0])}, r"first must be \(2,\) int64, one for each pair, got int64 \(1,\)"),
        ({"second": np.array([0.0, 1.0])}, "second must be .* got float64"),
        ({"same": np.array([0, 1])}, "same must be .*bool.* got int64"),
        ({"fold": np.array([1, 3])}, "got 1, 3"),
        ({"fold": np.array([0, 1])}, "got 0, 1"),
        ({"fold": np.array([0, 2])}, "got 0, 2"),
        ({"fold": np.array([1])}, "fold must be"),
        ({"photos": ("a", "a")}, "photos must contain each photo once"),
        ({"photos": ("a", "../b")}, "`../b` leads out of it"),
        ({"people": ("A",)}, "one name for each of 2 photos, got 1"),
        ({"groups": {"light": ("dim",)}}, "group `light` must have 2 values, one per pair, got 1"),
        ({name: GOOD[name][:0] for name in ("first", "second", "same", "fold")}, "at least one pair"),  # type: ignore[index]
    ],
)
def test_parts_that_do_not_fit(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        PairList(**GOOD | wrong)  # type: ignore[arg-type]


# Photos


def listed(*photos: str) -> PairList:
    zeros = np.zeros(1, np.int64)
    return PairList(photos, None, zeros, zeros, np.array([True]), None)


def put(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def test_photos_of_lfw(tmp_path: Path) -> None:
    put(tmp_path, "A/A_0001.jpg", "A/A_0001.png", "A/A_0002.bmp", "A.J._Cook/A.J._Cook_0001.WEBP", "A/A_0003_0.png")
    put(tmp_path, "A/A_0005_1.png", "A.J..png")
    photos = listed("A/A_0001", "A/A_0002", "A.J._Cook/A.J._Cook_0001", "A/A_0003", "A/A_0004", "A/A_0005", "B/B_0001")
    expected = ["A/A_0001.jpg", "A/A_0002.bmp", "A.J._Cook/A.J._Cook_0001.WEBP", "A/A_0003_0.png", None, None, None]
    assert find_photos(photos, tmp_path) == [file and tmp_path / file for file in expected]


def test_photos_of_csv(tmp_path: Path) -> None:
    put(tmp_path, "x/1.jpg", "x/1.png", "x/2.png", "x/3.webp", "4.jpg", "x/5", "x/6.tiff")
    photos = listed("x/1.jpg", "x/2.heic", "x/3.JPEG", "4.png", "x/5", "./x/6.tiff", "x/7.png", "z/1.png")
    expected = ["x/1.jpg", "x/2.png", "x/3.webp", "4.jpg", "x/5", "x/6.tiff", None, None]
    assert find_photos(photos, tmp_path) == [file and tmp_path / file for file in expected]


def test_a_folder_or_a_name_too_long_is_not_a_photo(tmp_path: Path) -> None:
    (tmp_path / "x" / "1.png").mkdir(parents=True)
    put(tmp_path, "x/1.jpg", "y")
    photos = listed("x/1.png", "y/1.png", f"{'n' * 5000}/1.png", "n" * 5000)
    assert find_photos(photos, tmp_path) == [tmp_path / "x" / "1.jpg", None, None, None]


@pytest.mark.skipif(sys.platform == "win32", reason="links")
def test_links(tmp_path: Path) -> None:
    put(tmp_path, "outside/1.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "x").symlink_to(tmp_path / "outside")
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    assert find_photos(listed("x/1.png", "gone.png", "loop.png"), root) == [root / "x" / "1.png", None, None]


def test_a_root_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere: no such folder of photos"):
        find_photos(listed("a"), tmp_path / "nowhere")


def test_each_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "A/A_0001.jpg", "B/B_0001.jpg")
    seen: list[Path] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: (seen.append(folder), listdir(folder))[1])
    find_photos(listed(*(f"{name}/{name}_{k:04d}" for k in range(50) for name in "AB")), tmp_path)
    assert seen == [tmp_path / "A", tmp_path / "B"]


# The real lists


@pytest.mark.shared
@pytest.mark.parametrize(("file", "n_each"), [("pairsDevTest.txt", 500), ("pairsDevTrain.txt", 1100)])
def test_view_1(shared: Path, file: str, n_each: int) -> None:
    folder = shared / "data" / "lfw_view1"
    pairs = read_lfw_pairs(folder / file)
    assert pairs.same.tolist() == [True] * n_each + [False] * n_each
    assert pairs.fold is None
    assert pairs.people is not None
    people = np.array(pairs.people)
    assert np.array_equal(people[pairs.first] == people[pairs.second], pairs.same)
    lines = (folder / file).read_text(encoding="utf-8").splitlines()
    assert pairs.photos[pairs.second[0]] == "{0}/{0}_{2:0>4}".format(*lines[1].split())
    assert pairs.photos[pairs.second[-1]] == "{2}/{2}_{3:0>4}".format(*lines[-1].split())
    start = time.perf_counter()
    found = find_photos(pairs, folder / "images")
    assert time.perf_counter() - start < 10
    assert None not in found
    assert [path and path.stem for path in found] == [photo.split("/")[1] for photo in pairs.photos]
