"""Limits on a PPM's header and comments."""

from __future__ import annotations

import pytest

from facespace.errors import ImageError
from facespace.io.image import read
from facespace.io.ppm_limits import MAX_COMMENTS, MAX_HEADER

PIXELS = b"\1\2\3" * 200 * 200


@pytest.mark.parametrize("filling", [b"#" + b"a" * 70_000, b" " * 70_000, b"#\n" * 35_000])
@pytest.mark.parametrize("place", [b"P6 200 200 %s\n255\n", b"P5 200 %s\n200 255\n"])
def test_long_headers_are_refused(filling: bytes, place: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        read(place % filling + PIXELS)
    assert caught.value.reason == "a header of more than 65,536 bytes"


@pytest.mark.parametrize("header", [b"P6 200 200 255\n", b"P6 200\n#%s\n200\n255\n" % (b"a" * (MAX_HEADER - 100))])
def test_ordinary_ones_pass(header: bytes) -> None:
    assert read(header + PIXELS).shape == (200, 200, 3)


def test_bits_have_no_largest_value() -> None:
    assert read(b"P4 800 800\n" + b"#" * 80_000).shape == (800, 800, 3)


def test_many_comments_among_numbers_are_refused() -> None:
    plain = b"P2 300 200 255\n" + b"7 " * 59_999 + b"#a\n" * (MAX_COMMENTS + 1) + b"7\n"
    with pytest.raises(ImageError) as caught:
        read(plain)
    assert caught.value.reason == "more than 1,000 comments"
    assert read(plain.replace(b"#a\n#a\n", b"#a\n")).shape == (200, 300, 3)
