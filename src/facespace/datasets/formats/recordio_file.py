"""Reads one memory-mapped MXNet RecordIO file: whole records at given offsets, or only the labels in their headers."""

from __future__ import annotations

import mmap
import os
import stat
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from facespace.datasets.formats.recordio_index import (
    FIRST,
    HEADER,
    LAST,
    MAGIC,
    MAX_LENGTH,
    MIDDLE,
    PART,
    WHOLE,
    Ints,
    find_records,
    release,
)
from facespace.errors import DatasetError
from facespace.io.text import plain_text

_MAGIC_BYTES = MAGIC.to_bytes(4, "little")
_HEAD = struct.Struct("<IIIfQ")  # the headers of a part and of a record, without the second id
_HEADS = PART.size + HEADER.size
_LABELS = (struct.Struct(""), struct.Struct("<f"), struct.Struct("<2f"))
_BLOCK = 1024  # headers read at a time
_RELEASE_AFTER = 1024  # records read one by one before their memory pages are released


class Record(NamedTuple):
    """One record: the key stored in it, its labels (at most the first two), and the content after the labels."""

    key: int
    labels: tuple[float, ...]
    content: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Headers:
    """The headers of N records.

    `keys` (N,) int64; `labels` (N,2) float32, the first two labels; `n_labels` (N,) int64, the number of labels of each
    record; `has_content` (N,) bool.
    """

    keys: Ints
    labels: npt.NDArray[np.float32]
    n_labels: Ints
    has_content: npt.NDArray[np.bool_]


