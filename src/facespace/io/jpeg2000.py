"""Reads the size of a JPEG 2000 file's pixels before the decoder allocates memory for them."""

from __future__ import annotations

import struct
from typing import BinaryIO

_CODESTREAM = b"\xff\x4f\xff\x51"  # markers of its start and of its size segment: ISO/IEC 15444-1, A.5.1
_MAX_BOXES = 1000
_MAX_TILES = 20_000  # the decoder allocates some 10 kB for each before it decodes the first


def claimed_size(file: BinaryIO) -> tuple[int, int]:
    """Return width and height from the codestream's header; the file's own header may state another size.

    Raises `ValueError` if the codestream's header is missing or invalid, or states over 4 components or too many tiles.
    """
    file.seek(0)
    if file.read(4) == _CODESTREAM:
        file.seek(0)
    else:
        _seek_codestream(file)
    header = file.read(42)
    if len(header) < 42 or header[:4] != _CODESTREAM:
        raise ValueError("the header of its codestream is missing")
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, n_components = struct.unpack_from(
        ">8IH", header, 8
    )
    if not 1 <= n_components <= 4:
        raise ValueError(f"it must have 1 to 4 components, got {n_components}")
    if right <= left or bottom <= top or not tile_width or not tile_height or tile_left > left or tile_top > top:
        raise ValueError("its size or the size of its tiles is invalid")
    n_tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
    if n_tiles > _MAX_TILES:
        raise ValueError(f"it must have at most {_MAX_TILES:,} tiles, got {n_tiles:,}")
    return right - left, bottom - top


def _seek_codestream(file: BinaryIO) -> None:
    """Seek to the start of the first codestream in a file of boxes (ISO/IEC 15444-1, I.4)."""
    at = 0
    for _ in range(_MAX_BOXES):
        file.seek(at)
        header = file.read(16)
        if len(header) < 8:
            break
        length, skip = int.from_bytes(header[:4], "big"), 8
        if length == 1:
            length, skip = int.from_bytes(header[8:16], "big"), 16
        if header[4:8] == b"jp2c":
            file.seek(at + skip)
            return
        if length < skip or at + length >= 2**63:  # a length of 0 means up to the end of the file
            break
        at += length
    raise ValueError("it contains no pixels")
