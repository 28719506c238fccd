"""Limits on a JPEG's markers: hostile files are refused before decoding, ordinary ones are not."""

from __future__ import annotations

import io
import pathlib
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facespace.errors import ImageError
from facespace.io import image, jpeg_limits
from facespace.io.image import read
from facespace.io.jpeg_limits import MAX_EXIF_SEGMENTS, MAX_SCANNED_PIXELS, MAX_SCANS, MAX_SEGMENTS, check_jpeg


def jpeg(width: int = 40, height: int = 24, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **options)
    return stream.getvalue()


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def with_segments(data: bytes, segments: bytes) -> bytes:
    return data[:2] + segments + data[2:]


def with_scans(data: bytes, n: int) -> bytes:
    """Repeat the last scan of a progressive JPEG `n` times."""
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[start:end] * n + data[end:]


def refusal(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        read(data)
    return caught.value.reason


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: Any) -> None:
        raise AssertionError("a decoder saw it")

    image._openers()
    monkeypatch.setitem(image._openers(), "JPEG", (opened, image._openers()["JPEG"][1]))


@pytest.mark.usefixtures("undecoded")
def test_many_scans_are_refused() -> None:
    assert refusal(with_scans(jpeg(progressive=True), MAX_SCANS)) == "more than 100 scans; a photo has about 10"


@pytest.mark.usefixtures("undecoded")
def test_scans_of_a_picture_that_is_not_progressive_count_too() -> None:
    one = jpeg()
    frame, scan = one.index(b"\xff\xc0"), one.index(b"\xff\xda")
    assert one[frame + 9] == one[scan + 4] == 3
    separate = one[: scan + 4] + b"\x01" + one[scan + 5 : -2]  # its first scan has one component of three
    assert "more than 100 scans" in refusal(separate + b"\xff\xda\x00\x08\x01\x02\x00\x00\x3f\x00" * 100 + b"\xff\xd9")


@pytest.mark.usefixtures("undecoded")
def test_scans_of_a_large_picture_are_refused_earlier() -> None:
    data = bytearray(with_scans(jpeg(progressive=True), 10))  # 20 in total
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 15000, 16000)
    n = MAX_SCANNED_PIXELS // (15000 * 16000) + 1
    assert refusal(bytes(data)).startswith(
        f"at least {n} scans of 240,000,000 pixels; scans times pixels must be at most "
    )


def test_ordinary_progressive_photos_pass() -> None:
    data = jpeg(progressive=True)
    assert read(with_scans(data, MAX_SCANS - data.count(b"\xff\xda"))).shape == (24, 40, 3)
    phone = bytearray(data)
    frame = phone.index(b"\xff\xc2")
    phone[frame + 5 : frame + 9] = struct.pack(">HH", 12288, 16384)
    assert check_jpeg(io.BytesIO(phone)) == ""


@pytest.mark.usefixtures("undecoded")
def test_many_segments_are_refused() -> None:
    exif = segment(0xE1, b"Exif\0\0" + b"a" * 100)
    assert refusal(with_segments(jpeg(), exif * (MAX_EXIF_SEGMENTS + 1))) == (
        "more than 16 EXIF segments; a photo has 1"
    )
    many = "more than 2,000 segments; a photo has far fewer"
    assert refusal(with_segments(jpeg(), segment(0xFE, b"") * MAX_SEGMENTS)) == many
    assert refusal(with_segments(jpeg(), b"\xff\x01" * MAX_SEGMENTS)) == many
    data = jpeg(progressive=True)
    scan = data.rindex(b"\xff\xda")
    assert refusal(data[:scan] + segment(0xFE, b"between scans") * MAX_SEGMENTS + data[scan:]) == many


def test_colour_profiles_and_extended_xmp_pass() -> None:
    profile = b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes([k, 255]) + b"\xff\xda" * 30_000) for k in range(1, 256))
    xmp = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"\xff\xd9" * 30_000) * 300
    assert read(with_segments(jpeg(), profile + xmp)).shape == (24, 40, 3)


def test_thumbnails_and_what_follows_the_picture_do_not_count() -> None:
    many = with_scans(jpeg(progressive=True), 2 * MAX_SCANS)
    inside = segment(0xE1, b"Exif\0\0" + many[:60_000])
    for data in (with_segments(jpeg(progressive=True), inside), jpeg(progressive=True) + b"\0\x08" * 9 + many):
        assert check_jpeg(io.BytesIO(data)) == ""
        assert read(data).shape == (24, 40, 3)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_the_end_of_a_piece_in_memory_does_not_matter(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    data = with_segments(with_scans(jpeg(progressive=True, restart_marker_blocks=1), 5), segment(0xFE, b"\xff\xda" * 9))
    expected = list(jpeg_limits._segments(io.BytesIO(data)))
    assert [marker for marker, _ in expected].count(0xDA) == 15
    monkeypatch.setattr(jpeg_limits, "_CHUNK", chunk)
    assert list(jpeg_limits._segments(io.BytesIO(data))) == expected
    for end in range(0, len(data), 97):
        assert check_jpeg(io.BytesIO(data[:end])) == ""  # decoders report what is missing


@pytest.mark.parametrize("filling", [b"\xff\x00", b"\xff", b"\xff\xd3", b"\x00"])
def test_scan_data_is_not_read_byte_by_byte(filling: bytes) -> None:
    """One search goes through a piece of scan data, for any content."""
    searches = 0

    class Counted:
        def search(self, *arguments: Any) -> Any:
            nonlocal searches
            searches += 1
            return pattern.search(*arguments)

    pattern = jpeg_limits._MARKER
    data = jpeg(progressive=True)[:-2] + filling * (2_000_000 // len(filling)) + b"\xff\xd9"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jpeg_limits, "_MARKER", Counted())
        assert check_jpeg(io.BytesIO(data)) == ""
    assert searches < 60


def test_only_the_header_of_a_plain_photo_is_read() -> None:
    stream = io.BytesIO(jpeg() + b"\0" * 3_000_000)
    assert check_jpeg(stream) == ""
    assert stream.tell() <= jpeg_limits._CHUNK


@pytest.mark.shared
def test_all_photos_of_the_shared_data_pass(shared: pathlib.Path) -> None:
    paths = [path for path in (shared / "data").rglob("*") if path.suffix in {".jpg", ".jpeg"}]
    assert len(paths) > 1000
    for path in paths:
        with path.open("rb") as stream:
            assert check_jpeg(stream) == "", path
