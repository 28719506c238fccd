"""Reads lists of pairs to verify (the text files of Labeled Faces in the Wild, and CSV) and finds their photos."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import numpy.typing as npt

from facespace.errors import DatasetError
from facespace.io.file_kinds import IMAGE_ENDINGS
from facespace.io.files import read_whole
from facespace.io.text import plain_text

_MAX_BYTES = 200_000_000
_NUMBER = re.compile(r"0*[1-9][0-9]{0,8}")
# An ending is short and has no underscore, so LFW's `A._J._Cook_0001` has no ending.
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,5}")
_USUAL_ENDINGS = (".jpg", ".png", ".jpeg", ".webp", ".bmp", ".JPG", ".PNG", ".JPEG", ".WEBP", ".BMP")
_OTHER_ENDINGS = tuple(sorted({*IMAGE_ENDINGS, *map(str.upper, IMAGE_ENDINGS)}.difference(_USUAL_ENDINGS)))
_CROP_ENDINGS = (".png", ".jpg", ".webp")
_YES_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_OWN_COLUMNS = ("a", "b", "same", "fold", "person_a", "person_b")


@dataclass(frozen=True, slots=True, eq=False)
class PairList:
    """Holds P pairs of photos, and whether each pair shows one person.

    `photos` contains each photo once, as a path relative to a folder of images. An LFW list gives paths like
    `Name/Name_0001`; a CSV list gives them as they are in the file. `people` are the identities of the photos; None if
    the list does not contain them. `first` and `second` (P,) int64 are indices into `photos`; `same` (P,) bool is true
    for pairs of one person. `fold` (P,) int64 counts from 1 without gaps; None for a list without folds. `groups` maps
    the name of each group column to its P values. Raises `DatasetError` if the fields do not fit together, or if a
    photo would be outside the folder.

    >>> pairs = PairList(("a.png", "b.png"), None, np.array([0]), np.array([1]), np.array([True]), None)
    >>> len(pairs.same)
    1
    """

    photos: tuple[str, ...]
    people: tuple[str, ...] | None
    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    same: npt.NDArray[np.bool_]
    fold: npt.NDArray[np.int64] | None
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_pairs = len(self.same)
        columns = {"first": self.first, "second": self.second, "same": self.same, "fold": self.fold}
        for name, column in columns.items():
            kind = np.bool_ if name == "same" else np.int64
            if column is not None and (column.dtype != kind or column.shape != (n_pairs,)):
                got = f"{column.dtype} {column.shape}"
                raise DatasetError(f"{name} must be ({n_pairs},) {np.dtype(kind)}, one for each pair, got {got}")
        if n_pairs == 0:
            raise DatasetError("a list of pairs must have at least one pair, got none")
        if min(self.first.min(), self.second.min()) < 0 or max(self.first.max(), self.second.max()) >= len(self.photos):
            raise DatasetError(
                f"first and second must be indices of the {len(self.photos)} photos, got one out of range"
            )
        if len(set(self.photos)) != len(self.photos):
            raise DatasetError("photos must contain each photo once, got one twice")
        for photo in self.photos:
            if flaw := _path_flaw(photo):
                raise DatasetError(f"a photo must be a path inside the folder of images; {_shown(photo)} {flaw}")
        if self.people is not None and len(self.people) != len(self.photos):
            raise DatasetError(
                f"people must have one name for each of {len(self.photos)} photos, got {len(self.people)}"
            )
        if self.fold is not None:
            numbers = np.unique(self.fold)
            if numbers[0] != 1 or numbers[-1] != len(numbers):
                raise DatasetError(f"folds must be numbered from 1 without gaps, got {_some(numbers)}")
        for name, values in self.groups.items():
            if len(values) != n_pairs:
                raise DatasetError(f"group {_shown(name)} must have {n_pairs} values, one per pair, got {len(values)}")


class _Photos:
    """The photos of a list of pairs, in the order in which they first appear, and the person on each photo."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}
        self.people: list[str] = []

    def add(self, photo: str, person: str) -> int:
        """Add a photo and return its index; -1 if it was added before with another person."""
        index = self.index.setdefault(photo, len(self.people))
        if index == len(self.people):
            self.people.append(person)
        return index if self.people[index] == person else -1


# Labeled Faces in the Wild


