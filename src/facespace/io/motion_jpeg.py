"""Recognises Motion JPEG, a video that is a sequence of JPEGs, and tells it apart from a photo with appended data."""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

_FRAMES = 3  # consecutive JPEGs of one size that make a video: no photo is followed by two more of its size
_MAX_BYTES = 32 * 2**20  # read at most to find these frames
_GAP = 16  # bytes of padding between frames
_NO_SIZE = {0xC4, 0xC8, 0xCC}  # tables in the range of the frame markers
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length


class Frame(NamedTuple):
    """A JPEG within bytes: its `end`, its `size` (width, height), and whether its header announces further pictures."""

    end: int
    size: tuple[int, int]
    has_parts: bool


def follows_itself(file: BinaryIO) -> bool:
    """Return whether a file begins with three consecutive JPEGs of one size. The file's position changes.

    Return False for a photo whose header announces further pictures (Multi-Picture Format, Android's containers).
    """
    file.seek(0)
    data = file.read(_MAX_BYTES)
    at, size = 0, None
    for _ in range(_FRAMES):
        frame = frame_at(data, at)
        if frame is None or frame.has_parts or size not in (None, frame.size):
            return False
        size = frame.size
        gap = data[frame.end : frame.end + _GAP]
        at = frame.end + len(gap) - len(gap.lstrip(b"\0\r\n"))
    return True


def frame_at(data: bytes, at: int = 0) -> Frame | None:
    """Return the JPEG that begins at a position; None if no JPEG begins there, or if its end is missing.

    >>> frame_at(b"text") is None
    True
    """
    if data[at : at + 2] != b"\xff\xd8":
        return None
    at += 2
    size, has_parts = (0, 0), False
    while data[at : at + 1] == b"\xff" and at + 1 < len(data):
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == 0xD9:
            return Frame(at + 2, size, has_parts)
        if marker in _ALONE:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2:
            return None
        if 0xC0 <= marker <= 0xCF and marker not in _NO_SIZE:
            size = (int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big"))
        if marker == 0xE2 and data[at + 4 : at + 8] == b"MPF\0":
            has_parts = True
        if marker == 0xE1 and data.find(b"Container:Directory", at, at + 2 + length) >= 0:
            has_parts = True
        if marker == 0xDA:  # coded pixels follow, in which the end mark cannot occur
            end = data.find(b"\xff\xd9", at)
            return None if end < 0 else Frame(end + 2, size, has_parts)
        at += 2 + length
    return None
