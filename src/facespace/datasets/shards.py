"""Datasets in a few large files: finds the files in order and reads pieces of them from any thread."""

from __future__ import annotations

import bisect
import fnmatch
import operator
import os
import re
import stat
import threading
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from facespace.errors import DatasetError
from facespace.io.text import plain_text

_MAX_OPEN = 64  # files at once; a dataset may have thousands of shards
_PART = re.compile(r"(?:train|valid|val|test|eval)(?=[^a-z]|idation|ing)", re.IGNORECASE)


def find_shards(path: str | os.PathLike[str], ending: str, what: str) -> tuple[str, ...]:
    """Return the file `path`, or the files in the folder `path` whose names end in `ending`, in natural order.

    `ending` is a regular expression, matched without case. `path` may also be a glob pattern such as
    `shards/train-*.tar`. Hidden files are left out. Raises `DatasetError` if a folder or pattern has no such file, and
    if a folder contains shards of several splits, because training would then also use the test images. The error
    calls the expected files `what`. A single file is not checked. Natural order compares digits as numbers:

    >>> sorted(["b10.tar", "b9.tar", "a.tar"], key=_natural)
    ['a.tar', 'b9.tar', 'b10.tar']
    """
    path = os.fspath(path)
    if is_pattern(path):
        return matching(path)
    if not os.path.isdir(path):
        return (path,)
    has_ending = re.compile(f"(?:{ending})$", re.IGNORECASE).search
    names = [name for name in _listed(path) if has_ending(name)]
    if not names:
        raise DatasetError(f"{plain_text(path)}: no {what} in this folder")
    parts = {found[0].lower(): (found[0], name) for name in names if (found := _PART.match(name))}
    if len(parts) > 1:
        some = " and ".join(plain_text(name) for _, name in sorted(parts.values())[:3])
        one = os.path.join(path, f"{parts['train' if 'train' in parts else min(parts)][0]}*")
        raise DatasetError(
            f"{plain_text(path)}: contains shards of several splits ({some}); choose one split: '{plain_text(one)}'"
        )
    return tuple(os.path.join(path, name) for name in sorted(names, key=_natural))


def is_pattern(path: str) -> bool:
    """Return whether the last part of a path is a glob pattern (`*`, `?` or `[…]`); an existing path is no pattern."""
    return bool(set("*?[") & set(os.path.basename(path))) and not os.path.lexists(path)


def matching(path: str) -> tuple[str, ...]:
    """Return the files that match a glob pattern, in natural order; raises `DatasetError` if no file matches."""
    folder, pattern = os.path.split(path)
    names = [name for name in _listed(folder or os.curdir) if fnmatch.fnmatchcase(name, pattern)]
    files = [file for name in sorted(names, key=_natural) if not os.path.isdir(file := os.path.join(folder, name))]
    if not files:
        raise DatasetError(f"{plain_text(path)}: no file matches this pattern")
    return tuple(files)


def _listed(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise DatasetError(f"{plain_text(folder)}: the folder cannot be listed ({error.strerror})") from None


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """Return a key that sorts `9` before `10` and differs for different names."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [("", int(part[:18])) if part[0] in "0123456789" else (part, 0) for part in parts], name


class Pieces:
    """The positions of the images in several files. A scan adds the positions in order; `find` looks one up by index.

    >>> pieces = Pieces()
    >>> pieces.add(8, 100)
    >>> pieces.end_shard()
    >>> pieces.add(8, 50)
    >>> pieces.end_shard()
    >>> pieces.find(1)
    Piece(shard=1, number=0, offset=8, length=50)
    """

    def __init__(self) -> None:
        self._starts = [0]
        self._offsets, self._lengths = array("q"), array("I")

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, offset: int, length: int) -> None:
        """Add the position of the next image of the file that is being scanned."""
        self._offsets.append(offset)
        self._lengths.append(length)

    def end_shard(self) -> None:
        """Mark the end of a file; images added from now on are in the next file."""
        self._starts.append(len(self))

    def find(self, index: int) -> Piece:
        """Return the position of an image; raises `IndexError` if the index is out of range."""
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        shard = bisect.bisect_right(self._starts, index) - 1
        return Piece(shard, index - self._starts[shard], self._offsets[index], self._lengths[index])


class Piece(NamedTuple):
    """The position of one image: the number of its file, the number of the image in that file, and its byte range."""

    shard: int
    number: int
    offset: int
    length: int


class ShardFiles:
    """Files that several threads can read at any offset at the same time.

    A pickled object holds paths and sizes, and the process that loads it opens the files again. `sizes` are in bytes.
    Raises `DatasetError` if a file is not regular, cannot be read, or has changed since it was opened.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        self.sizes = tuple(map(_size, self.paths))
        self._handles: dict[int, _Handle] = {}

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """Return `length` bytes of a file from `offset` on; the caller has checked both against the file's size."""
        # No lock, because a fork could leave it locked. Without a lock, at worst a file is opened twice.
        handle = self._handles.get(shard)
        if handle is None:
            handle = self._open(shard)
        try:
            data = handle.read(offset, length)
        except (OSError, MemoryError) as error:
            raise _unreadable(self.paths[shard], error) from None
        if len(data) != length:
            raise self._changed(shard)
        return data

    def check(self, shard: int) -> None:
        """Raise `DatasetError` if the size of a file has changed."""
        if _size(self.paths[shard]) != self.sizes[shard]:
            raise self._changed(shard)

    def name(self, shard: int) -> str:
        """Return the path of a file as errors show it."""
        return plain_text(self.paths[shard])

    def _open(self, shard: int) -> _Handle:
        if len(self._handles) >= _MAX_OPEN:
            self._handles.clear()  # each is closed when its last reader is done
        try:
            handle = _Handle(self.paths[shard])
            if os.fstat(handle.descriptor).st_size != self.sizes[shard]:
                raise self._changed(shard)
        except OSError as error:
            raise _unreadable(self.paths[shard], error) from None
        self._handles[shard] = handle
        return handle

    def _changed(self, shard: int) -> DatasetError:
        return DatasetError(f"{self.name(shard)}: the file has changed since it was opened; open the dataset again")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}


class _Handle:
    """A file descriptor that is closed when the object is deleted."""

    __slots__ = ("_turn", "descriptor")

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self._turn = threading.Lock()
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))

    def read(self, offset: int, length: int) -> bytes:
        data = self._piece(offset, length)
        while len(data) < length and (more := self._piece(offset + len(data), length - len(data))):
            data += more  # the system may return fewer bytes than requested
        return data

    def _piece(self, offset: int, length: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.descriptor, length, offset)
        with self._turn:  # on Windows seeking and reading are two calls
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            return os.read(self.descriptor, length)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _size(path: str) -> int:
    try:
        status = os.stat(path)  # before opening: opening a fifo waits for its writer
    except (OSError, ValueError) as error:  # ValueError: an impossible file name
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise DatasetError(f"{plain_text(path)}: not a regular file")
    return status.st_size


def _unreadable(path: str, error: Exception) -> DatasetError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return DatasetError(f"{plain_text(path)}: no such file")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return DatasetError(f"{plain_text(path)}: cannot be read ({reason})")
