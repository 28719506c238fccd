"""Pickles of verification sets, and hand-written pickle instructions."""

from __future__ import annotations

import pickle
import struct
from typing import Any

import numpy as np

IMAGES = [b"\xff\xd8 first", b"\xff\xd8 second\n\x00", b"\x89PNG", b"x" * 300, bytes(range(256)), b"\x80."]
SAME = [True, False, True]
PROTOCOLS = [2, 3, 4, 5]
TWO_IMAGES = b"U\x01aU\x01b"


def text(value: str) -> bytes:
    """BINUNICODE"""
    raw = value.encode("utf-8")
    return b"X" + struct.pack("<I", len(raw)) + raw


def short(value: str) -> bytes:
    """SHORT_BINUNICODE"""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def python2(value: bytes) -> bytes:
    """A string of Python 2: SHORT_BINSTRING or BINSTRING."""
    return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value


def python2_array(code: bytes, n: int, data: bytes, *, core: bytes = b"core") -> bytes:
    """An array of `n` items as NumPy for Python 2 writes it."""
    dtype = (
        b"cnumpy\ndtype\n("
        + python2(code)
        + b"K\x00K\x01tR(K\x03"
        + python2(b"|")
        + b"NNN"
        + b"J\xff\xff\xff\xff" * 2
        + b"K\x00tb"
    )
    array = b"cnumpy." + core + b".multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + python2(b"b") + b"tR"
    return array + b"(K\x01J" + struct.pack("<i", n) + b"\x85" + dtype + b"\x89" + python2(data) + b"tb"  # fmt: skip


def a_set(images: bytes, same: bytes) -> bytes:
    """Return a set from instructions that push the images and the labels."""
    return b"\x80\x02](" + images + b"e](" + same + b"e\x86."


def small_files() -> list[bytes]:
    """Return sets of one pair each, as different programs write them."""
    array = np.frombuffer(b"jpeg", np.uint8)
    contents: list[Any] = [([b"first", b"second"], [True]), ([array, array], np.array([True]))]
    files = [pickle.dumps(content, protocol) for content in contents for protocol in PROTOCOLS]
    return [*files, a_set(TWO_IMAGES, b"\x88"), a_set(python2_array(b"u1", 2, b"ab") + b"U\x01a", b"\x88")]
