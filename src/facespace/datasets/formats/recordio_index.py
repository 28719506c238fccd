"""The offsets of the records in an MXNet RecordIO file: read from its `.idx`, or found by scanning the file.

A record consists of parts: the magic number, a word with the kind of part (3 bits) and the length (29 bits), the payload,
and zeros up to a multiple of four bytes. Most records are one part, `WHOLE`. If the magic number occurs in a payload at a
multiple of four, the writer leaves it out and splits the record there, so that a reader can always find the next record.
"""

from __future__ import annotations

import array
import mmap
import os
import re
import stat
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facespace.errors import DatasetError
from facespace.io.files import atomic_path
from facespace.io.text import plain_text

Ints = npt.NDArray[np.int64]

MAGIC = 0xCED7230A
PART = struct.Struct("<II")
WHOLE, FIRST, MIDDLE, LAST = range(4)
MAX_LENGTH = 2**29 - 1  # bytes of a record and of a part
HEADER = struct.Struct("<IfQQ")  # number of labels that follow, or 0 and the label; the record's key; its second id
_MIN_RECORD = PART.size + HEADER.size  # bytes

_LINE = re.compile(rb"[0-9]{1,18}\t[0-9]{1,18}\r?\n")
_MAX_LINE = 39
_CHUNK = 2**23
_RELEASE = 2**26


def release(records: mmap.mmap) -> None:
    """Let the system free the memory of a mapping; pages that are needed later are read from the file again."""
    if hasattr(mmap, "MADV_DONTNEED"):
        records.madvise(mmap.MADV_DONTNEED)


def read_index(path: str, rec_bytes: int) -> tuple[Ints, Ints]:
    """Read keys (N,) and offsets (N,) from an `.idx` file, in which each line is `key, tab, offset`.

    Raises `DatasetError` for any other line, if there is no line, if a key or an offset occurs twice, or if no record
    can begin at an offset in a `.rec` file of `rec_bytes` bytes.
    """
    file = plain_text(path)
    try:
        status = os.stat(path)  # before opening: opening a fifo waits for its writer
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{file}: not a regular file")
        n_most = rec_bytes // _MIN_RECORD
        if status.st_size > n_most * _MAX_LINE:
            raise DatasetError(f"{file}: the index has far more lines than its .rec has space for records ({n_most:,})")
        table = _read_table(path, file, n_most)
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error.strerror})") from None
    keys, offsets = table
    if not len(keys):
        raise DatasetError(f"{file}: the index is empty; remove it to have it rebuilt")
    wrong = np.flatnonzero((offsets % 4 != 0) | (offsets > rec_bytes - _MIN_RECORD))
    if len(wrong):
        line = int(wrong[0])
        raise DatasetError(
            f"{file}, line {line + 1}: no record can begin at byte {offsets[line]:,} of a .rec of {rec_bytes:,} bytes; "
            "the index belongs to another file; remove it to have it rebuilt"
        )
    for what, numbers in (("key", keys), ("offset", offsets)):
        if (twice := _first_twice(numbers)) is not None:
            raise DatasetError(f"{file}: {what} {twice} occurs twice; remove the index to have it rebuilt")
    return keys, offsets


def _read_table(path: str, file: str, n_most: int) -> tuple[Ints, Ints]:
    with open(path, "rb") as stream:
        n_lines = 1
        while chunk := stream.read(_CHUNK):
            n_lines += chunk.count(b"\n")
        n_lines = min(n_lines, n_most + 1)
        keys, offsets = np.empty(n_lines, np.int64), np.empty(n_lines, np.int64)
        stream.seek(0)
        n, rest = 0, b""
        while True:
            chunk = stream.read(_CHUNK)
            text = rest + chunk
            if not chunk and text and not text.endswith(b"\n"):
                text += b"\n"
            # Parse whole lines, and leave out blank lines after them, which are allowed at the end of the file.
            end = text.rfind(b"\n", 0, text.find(b"\n", len(text.rstrip(b"\r\n"))) + 1 or None) + 1
            text, rest = (text[:end], text[end:]) if text.strip(b"\r\n") else (b"", text)
            if text:
                rows = _parse(text)
                if rows is None:
                    raise _bad_line(file, n, text)
                if n + len(rows) > n_lines:
                    raise DatasetError(f"{file}: more lines than its .rec has space for records ({n_most:,})")
                keys[n : n + len(rows)], offsets[n : n + len(rows)] = rows[:, 0], rows[:, 1]
                n += len(rows)
            if len(rest) > _MAX_LINE:
                raise _bad_line(file, n, rest)
            if not chunk:
                return keys[:n], offsets[:n]


