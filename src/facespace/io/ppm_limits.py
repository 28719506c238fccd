"""How long the header of a PPM may be: Pillow reads it byte by byte, and comments and spaces in it have no end."""

from __future__ import annotations

import re
from typing import BinaryIO

MAX_HEADER = 2**16  # bytes
_COMMENT = re.compile(rb"#[^\r\n]*")


def check_ppm(stream: BinaryIO) -> str:
    """Why a PPM must not be decoded: its header goes on and on; empty if nothing speaks against it.

    The stream is read from where it stands, and left anywhere.

    >>> import io
    >>> check_ppm(io.BytesIO(b"P6 1 1 #" + b"a" * 100_000)), check_ppm(io.BytesIO(b"P6 1 1 255 abc"))
    ('a header of more than 65,536 bytes', '')
    """
    start = stream.read(MAX_HEADER)
    n_words = (
        3 if start[:2] in (b"P1", b"P4") else 4
    )  # the kind, width, height, and the largest value where there is one
    complete = len(start) < MAX_HEADER or len(_COMMENT.sub(b"", start).split(maxsplit=n_words)) >= n_words
    return "" if complete else f"a header of more than {MAX_HEADER:,} bytes"
