"""JPEG 2000: read like other photos, and its size is checked before memory is allocated."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, features

from facespace.errors import ImageError
from facespace.io.image import read
from facespace.io.jpeg2000 import claimed_size

pytestmark = pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow without JPEG 2000")
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 4)).astype(np.uint8)


def encode(pixels: np.ndarray, *, bare: bool = False, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG2000", no_jp2=bare, **options)
    return stream.getvalue()


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        read(data)
    return caught.value.reason


@pytest.mark.parametrize("bare", [False, True])
def test_both_kinds_of_file(bare: bool) -> None:
    data = encode(PIXELS[..., :3], bare=bare)
    np.testing.assert_array_equal(read(data), PIXELS[..., :3])
    assert claimed_size(io.BytesIO(data)) == (32, 24)
    np.testing.assert_array_equal(read(encode(PIXELS[..., 0], bare=bare)), np.stack([PIXELS[..., 0]] * 3, 2))
    assert read(encode(PIXELS, bare=bare)).shape == (24, 32, 3)
    assert read(encode(PIXELS[..., :3], bare=bare, tile_size=(16, 16))).shape == (24, 32, 3)


@pytest.mark.parametrize("bare", [False, True])
def test_the_size_is_checked_before_decoding(bare: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.core, "jpeg2k_decoder", None)  # otherwise decoding would fail
    with pytest.raises(ImageError, match=r"768 pixels \(32 x 24\); the limit is 700"):
        read(encode(PIXELS[..., :3], bare=bare), max_pixels=700)


def claiming(**fields: int) -> bytes:
    """Return a bare codestream with a changed header: right, bottom, left, top, tile_width, tile_height, …, n_components."""
    data = bytearray(encode(PIXELS[..., :3], bare=True))
    names = ("right", "bottom", "left", "top", "tile_width", "tile_height", "tile_left", "tile_top")
    for name, value in fields.items():
        if name == "n_components":
            struct.pack_into(">H", data, 40, value)
        else:
            struct.pack_into(">I", data, 8 + 4 * names.index(name), value)
    return bytes(data)


def test_sizes_that_would_take_much_memory_are_refused() -> None:
    assert "at most 20,000 tiles, got" in reason(claiming(tile_width=1, tile_height=1, right=60_000, bottom=1_000))
    assert "1 to 4 components, got 65535" in reason(claiming(n_components=65535))
    assert "is invalid" in reason(claiming(tile_width=0))
    assert "is invalid" in reason(claiming(left=32))
    assert "the limit is" in reason(claiming(right=2**31, tile_width=2**31))


def test_the_pixels_of_a_file_of_boxes_have_a_size_of_their_own() -> None:
    data = bytearray(encode(PIXELS[..., :3]))
    at = data.index(b"\xff\x4f\xff\x51")
    struct.pack_into(">2I", data, at + 8, 20_000, 20_000)
    struct.pack_into(">2I", data, at + 24, 20_000, 20_000)
    assert "400,000,000 pixels" in reason(bytes(data))
    for cut in (20, at, at + 30):
        assert "JPEG2000 file" in reason(bytes(data[:cut]))
