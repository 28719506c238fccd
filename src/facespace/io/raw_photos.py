"""Finds the full picture in a TIFF file that begins with a small one: raw photos, and files with a thumbnail in front.

Raw photos of most cameras, also DNG, are TIFF files with a few directories (IFDs), one per picture. The raw picture cannot
be shown without developing it, but there are previews next to it, and the largest often has its size. TIFF 6.0, TIFF/EP
(ISO 12234-2), DNG 1.7.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, NamedTuple

from facespace.io.motion_jpeg import frame_at

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 259, 262
_STRIPS, _ORIENTATION, _STRIP_BYTES, _SUB_IFDS, _JPEG, _JPEG_BYTES = 273, 274, 279, 330, 513, 514
_EXIF, _PIXEL_WIDTH, _PIXEL_HEIGHT, _DNG_VERSION = 34665, 40962, 40963, 50706
_TAGS = {
    _SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _STRIPS, _ORIENTATION, _STRIP_BYTES, _SUB_IFDS,
    _JPEG, _JPEG_BYTES, _EXIF, _PIXEL_WIDTH, _PIXEL_HEIGHT, _DNG_VERSION,
}  # fmt: skip
_SIZES = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}  # of whole numbers, in bytes, by their type
_RAW_PHOTOMETRIC = {32803, 34892}  # a sensor's pixels, before and after demosaicing
_REDUCED, _MASK = 1, 4  # bits in the value of the tag `_SUBFILE`
_OLD_JPEG = 6
_MAX_DIRECTORIES, _MAX_ENTRIES, _MAX_VALUES = 64, 1000, 64
_NEARLY_FULL = 0.9  # of the raw picture's longer side; the rest is the sensor's edges
_MAX_BYTES = 2**30
_JPEG_START = 2**20  # bytes within which a JPEG's header gives its size

NOT_DEVELOPED = "raw photos are not developed here; export it as JPEG or TIFF"

Tags = dict[int, tuple[int, ...]]


class FullPicture(NamedTuple):
    """A file to decode instead, Pillow's name of its format, and the EXIF orientation to use if that file has none."""

    data: bytes
    format: str
    turn: int


class _Candidate(NamedTuple):
    size: tuple[int, int]
    at: int  # of its directory, or of its JPEG
    n_bytes: int  # of the JPEG; 0 if it is to be decoded as TIFF
    tags: Tags


def full_picture(file: BinaryIO) -> FullPicture | None:
    """Return the largest full picture of a TIFF file, or None in the usual case that it is the first picture.

    Raises `ValueError` for a raw photo without a preview of its full size. The file is left at any position.
    """
    file.seek(0)
    header = file.read(16)
    directories = _directories(file, header)
    if not directories:
        return None
    first = next(iter(directories.values()))
    turn = _one(first, _ORIENTATION, 1)
    raw = [tags for tags in directories.values() if _one(tags, _PHOTOMETRIC) in _RAW_PHOTOMETRIC]
    if raw or header[8:10] == b"CR" or any(_DNG_VERSION in tags for tags in directories.values()):
        best = _preview(file, directories, raw)
    else:
        if not _is_part(first):
            return None
        # Some programs mark every picture as a smaller copy.
        seen = [tags for tags in directories.values() if min(_size(tags)) and not _one(tags, _SUBFILE) & _MASK]
        full = [tags for tags in seen if not _is_part(tags)] or seen
        pictures = [_Candidate(_size(tags), at, 0, tags) for at, tags in directories.items() if tags in full]
        largest = max(pictures, key=_pixels, default=None)
        if largest is None or largest.tags is first:
            return None
        best = largest
    if best.n_bytes:
        file.seek(best.at)
        return FullPicture(file.read(best.n_bytes), "JPEG", turn)
    file.seek(0)
    data = bytearray(file.read(_MAX_BYTES))
    _, big, _, _ = _layout(header)
    struct.pack_into(_order(header) + ("Q" if big else "I"), data, 8 if big else 4, best.at)
    return FullPicture(bytes(data), "TIFF", 1 if _ORIENTATION in best.tags else turn)


def _preview(file: BinaryIO, directories: dict[int, Tags], raw: list[Tags]) -> _Candidate:
    """Return the largest preview of a raw picture; raises `ValueError` unless it has nearly the full size."""
    candidates, sizes = [], [_size(tags) for tags in raw]
    for at, tags in directories.items():
        sizes.append((_one(tags, _PIXEL_WIDTH), _one(tags, _PIXEL_HEIGHT)))
        if _one(tags, _PHOTOMETRIC) in _RAW_PHOTOMETRIC or _one(tags, _SUBFILE) & _MASK:
            continue
        if (jpeg := _jpeg(file, tags)) is not None:
            candidates.append(jpeg)
        elif _one(tags, _COMPRESSION) != _OLD_JPEG and min(_size(tags)):
            candidates.append(_Candidate(_size(tags), at, 0, tags))
            if not _is_part(tags):
                sizes.append(_size(tags))
    width, height = max(sizes, key=max)
    best = max(candidates, key=_pixels, default=None)
    if best is not None and width and max(best.size) >= _NEARLY_FULL * max(width, height):
        return best
    what = f"of {width} x {height} pixels " if width else ""
    has = f"only a preview of {best.size[0]} x {best.size[1]}" if best is not None else "no preview"
    raise ValueError(f"a raw photo {what}with {has}; {NOT_DEVELOPED}")


