"""The ending of a file goes by what is in it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, features

from facespace.io.image import IMAGE_ENDINGS, image_ending

KINDS = {
    "JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif", "PPM": ".ppm",
    "AVIF": ".avif",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_pillow_writes(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, kind)
    assert image_ending(stream.getvalue()) == KINDS[kind]
    assert KINDS[kind] in IMAGE_ENDINGS


def test_others() -> None:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "PPM")
    assert image_ending(stream.getvalue()) == ".pgm"
    heic = (Path(__file__).parents[1] / "data" / "orientation6.heic").read_bytes()
    assert image_ending(heic) == ".heic"
    for nothing in (b"", b"<html>", b"\xff\xd8", b"RIFF1234WAVE"):
        assert image_ending(nothing) is None
