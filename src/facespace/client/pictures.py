"""Photos as the bytes of image files, ready to be sent."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

from facespace.errors import ImageError
from facespace.io import image
from facespace.io.file_kinds import START, photo_format
from facespace.io.image import Source
from facespace.io.png import encode_png
from facespace.io.text import plain_text

MAX_PHOTO = 2**28  # bytes of one photo; by default services accept 32 MiB per request
_MAX_FILENAME = 200
_PART = 2**20
_MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
    "AVIF": "image/avif",
    "HEIC": "image/heic",
    "JPEG2000": "image/jp2",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """An image to send: the bytes of an image file, a file name without folders, and the media type."""

    data: bytes
    filename: str
    media_type: str


def picture_of(source: Source) -> Picture:
    """Return a picture to send, from a path, bytes, a binary file, a PIL image or an array.

    Files and bytes are sent unchanged; an array or a PIL image is encoded as PNG. Raises `ImageError` for a file that
    cannot be read, is larger than `MAX_PHOTO`, or does not begin like an image, so that other files are never sent by
    mistake.

    >>> picture_of(np.zeros((2, 3, 3), np.uint8)).media_type
    'image/png'
    >>> picture_of(b"root:x:0:0:")
    Traceback (most recent call last):
        ...
    facespace.errors.ImageError: <bytes>: not an image facespace reads (JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF, HEIC, JPEG 2000); it was not sent
    """
    if isinstance(source, (np.ndarray, Image.Image)):
        name = "<array>" if isinstance(source, np.ndarray) else "<PIL image>"
        return Picture(_checked(encode_png(image.read(source)), name), "photo.png", "image/png")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _picture(bytes(source), "<bytes>", "photo")
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        return _picture(_file_at(path), path, os.path.basename(path))
    if callable(getattr(source, "read", None)):
        return _picture(_rest_of(source), "<file>", "photo")
    raise TypeError(
        f"a photo must be a path, bytes, a binary file, a PIL image or an array, got {type(source).__name__}"
    )


def _picture(data: bytes, name: str, filename: str) -> Picture:
    _checked(data, name)
    image_format = photo_format(data[:START])
    if not image_format or image_format == "RAW":
        raise ImageError(
            name,
            "not an image facespace reads (JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF, HEIC, JPEG 2000); it was not sent",
        )
    return Picture(
        data, plain_text(filename)[-_MAX_FILENAME:], _MEDIA_TYPES.get(image_format, "application/octet-stream")
    )


def _checked(data: bytes, name: str) -> bytes:
    if not data:
        raise ImageError(name, "the file is empty")
    if len(data) > MAX_PHOTO:
        raise ImageError(name, _too_large(len(data)))
    return data


def _file_at(path: str) -> bytes:
    try:
        status = os.stat(path)  # before opening, because opening a FIFO blocks
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(path, "a folder, not an image")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(path, "not a regular file")
        if status.st_size > MAX_PHOTO:
            raise ImageError(path, _too_large(status.st_size))
        with open(path, "rb") as stream:
            return stream.read(status.st_size)  # not `MAX_PHOTO`: `read` allocates as much as it is given
    except (OSError, ValueError) as error:  # ValueError: an invalid file name
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        said = getattr(error, "strerror", None) or str(error)
        raise ImageError(path, "no such file" if missing else f"cannot be read ({said})") from None


def _rest_of(stream: BinaryIO) -> bytes:
    parts = bytearray()
    while len(parts) <= MAX_PHOTO:
        try:
            part = stream.read(_PART)
        except (OSError, ValueError) as error:
            raise ImageError("<file>", f"cannot be read ({error})") from None
        if not isinstance(part, (bytes, bytearray)):
            raise TypeError(f"a file object must be binary, but its read() returned {type(part).__name__}")
        if not part:
            break
        parts += part
    return bytes(parts)


def _too_large(n_bytes: int) -> str:
    return f"a photo to send must have at most {MAX_PHOTO:,} bytes, got {n_bytes:,}"
