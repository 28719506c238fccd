"""The names of a dataset's labels: collected while files are scanned, kept in `names.txt` next to files that cannot
store them, and turned into safe names of folders.
"""

from __future__ import annotations

import os
import unicodedata
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from facespace.errors import DatasetError
from facespace.io.files import atomic_path
from facespace.io.text import plain_text

FILE_NAME = "names.txt"
MAX_LABEL = 2**24 - 1  # a trainer keeps a row of weights for every label up to the largest
MAX_NAME = 1000  # characters; names come from untrusted files
_MAX_BYTES = 2**30
_MAX_FOLDER = 200  # bytes of UTF-8; a file name has at most 255
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{k}" for port in ("com", "lpt") for k in range(10))}


class Names(Sequence[str]):
    """The name of each label. If no name is known, it is the label's number as text.

    >>> list(Names(3, {1: "Ben"}))
    ['0', 'Ben', '2']
    """

    def __init__(self, n_labels: int, known: Mapping[int, str]) -> None:
        self._labels = range(n_labels)
        self.known = dict(known)

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._name(label) for label in self._labels[index]]
        return self._name(self._labels[index])

    def _name(self, label: int) -> str:
        return self.known.get(label) or str(label)


class LabelScan:
    """Collects the labels of a dataset, and the names if there are any, while its files are scanned."""

    def __init__(self) -> None:
        self._labels = array("i")
        self._known: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, label: int, name: str | None = None) -> None:
        """Add the label of the next image. Raises `DatasetError` if it is out of range or had another name before."""
        if not 0 <= label <= MAX_LABEL:
            got = label if abs(label) < 2**64 else "a number of more than 64 bits"
            raise DatasetError(f"the label must be a number from 0 to {MAX_LABEL:,}, got {got}")
        if name is not None:
            before = self._known.get(label)
            if before is None:
                if not name.strip() or len(name) > MAX_NAME:
                    raise DatasetError(f"a name must have 1 to {MAX_NAME} characters, got {plain_text(name[:40])!r}")
                self._known[label] = plain_text(name)
            elif before != name and before != plain_text(name):
                names = f"{plain_text(name[:60])!r} here and {before[:60]!r} before"
                raise DatasetError(f"label {label} is named {names}")
        self._labels.append(label)

    def finish(self, folder: str | os.PathLike[str]) -> tuple[npt.NDArray[np.int64], Names]:
        """Return labels (N,) and names. Labels added without a name get it from the `names.txt` in `folder`."""
        labels = np.array(self._labels, np.int64)
        known = {**read_names(folder), **self._known}
        n_labels = max(int(labels.max(initial=-1)), max(known, default=-1)) + 1
        return labels, Names(n_labels, known)


def read_names(folder: str | os.PathLike[str]) -> dict[int, str]:
    """Return {label: name} from the `names.txt` of a folder; line k + 1 is for label k. Without the file it is empty.

    Raises `DatasetError` if the file is not UTF-8, is too long or has an empty line.
    """
    path = Path(folder, FILE_NAME)
    if not path.is_file():
        return {}
    shown = plain_text(str(path))
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DatasetError(f"{shown}: too long for a list of names")
        lines = path.read_bytes().decode("utf-8").split("\n")
    except OSError as error:
        raise DatasetError(f"{shown}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{shown}: must be UTF-8 text with one name a line") from None
    if lines[-1] == "":
        lines.pop()
    if len(lines) > MAX_LABEL + 1:
        raise DatasetError(f"{shown}: {len(lines):,} names; no dataset has more than {MAX_LABEL + 1:,}")
    names = {}
    for label, line in enumerate(lines):
        name = line.removesuffix("\r")
        if not name.strip() or len(name) > MAX_NAME:
            raise DatasetError(f"{shown}, line {label + 1}: a name must have 1 to {MAX_NAME} characters")
        names[label] = plain_text(name)
    return names


def write_names(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Write `names.txt` in the order of the labels; control characters are escaped, so that each line is one name."""
    with atomic_path(Path(folder, FILE_NAME)) as path, path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{plain_text(name)}\n" for name in names)


def folder_names(names: Sequence[str]) -> list[str]:
    """Return a folder name for every name, in order. They are valid and all different on every operating system.

    A valid name is not changed. In an invalid name `_` replaces each character that is a separator or forbidden on some
    system. If two folder names would be equal or differ only in case, the later one gets a number.

    >>> folder_names(["Anna", "../anna", "anna", "王 小明", "a/b", "", "con.x"])
    ['Anna', '_._anna', 'anna-2', '王 小明', 'a_b', '_', '_con.x']
    """
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # the last number given to a name, so that a million equal names need no search
    folders = []
    for name in names:
        folder = stem = _folder_name(name)
        alike = _alike(stem)
        while _alike(folder) in taken:
            numbers[alike] = numbers.get(alike, 1) + 1
            ending = f"-{numbers[alike]}"
            folder = _shortened(stem, _MAX_FOLDER - len(ending)) + ending
        taken.add(_alike(folder))
        folders.append(folder)
    return folders


def _folder_name(name: str) -> str:
    safe = "".join("_" if letter in '/\\:*?"<>|' else letter for letter in plain_text(name))
    safe = _shortened(safe.strip(), _MAX_FOLDER).rstrip(". ")
    if safe.startswith("."):  # readers ignore hidden folders
        safe = "_" + safe[1:]
    if safe.partition(".")[0].strip().lower() in _RESERVED:
        safe = "_" + safe
    return safe or "_"


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _shortened(text: str, n_bytes: int) -> str:
    return text.encode("utf-8")[:n_bytes].decode("utf-8", "ignore")
