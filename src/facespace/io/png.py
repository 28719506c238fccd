"""Writes crops as PNG faster than Pillow.

Pillow tries all five filters of the format on every row, which is most of its work on photos. One filter, the mean of the
pixels to the left and above, is the best for nearly all rows of photos. ISA-L then compresses the filtered rows, much
faster than zlib and about as small. PNG specification, 3rd edition, W3C.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_AVERAGE = 3  # the filter's number


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode pixels (H,W,3) uint8 RGB as a PNG file; raises `ValueError` for anything else.

    >>> encode_png(np.zeros((2, 3, 3), np.uint8))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be (H,W,3) uint8, got {pixels.dtype} of shape {pixels.shape}")
    height, width, _ = pixels.shape
    rows = np.ascontiguousarray(pixels).reshape(height, 3 * width)
    near = np.zeros((height, 3 * width), np.uint16)  # sum of left and above, 0 outside the image
    near[:, 3:] = rows[:, :-3]
    near[1:] += rows[:-1]
    near >>= 1
    filtered = np.empty((height, 1 + 3 * width), np.uint8)
    filtered[:, 0] = _AVERAGE
    np.subtract(rows, near.astype(np.uint8), out=filtered[:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    data = isal_zlib.compress(filtered, 2)  # the level that compresses photos best
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
