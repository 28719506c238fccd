"""Pictures into files, whole or not at all.

They are encoded in memory first: Pillow does not notice when a full disk takes only a part of what it writes.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from facespace.io.files import write_bytes


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The file of a picture in a format that Pillow writes: JPEG, WEBP, PNG.

    >>> encode(Image.new("RGB", (2, 3)), "PNG")[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def save(picture: Image.Image, target: Path, kind: str, **options: object) -> None:
    """Write a picture as `atomic_path` writes files; `OSError` where it cannot be written."""
    write_bytes(target, encode(picture, kind, **options))