def _jpeg(file: BinaryIO, tags: Tags) -> _Candidate | None:
    """Return the JPEG file that a directory points to; None if there is no JPEG."""
    place, n_bytes = tags.get(_JPEG, ()), tags.get(_JPEG_BYTES, ())
    if not (place and n_bytes) and _one(tags, _COMPRESSION) == _OLD_JPEG:
        place, n_bytes = tags.get(_STRIPS, ()), tags.get(_STRIP_BYTES, ())
    if len(place) != 1 or len(n_bytes) != 1 or not 0 < n_bytes[0] <= _MAX_BYTES:
        return None
    start = _bytes(file, place[0], min(n_bytes[0], _JPEG_START))
    frame = frame_at(start + b"\xff\xd9")  # an end mark, because only the size is needed
    return None if frame is None else _Candidate(frame.size, place[0], n_bytes[0], tags)


def _bytes(file: BinaryIO, at: int, n_bytes: int) -> bytes:
    """Read at most `n_bytes` from a position; b"" beyond the end. The next read continues after these bytes."""
    if at >= file.seek(0, os.SEEK_END):
        return b""
    file.seek(at)
    return file.read(n_bytes)


def _is_part(tags: Tags) -> bool:
    """Return whether a picture is a smaller copy of another, or a mask for it."""
    return bool(_one(tags, _SUBFILE) & (_REDUCED | _MASK)) or _one(tags, _OLD_SUBFILE) == 2 or not min(_size(tags))


def _size(tags: Tags) -> tuple[int, int]:
    return _one(tags, _WIDTH), _one(tags, _HEIGHT)


def _pixels(candidate: _Candidate) -> int:
    return candidate.size[0] * candidate.size[1]


def _one(tags: Tags, tag: int, default: int = 0) -> int:
    return next(iter(tags.get(tag, ())), default)


def _order(header: bytes) -> str:
    return "<" if header[:2] == b"II" else ">"


def _layout(header: bytes) -> tuple[int, bool, str, str]:
    """Return the offset of a TIFF file's first directory, whether offsets have 8 bytes, and two formats of `struct`.

    The formats are that of a directory's number of entries, and that of an entry.
    """
    order, big = _order(header), 43 in header[2:4]
    header = header.ljust(16, b"\0")
    if big:
        return struct.unpack_from(order + "Q", header, 8)[0], True, order + "Q", order + "HHQ8s"
    return struct.unpack_from(order + "I", header, 4)[0], False, order + "H", order + "HHI4s"


def _directories(file: BinaryIO, header: bytes) -> dict[int, Tags]:
    """Return at most `_MAX_DIRECTORIES` directories by their offsets, in the order found, each once."""
    at, _, _, _ = _layout(header)
    found: dict[int, Tags] = {}
    waiting = [at]
    while waiting and len(found) < _MAX_DIRECTORIES:
        at = waiting.pop(0)
        if not at or at in found:
            continue
        tags, following = _directory(file, header, at)
        if not tags:
            continue
        found[at] = tags
        waiting += [following, *tags.get(_SUB_IFDS, ()), *tags.get(_EXIF, ())]
    return found


def _directory(file: BinaryIO, header: bytes, at: int) -> tuple[Tags, int]:
    """Return the values of one directory for the tags in `_TAGS`, and the offset of the next directory, 0 for none."""
    _, big, count_format, entry_format = _layout(header)
    size = struct.calcsize(entry_format)
    start = _bytes(file, at, struct.calcsize(count_format))
    n_entries = struct.unpack(count_format, start)[0] if len(start) == struct.calcsize(count_format) else 0
    if not 0 < n_entries <= _MAX_ENTRIES:
        return {}, 0
    data = file.read(n_entries * size + (8 if big else 4))
    tags: Tags = {}
    for k in range(min(n_entries, len(data) // size)):
        tag, kind, n_values, value = struct.unpack_from(entry_format, data, k * size)
        if tag in _TAGS and kind in _SIZES and n_values > 0:
            tags[tag] = _values(file, _order(header), _SIZES[kind], n_values, value)
    following = data[n_entries * size :]
    number = int.from_bytes(following, "little" if _order(header) == "<" else "big")
    return tags, number if len(following) == (8 if big else 4) else 0


def _values(file: BinaryIO, order: str, size: int, n_values: int, value: bytes) -> tuple[int, ...]:
    """Return at most `_MAX_VALUES` values of an entry, which contains them or points to them."""
    byte_order = "little" if order == "<" else "big"
    if n_values * size > len(value):
        value = _bytes(file, int.from_bytes(value, byte_order), min(n_values, _MAX_VALUES) * size)  # type: ignore[arg-type]
    data = value[: min(n_values, _MAX_VALUES) * size]
    return tuple(
        int.from_bytes(data[at : at + size], byte_order)  # type: ignore[arg-type]
        for at in range(0, len(data), size)
    )
