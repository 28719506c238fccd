"""Storage of token buckets: in the memory of one process, or in a file that all workers of a service map into memory."""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from facespace.io.files import remedy
from facespace.server.state import StateError

MAX_BUCKETS = 8192  # callers remembered at once; the caller seen longest ago is forgotten first
_SLOT = struct.Struct("<16sdd")  # the hash of a caller, its tokens, and the time of that count
_WAYS = 8  # slots in which a caller may be stored


class Buckets(Protocol):
    """Stores token buckets: for each caller the number of tokens, and the time when they were counted.

    Hold `lock` from the `read` of a caller's tokens until the `write` of the new number.
    """

    @property
    def lock(self) -> contextlib.AbstractContextManager[object]:
        """A lock that excludes other threads, and other processes if they share the buckets."""

    def read(self, caller: str) -> tuple[float, float] | None:
        """Return a caller's tokens and the time when they were counted, or None for a new caller."""

    def write(self, caller: str, tokens: float, now: float) -> None:
        """Set the tokens and the time of a caller."""


class MemoryBuckets:
    """The buckets of one process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def read(self, caller: str) -> tuple[float, float] | None:
        """Return a caller's tokens and the time when they were counted, or None for a new caller."""
        return self._held.get(caller)

    def write(self, caller: str, tokens: float, now: float) -> None:
        """Set the tokens and the time of a caller."""
        self._held[caller] = (tokens, now)
        self._held.move_to_end(caller)
        if len(self._held) > MAX_BUCKETS:
            self._held.popitem(last=False)


class SharedBuckets:
    """The buckets of all processes that open the same file, which is made with mode 0600.

    A caller's hash selects the eight slots of the file in which the caller may be stored. A killed process leaves no lock
    behind, and a damaged slot counts as empty. It needs `flock`. Raises `StateError` if the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        size = MAX_BUCKETS * _SLOT.size
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if os.fstat(self._file).st_size != size:
                    os.ftruncate(self._file, size)
                self._map = mmap.mmap(self._file, size)
            except BaseException:
                os.close(self._file)
                raise
        except OSError as error:
            raise StateError(f"{path}: cannot be opened ({error.strerror}){remedy(error)}") from None
        self._threads = threading.Lock()

    @property
    def lock(self) -> contextlib.AbstractContextManager[object]:
        """A lock that excludes other threads and processes."""
        return self._locked()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        import fcntl

        with self._threads:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def read(self, caller: str) -> tuple[float, float] | None:
        """Return a caller's tokens and the time when they were counted, or None for a new caller."""
        name = _hash(caller)
        for offset in self._offsets(name):
            held, tokens, then = _SLOT.unpack_from(self._map, offset)
            if held == name and math.isfinite(tokens) and math.isfinite(then):
                return tokens, then
        return None

    def write(self, caller: str, tokens: float, now: float) -> None:
        """Set the tokens and the time of a caller, in its slot or in that of the caller seen longest ago."""
        name = _hash(caller)
        best, oldest = 0, math.inf
        for offset in self._offsets(name):
            held, _, then = _SLOT.unpack_from(self._map, offset)
            if held == name:
                best = offset
                break
            if not then >= oldest:  # true for NaN too
                best, oldest = offset, then
        _SLOT.pack_into(self._map, best, name, tokens, now)

    def _offsets(self, name: bytes) -> range:
        first = int.from_bytes(name[:4], "big") % (MAX_BUCKETS // _WAYS) * _WAYS * _SLOT.size
        return range(first, first + _WAYS * _SLOT.size, _SLOT.size)

    def close(self) -> None:
        """Close the file. The tokens stay in it."""
        self._map.close()
        os.close(self._file)


def _hash(caller: str) -> bytes:
    return hashlib.blake2b(caller.encode("utf-8", "surrogatepass"), digest_size=16).digest()
