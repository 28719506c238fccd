"""Checksums of files: SHA-256, and the masked CRC-32C of TensorFlow's files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from facespace.errors import ModelError
from facespace.io.files import named_in_errors

MAX_BYTES = 2**31 - 1
_CHUNK = 2**18


def masked_crc(data: bytes | npt.NDArray[np.uint8]) -> int:
    """Return the masked CRC-32C of bytes, rot15(crc) + 0xa282ead8 (mod 2³²); masking suits data that contains checksums.

    >>> hex(masked_crc(b"123456789"))
    '0xc78ab0e5'
    """
    view = np.frombuffer(data, np.uint8)
    view.flags.writeable = False  # google_crc32c accepts only read-only buffers
    crc = google_crc32c.value(view)
    return int(((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def sha256_of(*paths: str | os.PathLike[str]) -> str:
    """Return the SHA-256 over the contents of files, one after the other, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
    return digest.hexdigest()


def sha256_or_error(path: str | os.PathLike[str]) -> str | OSError:
    """Return `sha256_of` a file. If the file cannot be read, return the error, so that a loop over files goes on."""
    try:
        return sha256_of(path)
    except OSError as error:
        return error


def copy_file(source: Path, target: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """Copy a file of at most `max_bytes` and return the SHA-256 of the copy; raises `ModelError` if it is larger."""
    digest, n_bytes = hashlib.sha256(), 0
    with named_in_errors(target), source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(_CHUNK):
            n_bytes += len(piece)
            if n_bytes > max_bytes:
                raise ModelError(f"{source}: more than {max_bytes} bytes, the maximum for a model file")
            digest.update(piece)
            writer.write(piece)
    return digest.hexdigest()
