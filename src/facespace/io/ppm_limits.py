"""Limits the header and the comments of a PPM, PGM or PBM, which can cost far more time than the file's length suggests.

Pillow reads the header byte by byte, and in files with numbers as text it copies up to a megabyte for every comment.
"""

from __future__ import annotations

import re
from typing import BinaryIO

MAX_HEADER = 2**16  # bytes
MAX_COMMENTS = 1000  # among numbers written as text
_COMMENT = re.compile(rb"#[^\r\n]*")
_TEXT = (b"P1", b"P2", b"P3")


def check_ppm(stream: BinaryIO) -> str:
    """Return why a PPM must not be decoded (a long header or many comments), or an empty string if it may be decoded.

    The stream is read from its position and left at any position.

    >>> import io
    >>> check_ppm(io.BytesIO(b"P6 1 1 #" + b"a" * 100_000)), check_ppm(io.BytesIO(b"P6 1 1 255 abc"))
    ('a header of more than 65,536 bytes', '')
    """
    start = stream.read(MAX_HEADER)
    n_words = 3 if start[:2] in (b"P1", b"P4") else 4  # kind, width, height and, except for bitmaps, the largest value
    if len(start) == MAX_HEADER and len(_COMMENT.sub(b"", start).split(maxsplit=n_words)) < n_words:
        return f"a header of more than {MAX_HEADER:,} bytes"
    n_comments, piece = 0, start if start.startswith(_TEXT) else b""
    while piece:
        n_comments += piece.count(b"#")
        if n_comments > MAX_COMMENTS:
            return f"more than {MAX_COMMENTS:,} comments"
        piece = stream.read(MAX_HEADER)
    return ""
