"""Writes pictures to files atomically.

Pictures are encoded in memory first, because Pillow does not notice when a full disk stores only a part of a file.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from facespace.io.files import write_bytes


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    """Encode a picture in a format that Pillow writes: JPEG, WEBP, PNG.

    >>> encode(Image.new("RGB", (2, 3)), "PNG")[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def save(picture: Image.Image, target: Path, kind: str, **options: object) -> None:
    """Write a picture as `atomic_path` does; raises `OSError` if it cannot be written."""
    write_bytes(target, encode(picture, kind, **options))
