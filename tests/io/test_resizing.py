"""Photos shrunk strip by strip: equal to Pillow's result to the bit, in little memory."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from facespace.io import resizing
from facespace.io.resizing import resized


@pytest.mark.parametrize("gap", [1.0, 2.0])
@pytest.mark.parametrize("strip", [1, 700, 2**20])
@pytest.mark.parametrize(
    ("shape", "size", "box"),
    [
        ((97, 131), (10, 12), None),
        ((97, 131), (97, 12), None),
        ((64, 32), (200, 100), None),
        ((97, 131), (10, 12), (0, 0, 131, 96.4)),
        ((97, 131), (10, 12), (3.5, 2.25, 90, 80)),
        ((97, 131), (10, 12), (0, 0, 131, 40)),
        ((300, 5), (3, 1), None),
    ],
)
def test_equals_pillow(monkeypatch, gap, strip, shape, size, box):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR, box=box, reducing_gap=gap)
    monkeypatch.setattr(resizing, "_STRIP", strip)
    assert np.array_equal(resized(pixels, size, box=box, reducing_gap=gap), np.asarray(expected))


def test_no_second_photo_in_memory(monkeypatch):
    """Pillow gets one strip at a time of a photo that becomes much smaller."""
    seen = []
    from_array = Image.fromarray

    def counted(pixels, *args):
        seen.append(pixels.size // 3)
        return from_array(pixels, *args)

    monkeypatch.setattr(Image, "fromarray", counted)
    resized(np.zeros((3000, 4000, 3), np.uint8)[::2], (30, 40), reducing_gap=2.0)
    assert max(seen) <= resizing._STRIP and sum(seen) < 6_200_000
