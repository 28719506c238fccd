"""PNG files that other programs read without loss."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from facespace.io.png import encode_png


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        image.verify()  # checksums of all chunks
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


@settings(max_examples=200, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))))
def test_pillow_reads_what_was_written(pixels):
    np.testing.assert_array_equal(decoded(encode_png(pixels)), pixels)


@pytest.mark.parametrize("value", [0, 127, 255])
def test_one_colour(value):
    pixels = np.full((160, 160, 3), value, np.uint8)
    assert len(encode_png(pixels)) < 3000
    np.testing.assert_array_equal(decoded(encode_png(pixels)), pixels)


def test_views_of_other_arrays(hopper):
    view = hopper[10:300:2, ::-1]
    np.testing.assert_array_equal(decoded(encode_png(view)), view)


def test_hardly_larger_than_pillows(hopper):
    crop = np.ascontiguousarray(hopper[50:210, 150:310])
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, "PNG", compress_type=3)
    assert len(encode_png(crop)) < 1.25 * len(buffer.getvalue())


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))],
    ids=lambda array: str(array.shape),
)
def test_arrays_that_are_not_a_crop(pixels):
    with pytest.raises(ValueError, match="pixels must be"):
        encode_png(pixels)