def _parse(text: bytes) -> Ints | None:
    """Return the numbers in whole lines, (N,2); None if a line is not `number, tab, number`.

    >>> _parse(b"1\\t0\\n2\\t7476\\n").tolist()
    [[1, 0], [2, 7476]]
    >>> _parse(b"1\\t-4\\n")
    """
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    letters = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(letters < ord("0"))
    widths = np.diff(ends, prepend=-1) - 1
    fine = (
        letters.max() <= ord("9")
        and len(ends) % 2 == 0
        and bool((letters[ends[0::2]] == ord("\t")).all())
        and bool((letters[ends[1::2]] == ord("\n")).all())
        and widths.min() >= 1
        and widths.max() <= 18  # fits into 64 bits
    )
    return np.fromstring(text, np.int64, sep=" ").reshape(-1, 2) if fine else None


def _bad_line(file: str, n_before: int, text: bytes) -> DatasetError:
    for number, line in enumerate(text.splitlines(keepends=True), n_before + 1):
        if not _LINE.fullmatch(line):
            shown = plain_text(line[:40].decode("utf-8", "backslashreplace").rstrip("\r\n"))
            return DatasetError(f"{file}, line {number}: expected a key, a tab and an offset, got `{shown}`")
    return DatasetError(f"{file}: expected lines of a key, a tab and an offset, got something else")


def _first_twice(numbers: Ints) -> int | None:
    if (numbers[1:] > numbers[:-1]).all():  # the usual order, except for a key 0 at the end
        return None
    ordered = np.sort(numbers)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    return int(ordered[twice[0]]) if len(twice) else None


def find_records(records: mmap.mmap, file: str) -> Ints:
    """Return the offsets (N,) of all records, by reading one header after another; raises `DatasetError` if damaged."""
    starts = array.array("q")
    position, size, inside, released = 0, len(records), False, 0
    unpack, part_size = PART.unpack_from, PART.size
    while position < size:
        magic, word = unpack(records, position) if position + part_size <= size else (0, 0)
        part, length = word >> 29, word & MAX_LENGTH
        if part == WHOLE:
            good = not inside and length >= HEADER.size
        else:
            good = (part == FIRST and not inside) or (part in (MIDDLE, LAST) and inside)
        end = position + part_size + length
        if magic != MAGIC or not good or end > size:
            raise DatasetError(f"{file}: damaged or cut short: no whole record at byte {position:,} of {size:,}")
        if not inside:
            starts.append(position)
        inside = part in (FIRST, MIDDLE)
        position = end + -end % 4
        if position - released > _RELEASE:
            release(records)
            released = position
    if inside:
        raise DatasetError(f"{file}: damaged or cut short: its last record is not finished")
    return np.frombuffer(starts, np.int64)


def write_index(path: Path, keys: Ints, offsets: Ints) -> None:
    """Write an `.idx` file atomically."""
    with atomic_path(path) as unfinished, open(unfinished, "w", encoding="ascii", newline="\n") as stream:
        for start in range(0, len(keys), _CHUNK // 128):
            block = slice(start, start + _CHUNK // 128)
            rows = zip(keys[block].tolist(), offsets[block].tolist(), strict=True)
            stream.write("".join(f"{key}\t{offset}\n" for key, offset in rows))
