"""Limits on a PNG's chunks."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from facespace.errors import ImageError
from facespace.io.image import read
from facespace.io.png_limits import MAX_CHUNKS, check_png


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(before: bytes = b"", behind: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", 3, 2, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + behind + chunk(b"IEND", b"")


PROFILE = chunk(b"iCCP", b"x\0\0" + zlib.compress(b"a" * 1_000_000))
MANY = "more than 1,000 chunks without pixels; a photo has about ten"


@pytest.mark.parametrize("one", [PROFILE, chunk(b"tEXt", b"a\0b"), chunk(b"abCd", b""), chunk(b"IDAT", b"")])
@pytest.mark.parametrize("behind", [False, True])
def test_many_chunks_are_refused(monkeypatch: pytest.MonkeyPatch, one: bytes, behind: bool) -> None:
    def decompressed(data: bytes) -> bytes:
        raise AssertionError("unpacked")

    monkeypatch.setattr("PIL.PngImagePlugin._safe_zlib_decompress", decompressed)
    data = png(b"", one * MAX_CHUNKS) if behind else png(one * MAX_CHUNKS)
    with pytest.raises(ImageError) as caught:
        read(data)
    assert caught.value.reason == MANY


def test_ordinary_files_pass() -> None:
    assert read(png(chunk(b"tEXt", b"a\0b") * 500, chunk(b"tEXt", b"a\0b") * 400)).shape == (2, 3, 3)
    small = png()
    pixels = zlib.compress(b"\0" * 20)
    in_pieces = b"".join(chunk(b"IDAT", pixels[k : k + 1]) for k in range(len(pixels)))
    header = small[: small.index(b"IDAT") - 4]
    assert read(header + in_pieces + chunk(b"IEND", b"")).shape == (2, 3, 3)


def test_long_animations_pass() -> None:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (3, 2), (k % 256, k // 256, 0)) for k in range(MAX_CHUNKS + 10)]
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    assert stream.getvalue().count(b"fcTL") > MAX_CHUNKS
    assert read(stream.getvalue()).shape == (2, 3, 3)


@pytest.mark.parametrize("end", [8, 12, 20, 40, 50])
def test_a_cut_file_is_left_to_the_decoder(end: int) -> None:
    assert check_png(io.BytesIO(png()[:end])) == ""
