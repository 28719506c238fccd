"""What a JPEG 2000 file claims of its pixels, read before the decoder takes memory for them."""

from __future__ import annotations

import struct
from typing import BinaryIO

_CODESTREAM = b"\xff\x4f\xff\x51"  # its begin, and the segment of its size: ISO/IEC 15444-1, A.5.1
_MOST_BOXES = 1000
_MOST_TILES = 20_000  # the decoder takes some 10 kB for each before the first is decoded


def claimed_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height in the header of the pixels themselves, which may differ from that of the file.

    Raises `ValueError` for a file without such a header, with more than 4 components or with a great many tiles.
    """
    file.seek(0)
    if file.read(4) == _CODESTREAM:
        file.seek(0)
    else:
        _seek_codestream(file)
    header = file.read(42)
    if len(header) < 42 or header[:4] != _CODESTREAM:
        raise ValueError("the header of its pixels is missing")
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, n_components = struct.unpack_from(
        ">8IH", header, 8
    )
    if not 1 <= n_components <= 4:
        raise ValueError(f"{n_components} components; 1 to 4 are read")
    if right <= left or bottom <= top or not tile_width or not tile_height or tile_left > left or tile_top > top:
        raise ValueError("its size or that of its tiles makes no sense")
    n_tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
    if n_tiles > _MOST_TILES:
        raise ValueError(f"{n_tiles:,} tiles; at most {_MOST_TILES:,} are read")
    return right - left, bottom - top


def _seek_codestream(file: BinaryIO) -> None:
    """Go to the begin of the first codestream of a file of boxes (ISO/IEC 15444-1, I.4)."""
    at = 0
    for _ in range(_MOST_BOXES):
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
        if length < skip or at + length >= 2**63:  # 0: the box reaches to the end of the file
            break
        at += length
    raise ValueError("there are no pixels in it")