def read_lfw_pairs(path: str | os.PathLike[str]) -> PairList:
    """Read a list of pairs of LFW (`pairs.txt`, `pairsDevTest.txt`).

    The header `10 300` announces ten folds; each has 300 lines `Name i j`, pairs of one person, and then 300 lines
    `Name i Name j`, pairs of two people. The header `500` announces 500 lines of each kind, without folds. Fields are
    separated by tabs, or by blanks in a line without tabs. A `DatasetError` names the file and the line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "pairs.txt")
    ...     _ = file.write_text("1\\nAnna 1 2\\nAnna 1 Ben 3\\n")
    ...     pairs = read_lfw_pairs(file)
    >>> pairs.photos
    ('Anna/Anna_0001', 'Anna/Anna_0002', 'Ben/Ben_0003')
    >>> pairs.same.tolist()
    [True, False]
    """
    file = plain_text(os.fspath(path))
    lines = [line.strip(" \t\r") for line in _text(path, file).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    n_folds, n_each = _lfw_header(lines[0] if lines else "", file)
    n_pairs = 2 * (n_folds or 1) * n_each
    if len(lines) - 1 != n_pairs:
        folds = f"{n_folds} folds of " if n_folds else ""
        raise DatasetError(
            f"{file}: the header announces {n_pairs:,} pairs ({folds}{n_each} of one person and {n_each} of two), got "
            f"{len(lines) - 1:,} lines"
        )
    photos = _Photos()
    first, second = np.empty(n_pairs, np.int64), np.empty(n_pairs, np.int64)
    same = np.arange(n_pairs) // n_each % 2 == 0
    for k, line in enumerate(lines[1:]):
        try:
            sides = _lfw_pair(line, bool(same[k]))
        except DatasetError as error:
            raise DatasetError(f"{file}, line {k + 2}: {error}") from None
        first[k], second[k] = (photos.add(f"{name}/{name}_{number:04d}", name) for name, number in sides)
    fold = np.arange(n_pairs, dtype=np.int64) // (2 * n_each) + 1 if n_folds else None
    return PairList(tuple(photos.index), tuple(photos.people), first, second, same, fold)


def _lfw_header(line: str, file: str) -> tuple[int | None, int]:
    """Return the number of folds (None without folds), and n: a fold has n same-person pairs and n pairs of two people.

    Without folds, the whole list has n pairs of each kind.
    """
    numbers = line.split()
    if 1 <= len(numbers) <= 2 and all(map(_NUMBER.fullmatch, numbers)):
        return (int(numbers[0]) if len(numbers) == 2 else None), int(numbers[-1])
    expected = "expected a header like `10 300` (folds, pairs of each kind in a fold) or `500`"
    if len(_lfw_fields(line)) in (3, 4):
        raise DatasetError(f"{file}, line 1: {expected}, got a pair; put the header before it")
    raise DatasetError(f"{file}, line 1: {expected}, got {_shown(line)}")


def _lfw_fields(line: str) -> list[str]:
    # If there are tabs, only they separate, so that a name may contain blanks.
    return line.split("\t") if "\t" in line else [part for part in line.split(" ") if part]


def _lfw_pair(line: str, same: bool) -> tuple[tuple[str, int], tuple[str, int]]:
    fields = _lfw_fields(line)
    if len(fields) != (3 if same else 4):
        expected = "`Name i j`, a pair of one person" if same else "`Name i Name j`, a pair of two people"
        raise DatasetError(f"expected {expected}, got {len(fields)} fields: {_shown(line)}")
    (name, i), (other, j) = fields[:2], (fields[0], fields[2]) if same else fields[2:]
    if not same and name == other:
        raise DatasetError(f"expected a pair of two people, got {_shown(name)} twice")
    for person in (name, other):
        if not person or "/" in person or "\\" in person or _path_flaw(person):
            raise DatasetError(f"a name must be that of a folder of photos, got {_shown(person)}")
    for number in (i, j):
        if not _NUMBER.fullmatch(number):
            raise DatasetError(f"the number of a photo must be a whole number from 1, got {_shown(number)}")
    return (name, int(i)), (other, int(j))


# CSV


def read_csv_pairs(path: str | os.PathLike[str]) -> PairList:
    """Read a CSV file with a header: columns `a` and `b` (paths of photos) and `same` (1/0, true/false or yes/no).

    Optional columns are `fold` (whole numbers from 1) and `person_a`, `person_b` (the people on the photos; used if both
    are present). Every other column becomes a group. A `DatasetError` names the file and the line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "pairs.csv")
    ...     _ = file.write_text("a,b,same,light\\nx/1.png,x/2.png,yes,dim\\n")
    ...     pairs = read_csv_pairs(file)
    >>> pairs.photos, pairs.groups
    (('x/1.png', 'x/2.png'), {'light': ('dim',)})
    """
    file = plain_text(os.fspath(path))
    # strict: an unclosed quote is an error; otherwise its field would contain the rest of the file.
    rows = csv.reader(io.StringIO(_text(path, file), newline=""), strict=True)
    try:
        table = _Table([name.strip() for name in next(rows, [])])
        for fields in rows:
            if fields:  # not an empty line
                table.add(fields)
    except (csv.Error, DatasetError) as error:
        raise DatasetError(f"{file}, line {max(rows.line_num, 1)}: {error}") from None
    try:
        return table.pairs()
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from None


class _Table:
    """The rows of a CSV file, checked one by one as they are added."""

    def __init__(self, header: list[str]) -> None:
        if not {"a", "b", "same"} <= set(header):
            raise DatasetError(f"the header must have the columns a, b and same, got {_shown(','.join(header))}")
        if len(set(header)) != len(header) or "" in header:
            raise DatasetError(f"every column must have a name of its own, got {_shown(','.join(header))}")
        self._header = header
        self._has_people = {"person_a", "person_b"} <= set(header)
        self._has_fold = "fold" in header
        self._photos = _Photos()
        self._sides: tuple[list[int], list[int]] = ([], [])
        self._same: list[bool] = []
        self._fold: list[int] = []
        self._groups: dict[str, list[str]] = {name: [] for name in header if name not in _OWN_COLUMNS}

    def add(self, fields: list[str]) -> None:
        if len(fields) != len(self._header):
            raise DatasetError(f"expected {len(self._header)} fields as in the header, got {len(fields)}")
        row = dict(zip(self._header, fields, strict=True))
        same = _YES_NO.get(row["same"].strip().lower())
        if same is None:
            raise DatasetError(f"same must be 1/0, true/false or yes/no, got {_shown(row['same'])}")
        self._same.append(same)
        for side, indices in zip("ab", self._sides, strict=True):
            indices.append(self._photo(row, side))
        if self._has_people and same != (row["person_a"] == row["person_b"]):
            names = f"{_shown(row['person_a'])} and {_shown(row['person_b'])}"
            raise DatasetError(f"same is {_shown(row['same'])}, but the people are {names}")
        if self._has_fold:
            if not _NUMBER.fullmatch(row["fold"].strip()):
                raise DatasetError(f"fold must be a whole number from 1, got {_shown(row['fold'])}")
            self._fold.append(int(row["fold"]))
        for name, values in self._groups.items():
            values.append(row[name])

    def _photo(self, row: dict[str, str], side: str) -> int:
        photo, person = row[side], row[f"person_{side}"] if self._has_people else ""
        if flaw := _path_flaw(photo):
            raise DatasetError(f"{side} must be a path inside the folder of images; {_shown(photo)} {flaw}")
        if self._has_people and not person.strip():
            raise DatasetError(f"person_{side} must be a name, got an empty field")
        index = self._photos.add(photo, person)
        if index < 0:
            known = self._photos.people[self._photos.index[photo]]
            raise DatasetError(f"{_shown(photo)} shows {_shown(person)} here and {_shown(known)} in an earlier line")
        return index

    def pairs(self) -> PairList:
        first, second = (np.array(indices, np.int64) for indices in self._sides)
        return PairList(
            tuple(self._photos.index),
            tuple(self._photos.people) if self._has_people else None,
            first,
            second,
            np.array(self._same, np.bool_),
            np.array(self._fold, np.int64) if self._has_fold else None,
            {name: tuple(values) for name, values in self._groups.items()},
        )


# Photos


def find_photos(pairs: PairList, root: str | os.PathLike[str]) -> list[Path | None]:
    """Return the file below `root` of each photo, or None if the file is missing. Each folder is listed once.

    For a photo without a file ending, such as `Name_0001`, all endings of photos are tried, and also `Name_0001_0.png`:
    the crop of the first face, if all faces of a photo were cropped. For a photo with an ending, its crop is tried too,
    which has the same name with the ending `.png`, `.jpg` or `.webp`. Raises `DatasetError` if `root` is not a folder,
    or if a folder in it cannot be listed.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{plain_text(str(root))}: no such folder of photos")
    listed: dict[Path, frozenset[str]] = {}
    found: list[Path | None] = []
    for photo in pairs.photos:
        inner, name = os.path.split(photo)
        folder = root / inner
        if folder not in listed:
            listed[folder] = _listing(folder)
        names = (name for name in _file_names(name) if name in listed[folder])
        found.append(next((folder / name for name in names if os.path.isfile(folder / name)), None))
    return found


def _file_names(name: str) -> Iterator[str]:
    yield name
    stem, ending = os.path.splitext(name)
    if _ENDING.fullmatch(ending):
        yield from (stem + crop for crop in _CROP_ENDINGS)
        return
    yield from (name + ending for ending in _USUAL_ENDINGS)
    yield from (f"{name}_0{ending}" for ending in _CROP_ENDINGS)
    yield from (name + ending for ending in _OTHER_ENDINGS)


def _listing(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except PermissionError:
        raise DatasetError(f"{plain_text(str(folder))}: the folder cannot be listed; permission denied") from None
    except OSError:
        return frozenset()


# Untrusted text


def _text(path: str | os.PathLike[str], file: str) -> str:
    try:
        return read_whole(path, _MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: must be UTF-8 text, but byte {error.start:,} is not UTF-8") from None


def _path_flaw(path: str) -> str | None:
    """Return why a path does not name a file inside its folder on every operating system; None if it does."""
    windows = PureWindowsPath(path)
    if not path.strip():
        return "is empty"
    if "\0" in path:
        return "contains a NUL"
    if windows.drive or windows.root:
        return "is absolute"  # on Windows or POSIX
    if ".." in windows.parts:  # the parts between slashes and backslashes
        return "leads out of it"
    return "is not the name of a file" if PurePosixPath(path) == PurePosixPath() else None


def _shown(text: str) -> str:
    """Return text of a file as errors show it: short and without control characters."""
    return f"`{plain_text(text[:60])}{'…' if len(text) > 60 else ''}`"


def _some(numbers: npt.NDArray[np.int64]) -> str:
    return ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
