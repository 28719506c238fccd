"""Lists the members of a tar file with their positions, header by header, without unpacking anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from facespace.errors import DatasetError

BLOCK = 512
_MAX_EXTENDED = 2**20  # bytes of a long name or of PAX records, which are far smaller in real files
_MAX_NUMBER = 2**60
_FILE = b"0\x007"  # types: regular, regular (old), contiguous
_WITHOUT_DATA = b"123456"  # links, devices, folders, pipes: no data follows, even if the size is not 0


class Member(NamedTuple):
    """A regular file in a tar: its stored name, and the offset, length and first bytes of its data."""

    name: str
    offset: int
    length: int
    start: bytes


def read_members(read: Callable[[int, int], bytes], size: int) -> Iterator[Member]:
    """Yield the regular files of a tar of `size` bytes, which `read(offset, length)` reads in pieces.

    Supports ustar, GNU and PAX long names and sizes. Links, folders and devices are skipped; no link is followed.
    Raises `DatasetError` for sparse files, a wrong checksum, sizes beyond the end, and a missing end-of-archive block.
    """
    if read(0, min(2, size)) == b"\x1f\x8b":
        raise DatasetError("single images cannot be read from a compressed file; unpack it with gunzip")
    offset = 0
    name, length = "", -1  # set by an extended header before a member
    while True:
        if offset + BLOCK > size:
            raise DatasetError("the file is cut short: the zeros at the end of a tar are missing")
        piece = read(offset, min(2 * BLOCK, size - offset))  # the header and the first bytes of the data
        header = piece[:BLOCK]
        if not any(header):
            _check_end(read, offset, size)
            return
        kind = header[156:157]
        data = offset + BLOCK
        n_bytes = _check_header(header)
        if kind in _FILE and length >= 0:
            n_bytes = length  # a size too large for the header, from a PAX record
        n_data = 0 if kind in _WITHOUT_DATA else n_bytes
        if data + n_data > size:
            raise DatasetError(f"damaged or cut short: expected {n_data:,} bytes, got {max(size - data, 0):,}")
        if kind in b"LKxg":
            if n_data > _MAX_EXTENDED:
                raise DatasetError(f"damaged: a name or extended header of {n_data:,} bytes")
            extended = read(data, n_data)
            if kind == b"L":
                name = _text(extended.partition(b"\0")[0])
            elif kind in b"xg":
                records = _pax_records(extended)
                if kind == b"g" and records.keys() & {"path", "size"}:
                    raise DatasetError("damaged: a global header gives one name or size for all files")
                name, length = records.get("path", name), int(records.get("size", length))
        elif kind == b"S":
            raise DatasetError("contains a sparse file; pack it again without --sparse")
        else:
            if kind in _FILE and not (name := name or _header_name(header)).endswith("/"):
                yield Member(name, data, n_data, piece[BLOCK : BLOCK + n_data])
            name, length = "", -1
        offset = data + -(-n_data // BLOCK) * BLOCK


def _check_end(read: Callable[[int, int], bytes], offset: int, size: int) -> None:
    while offset < size:
        piece = read(offset, min(2**20, size - offset))
        if any(piece):
            raise DatasetError("data follows the end of the tar; tar files must not be concatenated")
        offset += len(piece)


def _check_header(header: bytes) -> int:
    """Check a header's checksum and return the size in it."""
    # The checksum counts its own eight bytes as blanks.
    if _number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 32:
        raise DatasetError("damaged, or not a tar file: the checksum of a header does not match")
    return _number(header[124:136])


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # GNU's binary encoding of numbers too large for octal digits
        number = int.from_bytes(field[1:], "big")
    else:
        digits = field.partition(b"\0")[0].strip(b" ")
        if digits.strip(b"01234567"):
            raise DatasetError("damaged, or not a tar file: a number in a header is not octal")
        number = int(digits or b"0", 8)
    if number > _MAX_NUMBER:
        raise DatasetError(f"damaged: a size of {number:,} bytes")
    return number


def _header_name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return _text(name)


def _pax_records(data: bytes) -> dict[str, str]:
    """Parse records `length key=value\\n`, where `length` counts the bytes of the whole record."""
    records: dict[str, str] = {}
    position = 0
    while position < len(data) and data[position]:
        digits, blank, _ = data[position : position + 20].partition(b" ")
        end = position + int(digits) if digits.isdigit() and blank else 0
        record = data[position:end]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not position < end <= len(data) or not record.endswith(b"\n") or not equals:
            raise DatasetError("damaged: an extended header is not `length key=value`")
        if key.startswith(b"GNU.sparse"):
            raise DatasetError("contains a sparse file; pack it again without --sparse")
        if key == b"size" and not (value.isdigit() and len(value) < 19):
            raise DatasetError("damaged: the size in an extended header is not a valid number")
        records[_text(key)] = _text(value)
        position = end
    return records


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
