"""The files of a dataset that lies in few large ones: found in order, and read in pieces from any thread."""

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

_MAX_OPEN = 64  # files at once; datasets come in thousands of shards
_PART = re.compile(r"(?:train|valid|val|test|eval)(?=[^a-z]|idation|ing)", re.IGNORECASE)


def find_shards(path: str | os.PathLike[str], ending: str, what: str) -> tuple[str, ...]:
    """The file at `path`, or those of the folder there whose names match the pattern `ending`, as people count.

    A path that is not there and ends in a pattern, `shards/train-*.tar`, is the files it matches. Hidden files are left
    out. `DatasetError` where there is nothing, or no such file, and where a folder has shards to train on and others:
    those one measures on must not be trained on unseen. `what` names the kind wanted.

    >>> sorted(["b10.tar", "b9.tar", "a.tar"], key=_natural)
    ['a.tar', 'b9.tar', 'b10.tar']
    """
    path = os.fspath(path)
    if is_pattern(path):
        return matching(path)
    if not os.path.isdir(path):
        return (path,)
    wanted = re.compile(f"(?:{ending})$", re.IGNORECASE)
    names = [name for name in _listed(path) if wanted.search(name)]
    if not names:
        raise DatasetError(f"{plain_text(path)}: no {what} in this folder")
    parts = {found[0].lower(): (found[0], name) for name in names if (found := _PART.match(name))}
    if len(parts) > 1:
        some = " and ".join(plain_text(name) for _, name in sorted(parts.values())[:3])
        one = os.path.join(path, f"{parts['train' if 'train' in parts else min(parts)][0]}*")
        raise DatasetError(
            f"{plain_text(path)}: has parts for training and for measuring ({some}); name one of them: '{plain_text(one)}'"
        )
    return tuple(os.path.join(path, name) for name in sorted(names, key=_natural))


def is_pattern(path: str) -> bool:
    """Whether a path names files by a pattern with `*`, `?` or `[…]` in its last part; never where it is there."""
    return bool(set("*?[") & set(os.path.basename(path))) and not os.path.lexists(path)


def matching(path: str) -> tuple[str, ...]:
    """The files a pattern matches, at least one, as people count."""
    folder, pattern = os.path.split(path)
    names = [name for name in _listed(folder or os.curdir) if fnmatch.fnmatchcase(name, pattern)]
    files = [file for name in sorted(names, key=_natural) if not os.path.isdir(file := os.path.join(folder, name))]
    if not files:
        raise DatasetError(f"{plain_text(path)}: no file is called so")
    return tuple(files)


def _listed(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise DatasetError(f"{plain_text(folder)}: the folder cannot be listed ({error.strerror})") from None


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """A key that sorts `9` before `10`, and never calls two names equal."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [("", int(part[:18])) if part[0] in "0123456789" else (part, 0) for part in parts], name


class Pieces:
    """Where the images of several files lie, by their number: added by a scan in order, then looked up.

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
        """The place of the next image of the file that is being scanned."""
        self._offsets.append(offset)
        self._lengths.append(length)

    def end_shard(self) -> None:
        """The file is scanned; what is added from now on lies in the next."""
        self._starts.append(len(self))

    def find(self, index: int) -> Piece:
        """The place of an image; `IndexError` for a number that is none."""
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        shard = bisect.bisect_right(self._starts, index) - 1
        return Piece(shard, index - self._starts[shard], self._offsets[index], self._lengths[index])


class Piece(NamedTuple):
    """One image: its file, its number there, and the bytes it takes."""

    shard: int
    number: int
    offset: int
    length: int


class ShardFiles:
    """Files read at any place, from any thread; pickled by name, so that another process opens them anew.

    `sizes` are in bytes. Raises `DatasetError` for what is no regular file, cannot be read, or has changed since.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        self.sizes = tuple(map(_size, self.paths))
        self._handles: dict[int, _Handle] = {}

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """`length` bytes of a file from `offset` on; the caller has held both to the file's size."""
        # Without a lock, which a fork could leave held: at worst a file is opened twice and closed once more.
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
        """Raise `DatasetError` where a file has another size than it had."""
        if _size(self.paths[shard]) != self.sizes[shard]:
            raise self._changed(shard)

    def name(self, shard: int) -> str:
        """The path of a file as an error shows it."""
        return plain_text(self.paths[shard])

    def _open(self, shard: int) -> _Handle:
        if len(self._handles) >= _MAX_OPEN:
            self._handles.clear()  # each is closed when its last reader lets go of it
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
    """A file descriptor that is closed when nobody holds it any more."""

    __slots__ = ("_turn", "descriptor")

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self._turn = threading.Lock()
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))

    def read(self, offset: int, length: int) -> bytes:
        data = self._piece(offset, length)
        while len(data) < length and (more := self._piece(offset + len(data), length - len(data))):
            data += more  # the system may give less than asked for
        return data

    def _piece(self, offset: int, length: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.descriptor, length, offset)
        with self._turn:  # Windows: place and read are two calls
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            return os.read(self.descriptor, length)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _size(path: str) -> int:
    try:
        status = os.stat(path)  # before opening: opening a fifo waits for its writer
    except (OSError, ValueError) as error:  # ValueError: a name no file can have
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise DatasetError(f"{plain_text(path)}: not a regular file")
    return status.st_size


def _unreadable(path: str, error: Exception) -> DatasetError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return DatasetError(f"{plain_text(path)}: no such file")
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return DatasetError(f"{plain_text(path)}: cannot be read ({said})")