class RecordFile:
    """A memory-mapped `.rec` file; pickling stores its path, and another process maps the file again.

    Offsets come from an index; they are multiples of 4 that leave space for a record. Raises `DatasetError` if the file
    is not a RecordIO file, has no record at an offset, or is damaged there.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = plain_text(path)
        self.size = self._stat()
        if self.size < PART.size + HEADER.size or PART.unpack_from(self._records(), 0)[0] != MAGIC:
            raise DatasetError(f"{self.name}: not an MXNet RecordIO file; it does not begin with a record")

    def _stat(self) -> int:
        try:
            status = os.stat(self.path)  # before opening: opening a fifo waits for its writer
        except (OSError, ValueError) as error:  # ValueError: an impossible file name
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            raise DatasetError(f"{self.name}: {'no such file' if missing else f'cannot be read ({error})'}") from None
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{self.name}: not a regular file")
        return status.st_size

    def offsets(self) -> Ints:
        """Return the offset of each record (N,), found by scanning the file."""
        return find_records(self._records(), self.name)

    def record(self, offset: int, key: int | None = None) -> Record:
        """Return the record at an offset; errors name it by its `key` in the index."""
        records = self._map
        if records is None or records.size() < self.size:
            records = self._records()
        self._n_read += 1
        if self._n_read % _RELEASE_AFTER == 0:
            release(records)
        # Fast path for training: nearly all records are one part, which is read here without copying the whole record.
        magic, word, n_labels, label, own_key = _HEAD.unpack_from(records, offset)
        start, end = offset + _HEADS + 4 * n_labels, offset + PART.size + word
        if magic != MAGIC or word > MAX_LENGTH or not start <= end <= self.size:
            return self._parted(offset, self._where(offset, key))
        if n_labels:
            labels = _LABELS[min(n_labels, 2)].unpack_from(records, offset + _HEADS)
            return Record(own_key, labels, records[start:end])
        return Record(own_key, (label,), records[start:end])

    def _where(self, offset: int, key: int | None) -> str:
        return f"{self.name}, byte {offset:,}" if key is None else f"{self.name}, record {key}"

    def _parted(self, offset: int, where: str) -> Record:
        payload = self._payload(offset, where)
        if len(payload) < HEADER.size:
            raise DatasetError(f"{where}: damaged: {len(payload)} bytes are too few for an image record")
        n_labels, label, own_key, _ = HEADER.unpack_from(payload)
        start = HEADER.size + 4 * n_labels
        if start > len(payload):
            raise DatasetError(f"{where}: damaged: {n_labels:,} labels do not fit into its {len(payload):,} bytes")
        labels = _LABELS[min(n_labels, 2)].unpack_from(payload, HEADER.size) if n_labels else (label,)
        return Record(own_key, labels, payload[start:])

    def headers(self, offsets: Ints) -> Headers:
        """Return the headers of the records at these `offsets` (N,) without reading the records' content."""
        n = len(offsets)
        keys, n_labels = np.empty(n, np.int64), np.empty(n, np.int64)
        labels, has_content = np.zeros((n, 2), np.float32), np.empty(n, np.bool_)
        records = self._records()
        # Words: 0-1 header of the part, 2 number of labels, 3 label, 4-5 key, 6-7 second id, 8-9 labels.
        words = np.frombuffer(records, "<u4", self.size // 4)
        for start in range(0, n, _BLOCK):
            block = slice(start, start + _BLOCK)
            at = offsets[block]
            rows = words[np.minimum(at[:, None] // 4 + np.arange(10), len(words) - 1)]
            part, length = rows[:, 1] >> 29, (rows[:, 1] & MAX_LENGTH).astype(np.int64)
            count = rows[:, 2].astype(np.int64)
            rest = length - HEADER.size - 4 * count
            whole = (rows[:, 0] == MAGIC) & (part == WHOLE) & (rest >= 0) & (at + PART.size + length <= self.size)
            keys[block] = rows[:, 4].astype(np.int64) | (rows[:, 5] & 0x7FFFFFFF).astype(np.int64) << 32
            n_labels[block], has_content[block] = np.maximum(count, 1), rest > 0
            labels[block] = np.where(count[:, None] > 0, rows[:, 8:10], rows[:, 3:4]).view(np.float32)
            for k in (np.flatnonzero(~whole) + start).tolist():  # in several parts, or damaged
                record = self.record(int(offsets[k]))
                keys[k], n_labels[k], has_content[k] = record.key % 2**63, len(record.labels), bool(record.content)
                labels[k, : len(record.labels)] = record.labels
            release(records)
        return Headers(keys, labels, n_labels, has_content)

    def _payload(self, offset: int, where: str) -> bytes:
        """Return the payload of a record: its parts, joined by the magic numbers that the writer left out."""
        records = self._records()
        start = offset + PART.size
        part, length = self._part(offset)
        if part not in (WHOLE, FIRST):
            raise DatasetError(
                f"{where}: no record begins at byte {offset:,}, where the index has one; the index belongs to another "
                "file, or one is damaged; remove the index to have it rebuilt"
            )
        if start + length > self.size:
            raise DatasetError(f"{where}: damaged or cut short: its {length:,} bytes reach beyond the end of the file")
        if part == WHOLE:
            return records[start : start + length]
        joined = bytearray(records[start : start + length])
        while part != LAST:
            offset = start + length + -length % 4
            part, length = self._part(offset)
            start = offset + PART.size
            if part not in (MIDDLE, LAST) or start + length > self.size:
                raise DatasetError(f"{where}: damaged: its next part is missing at byte {offset:,}")
            if len(joined) + len(_MAGIC_BYTES) + length > MAX_LENGTH:
                raise DatasetError(f"{where}: damaged: its parts are together longer than {MAX_LENGTH:,} bytes")
            joined += _MAGIC_BYTES
            joined += records[start : start + length]
        return bytes(joined)

    def _part(self, offset: int) -> tuple[int, int]:
        """Return the kind of the part that begins at an offset, and its length; (−1, 0) if no part begins there."""
        if offset + PART.size > self.size:
            return -1, 0
        magic, word = PART.unpack_from(self._records(), offset)
        return (word >> 29, word & MAX_LENGTH) if magic == MAGIC else (-1, 0)

    # The mapping

    _map: mmap.mmap | None = None
    _n_read = 0

    def _records(self) -> mmap.mmap:
        if self._map is None:
            if self._stat() != self.size:
                self._changed()
            try:
                with open(self.path, "rb") as stream:
                    self._map = mmap.mmap(stream.fileno(), self.size, access=mmap.ACCESS_READ)
            except (OSError, ValueError, OverflowError) as error:
                raise DatasetError(f"{self.name}: cannot be read ({error})") from None
        elif self._map.size() < self.size:  # reading a mapping beyond the file's end kills the process
            self._changed()
        return self._map

    def _changed(self) -> NoReturn:
        raise DatasetError(f"{self.name}: the file has changed since it was opened; open the dataset again")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}
