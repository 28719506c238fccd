"""Limits the work that a JPEG's markers can cause, before anything is decoded.

A progressive JPEG is decoded scan by scan, each over all blocks of the picture, and a scan may take less than twenty bytes
in the file: half a megabyte can keep a decoder busy for minutes ("Two Issues with the JPEG Standard", libjpeg-turbo, 2015).
Photos have 10 scans, and up to 20 if the encoder searches for the shortest file, so 100 are more than enough. The cost is
scans times pixels; the limit allows 20 scans over the largest photos of phones.

Metadata are in segments of at most 64 KiB before the picture. A colour profile has up to 255 segments, extended XMP and
depth maps have some hundreds, and EXIF data, which Pillow joins piece by piece, have one.

Thumbnails, which are inside segments, and further pictures after the first (MPO, motion photos) are not checked. ITU-T
T.81, appendix B.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

MAX_SCANS = 100
MAX_SCANNED_PIXELS = 4_000_000_000  # scans times pixels
MAX_SEGMENTS = 2000  # all segments of the file, including tables between scans
MAX_EXIF_SEGMENTS = 16

_CHUNK = 2**18  # bytes read at once
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # RST0 to RST7 are inside scans, and FF 00 is not a marker
_ALONE = {0x01, 0xD8}  # markers without a length: TEM and SOI
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, without the three that are tables
_SEQUENTIAL = {0xC0, 0xC1, 0xC9}  # frames that are not progressive
_START_OF_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1


def check_jpeg(stream: BinaryIO) -> str:
    """Return why a JPEG must not be decoded (too many scans or segments), or an empty string if it may be decoded.

    The stream is read from its position and left at any position. Damage is not reported here, because decoders do that.

    >>> import io
    >>> check_jpeg(io.BytesIO(bytes.fromhex("ffd8") + bytes.fromhex("ffe10008457869660000") * 17))
    'more than 16 EXIF segments; a photo has 1'
    """
    n_exif = n_scans = n_pixels = n_components = 0
    progressive = False
    for number, (marker, payload) in enumerate(_segments(stream), 1):
        if number > MAX_SEGMENTS:
            return f"more than {MAX_SEGMENTS:,} segments; a photo has far fewer"
        if marker == _APP1 and payload.startswith(b"Exif\0"):
            n_exif += 1
            if n_exif > MAX_EXIF_SEGMENTS:
                return f"more than {MAX_EXIF_SEGMENTS} EXIF segments; a photo has 1"
        elif marker in _FRAMES and len(payload) >= 6:
            n_pixels = int.from_bytes(payload[1:3], "big") * int.from_bytes(payload[3:5], "big")
            n_components, progressive = payload[5], marker not in _SEQUENTIAL
        elif marker == _START_OF_SCAN:
            n_scans += 1
            if n_scans > MAX_SCANS:
                return f"more than {MAX_SCANS} scans; a photo has about 10"
            if n_scans * n_pixels > MAX_SCANNED_PIXELS:
                return (
                    f"at least {n_scans} scans of {n_pixels:,} pixels; scans times pixels must be at most "
                    f"{MAX_SCANNED_PIXELS:,}"
                )
            if not progressive and payload[:1] == bytes([n_components]):
                break  # the whole picture is in one scan, as in most photos
    return ""


def _segments(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the markers of the first picture in a JPEG, each with the first bytes of its segment."""
    window = _Window(stream)
    while (marker := window.next_marker()) not in (None, _END):
        if marker in _ALONE:
            yield marker, b""
            continue
        length = int.from_bytes(window.take(2), "big") - 2
        if length < 0:
            return
        yield marker, window.take(min(length, 8))
        window.skip(length - 8)


class _Window:
    """A buffered view of a stream, which keeps only one piece in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._piece = b""
        self._at = 0

    def next_marker(self) -> int | None:
        """Return the next marker after any scan data or stray bytes; None at the end."""
        while True:
            if found := _MARKER.search(self._piece, self._at):
                self._at = found.end()
                return self._piece[self._at - 1]
            half = self._piece[self._at :].endswith(b"\xff")  # the first half of a marker
            self._at = len(self._piece) - half
            if not self._fill(half + 1):
                return None

    def take(self, n: int) -> bytes:
        """Return the next `n` bytes, or fewer at the end."""
        self._fill(n)
        taken = self._piece[self._at : self._at + n]
        self._at += len(taken)
        return taken

    def skip(self, n: int) -> None:
        """Skip the next `n` bytes."""
        while n > 0 and self._fill(1):
            step = min(n, len(self._piece) - self._at)
            self._at += step
            n -= step

    def _fill(self, n: int) -> bool:
        """Read until `n` more bytes are in memory; return False if the stream ends before."""
        while len(self._piece) - self._at < n and (more := self._stream.read(_CHUNK)):
            self._piece = self._piece[self._at :] + more
            self._at = 0
        return len(self._piece) - self._at >= n
