"""TIFF files built directory by directory, in the layout of cameras' raw photos."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Directory = dict[int, int]
_SUBS, _EXIF = 330, 34665


def tiff(
    directories: Sequence[Directory],
    *,
    subs: Sequence[Directory] = (),
    exif: Directory | None = None,
    blobs: Sequence[bytes] = (),
    order: str = "<",
    big: bool = False,
    mark: bytes = b"",
) -> bytes:
    """A chain of directories of whole numbers; `subs` and `exif` belong to the first, `mark` stands behind the header.

    A value of -k - 1 is replaced by the position of `blobs[k]`.
    """
    number, count, entry = ("Q", "Q", "HHQQ") if big else ("I", "H", "HHII")
    first = (16 if big else 8) + len(mark)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HHQ", 8, 0, first) if big else struct.pack(order + "I", first)
    tables = [dict(directories[0]), *directories[1:], *subs, *([exif] if exif else [])]
    if subs:
        tables[0][_SUBS] = 0
    if exif:
        tables[0][_EXIF] = 0
    fixed = struct.calcsize(order + count + number)
    sizes = [fixed + len(tags) * struct.calcsize(order + entry) for tags in tables]
    places = [first + sum(sizes[:k]) for k in range(len(tables) + 1)]
    of_subs = places[len(directories) : len(directories) + len(subs)]
    pointers = b"".join(struct.pack(order + number, place) for place in of_subs) if len(subs) > 1 else b""
    if subs:
        tables[0][_SUBS] = of_subs[0] if len(subs) == 1 else places[-1]
    if exif:
        tables[0][_EXIF] = places[-2]
    of_blobs = [places[-1] + len(pointers) + sum(map(len, blobs[:k])) for k in range(len(blobs))]
    data = head + mark
    for k, tags in enumerate(tables):
        data += struct.pack(order + count, len(tags))
        for tag, value in sorted(tags.items()):
            n = len(subs) if tag == _SUBS else 1
            data += struct.pack(order + entry, tag, 16 if big else 4, n, of_blobs[-value - 1] if value < 0 else value)
        data += struct.pack(order + number, places[k + 1] if k + 1 < len(directories) else 0)
    return data + pointers + b"".join(blobs)


def strips(width: int, height: int, blob: int, n_bytes: int, **more: int) -> Directory:
    """Return the directory of a gray picture of one uncompressed strip; `more` adds tags as `tNUMBER`."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: -blob - 1, 277: 1, 278: height, 279: n_bytes}
    return {**tags, **{int(name[1:]): value for name, value in more.items()}}
