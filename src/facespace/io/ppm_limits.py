"""What a PPM, PGM or PBM may have besides pixels: a header and comments without end cost more than the file's length says.

Pillow reads the header byte by byte, and among numbers written as text it copies up to a megabyte for every comment.
"""

from __future__ import annotations

import re
from typing import BinaryIO

MAX_HEADER = 2**16  # bytes
MAX_COMMENTS = 1000  # among numbers written as text
_COMMENT = re.compile(rb"#[^\r\n]*")
_TEXT = (b"P1", b"P2", b"P3")


def check_ppm(stream: BinaryIO) -> str:
    """Why a PPM must not be decoded: its header or its comments go on and on; empty if nothing speaks against it.

    The stream is read from where it stands, and left anywhere.

    >>> import io
    >>> check_ppm(io.BytesIO(b"P6 1 1 #" + b"a" * 100_000)), check_ppm(io.BytesIO(b"P6 1 1 255 abc"))
    ('a header of more than 65,536 bytes', '')
    """
    start = stream.read(MAX_HEADER)
    n_words = (
        3 if start[:2] in (b"P1", b"P4") else 4
    )  # the kind, width, height, and the largest value where there is one
    if len(start) == MAX_HEADER and len(_COMMENT.sub(b"", start).split(maxsplit=n_words)) < n_words:
        return f"a header of more than {MAX_HEADER:,} bytes"
    n_comments, piece = 0, start if start.startswith(_TEXT) else b""
    while piece:
        n_comments += piece.count(b"#")
        if n_comments > MAX_COMMENTS:
            return f"more than {MAX_COMMENTS:,} comments"
        piece = stream.read(MAX_HEADER)
    return ""
