"""What an encoded image is, by its first bytes."""

from __future__ import annotations

_STARTS = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"BM", ".bmp"),
    (b"GIF8", ".gif"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"P5", ".pgm"),
    (b"P6", ".ppm"),
)


def image_ending(encoded: bytes) -> str | None:
    """The ending of a file with this image in it; None where it is of no kind that is known here.

    >>> image_ending(b"RIFF....WEBPVP8 "), image_ending(b"<html>")
    ('.webp', None)
    """
    for start, ending in _STARTS:
        if encoded.startswith(start):
            return ending
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return ".webp"
    if encoded[4:8] == b"ftyp":
        return ".avif" if encoded[8:12] in (b"avif", b"avis") else ".heic"
    return None
