"""What a JPEG's markers may ask for, looked at before anything is decoded.

A progressive JPEG is decoded scan by scan, each over all blocks of the picture, and a scan may take less than twenty bytes
of file: half a megabyte can keep a decoder busy for minutes ("Two Issues with the JPEG Standard", libjpeg-turbo, 2015).
Photos have 10 scans, those of encoders that search for the shortest file up to 20, so that 100 are more than enough; and
scans times pixels, which is the cost, may be those of 20 scans over the largest photo of a phone.

Metadata lies in segments of at most 64 KiB before the picture. A colour profile has up to 255, extended XMP and depth
maps have some hundreds; EXIF data, which Pillow joins piece by piece, has one.

Thumbnails lie inside of segments, and further pictures of a file (MPO, motion photos) behind the first one's end: neither is
looked at. ITU-T T.81, appendix B.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

MAX_SCANS = 100
MAX_SCANNED_PIXELS = 4_000_000_000  # scans times pixels
MAX_SEGMENTS = 2000  # all segments of the file, tables between scans among them
MAX_EXIF_SEGMENTS = 16

_CHUNK = 2**18  # bytes read at once
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # RST0 to RST7 lie in the midst of a scan, and FF 00 is no marker
_ALONE = {0x01, 0xD8}  # markers without a length: TEM and SOI
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15; the others are tables
_IN_ONE_GO = {0xC0, 0xC1, 0xC9}  # frames that are not progressive
_START_OF_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1


def check_jpeg(stream: BinaryIO) -> str:
    """Why a JPEG must not be decoded: too many scans or segments; empty if nothing speaks against it.

    The stream is read from where it stands, and left anywhere. A damaged file has no reason here: decoders say what it lacks.

    >>> import io
    >>> check_jpeg(io.BytesIO(bytes.fromhex("ffd8") + bytes.fromhex("ffe10008457869660000") * 17))
    '17 EXIF segments and perhaps more; a photo has 1, the limit is 16'
    """
    n_exif = n_scans = n_pixels = n_components = 0
    progressive = False
    for number, (marker, payload) in enumerate(_segments(stream), 1):
        if number > MAX_SEGMENTS:
            return f"more than {MAX_SEGMENTS:,} segments; no photo has so many"
        if marker == _APP1 and payload.startswith(b"Exif\0"):
            n_exif += 1
            if n_exif > MAX_EXIF_SEGMENTS:
                return f"{n_exif} EXIF segments and perhaps more; a photo has 1, the limit is {MAX_EXIF_SEGMENTS}"
        elif marker in _FRAMES and len(payload) >= 6:
            n_pixels = int.from_bytes(payload[1:3], "big") * int.from_bytes(payload[3:5], "big")
            n_components, progressive = payload[5], marker not in _IN_ONE_GO
        elif marker == _START_OF_SCAN:
            n_scans += 1
            if n_scans > MAX_SCANS:
                return f"more than {MAX_SCANS} scans; a photo has about 10"
            if n_scans * n_pixels > MAX_SCANNED_PIXELS:
                return (
                    f"{n_scans} scans of {n_pixels:,} pixels and perhaps more; scans times pixels may be "
                    f"{MAX_SCANNED_PIXELS:,}"
                )
            if not progressive and payload[:1] == bytes([n_components]):
                break  # all of the picture in one scan, as in most photos
    return ""


def _segments(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The markers of the first picture in a JPEG, each with the first bytes of its segment."""
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
    """A stream, of which a piece is in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._piece = b""
        self._at = 0

    def next_marker(self) -> int | None:
        """The next marker, whatever lies before it: a scan's data or stray bytes; None where there is no more."""
        while True:
            if found := _MARKER.search(self._piece, self._at):
                self._at = found.end()
                return self._piece[self._at - 1]
            half = self._piece[self._at :].endswith(b"\xff")  # of a marker
            self._at = len(self._piece) - half
            if not self._fill(half + 1):
                return None

    def take(self, n: int) -> bytes:
        """The next `n` bytes, fewer at the end."""
        self._fill(n)
        taken = self._piece[self._at : self._at + n]
        self._at += len(taken)
        return taken

    def skip(self, n: int) -> None:
        """Leave out the next `n` bytes."""
        while n > 0 and self._fill(1):
            step = min(n, len(self._piece) - self._at)
            self._at += step
            n -= step

    def _fill(self, n: int) -> bool:
        """Whether `n` more bytes are in memory, after reading them where they were not."""
        while len(self._piece) - self._at < n and (more := self._stream.read(_CHUNK)):
            self._piece = self._piece[self._at :] + more
            self._at = 0
        return len(self._piece) - self._at >= n
