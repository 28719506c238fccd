"""Limits the work that a PNG's chunks can cause, before anything is decoded.

Texts and colour profiles are compressed: every kilobyte in the file can become a megabyte, and Pillow unpacks each chunk.
Photos have some ten chunks besides those of the pixels, some dozens if a program writes texts. PNG specification, 3rd
edition.
"""

from __future__ import annotations

from typing import BinaryIO

MAX_CHUNKS = 1000  # not counting the chunks of pixels and of an animation's frames
_PIXELS = {b"IDAT", b"fdAT", b"fcTL"}


def check_png(stream: BinaryIO) -> str:
    """Return why a PNG must not be decoded (too many chunks), or an empty string if it may be decoded.

    The stream is read from its position and left at any position. Empty chunks of pixels are counted too. A damaged file is
    checked as far as it can be read.
    """
    stream.seek(8, 1)
    n_chunks = 0
    while len(header := stream.read(8)) == 8 and header[4:] != b"IEND":
        length = int.from_bytes(header[:4], "big")
        n_chunks += header[4:] not in _PIXELS or not length
        if n_chunks > MAX_CHUNKS:
            return f"more than {MAX_CHUNKS:,} chunks without pixels; a photo has about ten"
        stream.seek(length + 4, 1)
    return ""
