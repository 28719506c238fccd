"""What a PNG's chunks may ask for, looked at before anything is decoded.

Texts and colour profiles are compressed: a kilobyte of file becomes a megabyte, again and again, and Pillow unpacks each.
Photos have some ten chunks beside those of the pixels, programs that write texts some dozens. PNG specification, 3rd edition.
"""

from __future__ import annotations

from typing import BinaryIO

MAX_CHUNKS = 1000  # without those of pixels and of an animation's frames
_PIXELS = {b"IDAT", b"fdAT", b"fcTL"}


def check_png(stream: BinaryIO) -> str:
    """Why a PNG must not be decoded: too many chunks; empty if nothing speaks against it.

    The stream is read from where it stands, and left anywhere. Empty chunks of pixels count as chunks. Of a damaged file
    as much is looked at as is there.
    """
    stream.seek(8, 1)
    n_chunks = 0
    while len(header := stream.read(8)) == 8 and header[4:] != b"IEND":
        length = int.from_bytes(header[:4], "big")
        n_chunks += header[4:] not in _PIXELS or not length
        if n_chunks > MAX_CHUNKS:
            return f"more than {MAX_CHUNKS:,} chunks that hold no pixels; a photo has about ten"
        stream.seek(length + 4, 1)
    return ""
