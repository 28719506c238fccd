"""The checksum in TensorFlow's files: TFRecords and checkpoints."""

from __future__ import annotations

import google_crc32c
import numpy as np
import numpy.typing as npt


def masked_crc(data: bytes | npt.NDArray[np.uint8]) -> int:
    """The masked CRC-32C of bytes, rot15(crc) + 0xa282ead8 (mod 2³²): for data that holds checksums itself.

    >>> hex(masked_crc(b"123456789"))
    '0xc78ab0e5'
    """
    view = np.frombuffer(data, np.uint8)
    view.flags.writeable = False  # google_crc32c takes nothing else
    crc = google_crc32c.value(view)
    return int(((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)
