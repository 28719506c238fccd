"""Reads TensorFlow's checkpoints without TensorFlow: tensors by name from `PREFIX.index` and `PREFIX.data-…-of-…`.

The index is a sorted table in LevelDB's format: blocks of keys and values, in which a key leaves out the prefix it shares
with the key before it; a block with the positions of these blocks; and a footer. The value of the empty key describes the
checkpoint. Every other value describes a tensor: its type, its shape, and its data file and byte range. The CRC-32C of
blocks and tensors is checked. Only the requested tensors are read from the data files.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from facespace.errors import ModelError
from facespace.io.checksums import masked_crc
from facespace.io.protobuf import message_class, read_varint
from facespace.io.text import plain_text

MAX_INDEX_BYTES = 2**24  # of names, shapes and positions; the numbers are in the data files
MAX_KEY_BYTES = 2**26  # of all keys together: with their shared prefixes they take more memory than the file
MAX_ENTRY_BYTES = 2**16
MAX_TENSOR_BYTES = 2**32

_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # after each block: its compression and its checksum
_VERSION = 1  # TensorFlow's version of the format

_MESSAGES = {
    "Dim": [("size", 1, "int64")],
    "Shape": [("dim", 2, "Dim*"), ("unknown_rank", 3, "bool")],
    "Extent": [("start", 1, "int64"), ("length", 2, "int64")],
    "Slice": [("extent", 1, "Extent*")],
    "Entry": [
        ("dtype", 1, "int32"),
        ("shape", 2, "Shape"),
        ("shard_id", 3, "int32"),
        ("offset", 4, "int64"),
        ("size", 5, "int64"),
        ("slices", 7, "Slice*"),
    ],
    "Version": [("producer", 1, "int32"), ("min_consumer", 2, "int32"), ("bad_consumers", 3, "int32*")],
    "Header": [("num_shards", 1, "int32"), ("endianness", 2, "int32"), ("version", 3, "Version")],
}
_Entry = message_class("facespace.bundle.entry", _MESSAGES, "Entry")
_Header = message_class("facespace.bundle.header", _MESSAGES, "Header")
_CHECKSUM = (6, 5)  # field number and wire type (fixed32) of an entry's checksum

_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    8: np.dtype("<c8"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    17: np.dtype("<u2"),
    18: np.dtype("<c16"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}


class TensorBundle:
    """An open checkpoint: `names` lists its tensors, `read` reads one.

    Every method raises `ModelError`, which names the file, if something is damaged or not supported.
    """

    def __init__(self, prefix: str, entries: dict[bytes, bytes], n_shards: int) -> None:
        self.prefix = prefix
        self.n_shards = n_shards
        self.names = tuple(_text(key) for key in entries if not key.startswith(b"\0"))
        self._entries = entries

    @classmethod
    def open(cls, prefix: str | os.PathLike[str]) -> TensorBundle:
        """Open the checkpoint whose files begin with `prefix` (`…/model.ckpt-7`, without `.index`)."""
        prefix = os.fspath(prefix)
        path = f"{prefix}.index"
        if not os.path.exists(path) and os.path.isfile(prefix):
            raise ModelError(
                f"{plain_text(prefix)}: expected a checkpoint of two files, .index and .data-…, got a single file in "
                "TensorFlow's oldest format; restore it in TensorFlow 1 and save it with tf.train.Saver()"
            )
        try:
            entries = dict(_entries(_read_index(path)))
            header = _Header()
            header.ParseFromString(entries.pop(b"", b""))
            _check_header(header)
        except (ValueError, DecodeError) as error:
            raise ModelError(f"{plain_text(path)}: damaged, or not a TensorFlow checkpoint ({error})") from None
        return cls(prefix, entries, header.num_shards)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _key(name) in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; for a partitioned variable, the shape of the whole variable."""
        return self._checked(_key(name))[1]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of a tensor's numbers."""
        return self._checked(_key(name))[0]

    def read(self, name: str) -> npt.NDArray[Any]:
        """Read the tensor `name` in its stored type; the parts of a partitioned variable are joined."""
        key = _key(name)
        slices = self._entry(key).slices
        return self._joined(key, slices) if slices else self._stored(key)

    def _joined(self, key: bytes, slices: Any) -> npt.NDArray[Any]:
        dtype, shape = self._checked(key)
        places = [_place(part, shape) for part in slices]
        keys = [_slice_key(key, part) for part in slices]
        files: dict[str, int] = {}
        n_values = 0
        for place, part_key in zip(places, keys, strict=True):
            sizes = tuple(along.stop - along.start for along in place or ())
            if place is None or self._checked(part_key) != (dtype, sizes):
                raise self._error(key, f"of {dtype} {list(shape)} has a part that does not fit")
            files.update([self._locate(part_key)])
            n_values += math.prod(sizes)
        n_bytes = n_values * dtype.itemsize
        if n_values != math.prod(shape) or n_bytes > sum(files.values()):
            raise self._error(key, f"of {dtype} {list(shape)} does not match its parts of {n_bytes} bytes in total")
        whole = np.empty(shape, dtype)
        filled = np.zeros(shape, np.bool_)
        for place, part_key in zip(places, keys, strict=True):
            assert place is not None
            if filled[place].any():
                raise self._error(key, "has parts that overlap")
            whole[place] = self._stored(part_key)
            filled[place] = True
        return whole

    def _stored(self, key: bytes) -> npt.NDArray[Any]:
        """Read a tensor that is stored in one piece."""
        entry = self._entry(key)
        dtype, shape = self._checked(key)
        path, _ = self._locate(key)
        try:
            values = np.fromfile(path, np.uint8, count=entry.size, offset=entry.offset)
        except OSError as error:
            raise self._error(key, f"cannot be read from {os.path.basename(path)} ({error.strerror})") from None
        stored = [f.data for f in UnknownFieldSet(entry) if (f.field_number, f.wire_type) == _CHECKSUM]
        if (stored[-1] if stored else 0) != masked_crc(values):
            raise self._error(key, f"does not match its checksum; {os.path.basename(path)} is damaged, copy it again")
        if dtype == np.bool_ and (values > 1).any():
            raise self._error(key, "has booleans other than 0 and 1")
        return values.view(dtype).reshape(shape)

    def _locate(self, key: bytes) -> tuple[str, int]:
        """Check the byte range of a tensor stored in one piece; return its data file and the size of that file."""
        entry = self._entry(key)
        dtype, shape = self._checked(key)
        if entry.size != dtype.itemsize * math.prod(shape):
            raise self._error(key, f"of {dtype} {list(shape)} cannot have {entry.size} bytes")
        if not 0 <= entry.shard_id < self.n_shards:
            raise self._error(key, f"is in data file {entry.shard_id} of {self.n_shards}")
        path = f"{self.prefix}.data-{entry.shard_id:05d}-of-{self.n_shards:05d}"
        try:
            size = _size_of_file(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ModelError(f"{plain_text(path)}: {reason}; the checkpoint's index needs this file") from None
        if not 0 <= entry.offset <= size - entry.size:
            raise self._error(
                key,
                f"has {entry.size} bytes from byte {entry.offset} on, but {os.path.basename(path)} has only {size}; "
                "copy it again",
            )
        return path, size

    def _entry(self, key: bytes) -> Any:
        if key not in self._entries:
            raise ModelError(f"{plain_text(self.prefix)}: the checkpoint has no tensor {_text(key)!r}")
        entry = _Entry()
        try:
            entry.ParseFromString(self._entries[key])
        except DecodeError as error:
            raise self._error(key, f"has a damaged entry ({error})") from None
        return entry

    def _checked(self, key: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
        entry = self._entry(key)
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            what = {7: "text", 14: "bfloat16"}.get(entry.dtype, f"TensorFlow's type {entry.dtype}")
            raise self._error(key, f"must be plain numbers, got {what}")
        shape = tuple(int(dim.size) for dim in entry.shape.dim)
        if entry.shape.unknown_rank or min(shape, default=0) < 0 or len(shape) > 32:
            raise self._error(key, f"has the invalid shape {list(shape[:33])}")
        if dtype.itemsize * math.prod(max(size, 1) for size in shape) > MAX_TENSOR_BYTES:
            raise self._error(key, f"of {dtype} {list(shape)} is larger than {MAX_TENSOR_BYTES} bytes")
        return dtype, shape

    def _error(self, key: bytes, what: str) -> ModelError:
        return ModelError(f"{plain_text(self.prefix)}: tensor {plain_text(_text(key))!r} {plain_text(what)}")


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def _size_of_file(path: str) -> int:
    """Return the size of a regular file; raises `ValueError` for pipes and devices, which might never end."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    return status.st_size


# The table


def _read_index(path: str) -> bytes:
    try:
        size = _size_of_file(path)
        if size > MAX_INDEX_BYTES:
            raise ValueError(f"it must have at most {MAX_INDEX_BYTES} bytes, got {size}")
        with open(path, "rb") as file:
            data = file.read(size)
    except OSError as error:
        raise ModelError(
            f"{plain_text(path)}: {error.strerror}; a checkpoint consists of a .index and its .data files"
        ) from None
    if len(data) < _FOOTER_BYTES or data[-len(_MAGIC) :] != _MAGIC:
        raise ValueError(f"it has {len(data)} bytes without the magic number of an index at the end")
    return data


def _entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table file in order, after checking each block."""
    footer = data[-_FOOTER_BYTES:]
    place = 0
    for _ in range(2):  # skip the position of the metaindex block, which is not needed
        _, place = _varint(footer, place)
    index, _ = _block(data, footer[place:], 0)
    end, last, n_bytes = 0, None, 0
    for _, handle in _pairs(index):
        block, end = _block(data, handle, end)
        for key, value in _pairs(block):
            if last is not None and key <= last:
                raise ValueError("its keys are not in order")
            last = key
            n_bytes += len(key)
            if n_bytes > MAX_KEY_BYTES or len(value) > MAX_ENTRY_BYTES:
                raise ValueError("its names or entries are too long")
            yield key, value


def _block(data: bytes, handle: bytes, start: int) -> tuple[bytes, int]:
    """Return the block at `handle` (offset and size) and its end.

    Raises `ValueError` if it begins before `start`, is damaged or is compressed.
    """
    offset, place = _varint(handle, 0)
    size, _ = _varint(handle, place)
    end = offset + size + _TRAILER_BYTES
    if offset < start or end > len(data) - _FOOTER_BYTES:
        raise ValueError(f"a block of {size} bytes at byte {offset} overlaps another or exceeds the file")
    checksum = int.from_bytes(data[end - 4 : end], "little")
    if checksum != masked_crc(data[offset : end - 4]):
        raise ValueError(f"the block at byte {offset} does not match its checksum")
    if data[end - _TRAILER_BYTES]:
        raise ValueError(f"the block at byte {offset} is compressed, but TensorFlow does not compress checkpoints")
    return data[offset : offset + size], end


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block; each key repeats a prefix of the key before it and adds its own bytes."""
    n_restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * n_restarts  # restart points, which are only for searching, follow the entries
    if len(block) < 4 or end < 0:
        raise ValueError("a block is too short")
    key, place, n_bytes = b"", 0, 0
    while place < end:
        shared, place = _varint(block, place)
        own, place = _varint(block, place)
        size, place = _varint(block, place)
        if shared > len(key) or place + own + size > end:
            raise ValueError("an entry is larger than its block")
        n_bytes += shared + own
        if n_bytes > MAX_KEY_BYTES:
            raise ValueError("its names are too long")
        key = key[:shared] + block[place : place + own]
        place += own + size
        yield key, block[place - size : place]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the number at `place` and the position after it; raises `ValueError` if no number is there."""
    number, after = read_varint(data, place, len(data))
    if after < 0:
        raise ValueError("a number is cut short or too long")
    return number, after


def _check_header(header: Any) -> None:
    if header.endianness:
        raise ValueError("written by a big-endian machine; save it again on a little-endian one")
    if header.version.min_consumer > _VERSION or _VERSION in header.version.bad_consumers:
        raise ValueError(f"it needs a reader of version {header.version.min_consumer}, this one has {_VERSION}")
    if not 0 < header.num_shards < 100_000:
        raise ValueError(f"it must have 1 to 99,999 data files, got {header.num_shards}")


# Partitioned variables: each part is an entry of its own, whose key encodes the variable's name and the part's position


def _place(part: Any, shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    """Return the slices of a part in its variable; None if they do not fit. No length means a whole axis."""
    if len(part.extent) != len(shape):
        return None
    limits = [(e.start, e.start + e.length if e.length else size) for e, size in zip(part.extent, shape, strict=True)]
    if any(not 0 <= start <= stop <= size for (start, stop), size in zip(limits, shape, strict=True)):
        return None
    return tuple(slice(start, stop) for start, stop in limits)


def _slice_key(name: bytes, part: Any) -> bytes:
    """Return the key of a variable's part in the index: the name and extents, encoded so that keys sort as these do."""
    escaped = b"".join({0: b"\0\xff", 255: b"\xff\0"}.get(byte, bytes([byte])) for byte in name)
    key = b"\0" + escaped + b"\0\1" + _ordered(len(part.extent))
    for extent in part.extent:
        key += _signed(extent.start) + _signed(extent.length or -1)
    return key


def _ordered(number: int) -> bytes:
    size = (number.bit_length() + 7) // 8
    return bytes([size]) + number.to_bytes(size, "big")


def _signed(number: int) -> bytes:
    """Encode a signed number in n bytes, whose first n bits are 1 if it is not negative, else 0."""
    size = (number if number >= 0 else ~number).bit_length() // 7 + 1
    mask = ((1 << size) - 1) << (size * 8 - size)
    return ((number & ((1 << size * 8) - 1)) ^ mask).to_bytes(size, "big")
