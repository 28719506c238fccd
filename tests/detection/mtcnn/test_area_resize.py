"""`area_resize` against the fraction of every input pixel in every output pixel, computed with integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from facespace.detection.mtcnn.area_resize import area_crop, area_resize

sides = st.integers(1, 18)


def coverage(n: int, m: int) -> np.ndarray:
    """Return (m, n): how much of output pixel i covers input pixel k, in integers.

    In units of 1/m of an input pixel, output pixel i is [i·n, (i+1)·n) and input pixel k is [k·m, (k+1)·m).
    """
    i, k = np.arange(m)[:, None], np.arange(n)[None, :]
    covered = np.minimum((i + 1) * n, (k + 1) * m) - np.maximum(i * n, k * m)
    return np.maximum(covered, 0) / n


def grid_bilinear(n: int, m: int) -> np.ndarray:
    """Return (m, n) of OpenCV's INTER_AREA if a side of the image grows: two neighbours, weighted by the pixel grid."""
    weights = np.zeros((m, n))
    for i in range(m):
        first = i * n // m
        beyond = max((i + 1) * n - (first + 1) * m, 0) / n  # the part of output pixel i after the end of input `first`
        if first + 1 == n:
            beyond = 0.0
        weights[i, first] += 1 - beyond
        if beyond:
            weights[i, first + 1] += beyond
    return weights


def oracle(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image (C,H,W) to (C,height,width) float64."""
    _, n_rows, n_columns = image.shape
    weights = coverage if height <= n_rows and width <= n_columns else grid_bilinear
    rows, columns = weights(n_rows, height), weights(n_columns, width)
    return np.stack([rows @ plane.astype(np.float64) @ columns.T for plane in image])


def random_image(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * 10007 + width).integers(0, 256, (channels, height, width)).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(n_rows=sides, n_columns=sides, height=sides, width=sides, as_float=st.booleans())
def test_every_pixel_is_the_mean_of_what_it_covers(n_rows, n_columns, height, width, as_float):
    image = random_image(n_rows, n_columns)
    planes = image.astype(np.float32) if as_float else image
    out = area_resize(planes, np.empty((3, height, width), np.float32))
    np.testing.assert_allclose(out, oracle(image, height, width), atol=2e-3)


@pytest.mark.parametrize(
    ("n_rows", "n_columns", "height", "width"),
    [
        (250, 250, 150, 150),
        (250, 250, 13, 13),
        (251, 97, 250, 96),
        (301, 73, 24, 24),
        (72, 500, 71, 24),
        (600, 11, 48, 11),
        (1, 400, 1, 399),
        (400, 400, 400, 400),
        (30, 90, 48, 48),
        (90, 30, 48, 48),
        (23, 23, 24, 24),
        (5, 7, 100, 100),
        (200, 10, 199, 48),
        (100, 2, 48, 48),
    ],
)
def test_sides_longer_than_a_block(n_rows, n_columns, height, width):
    image = random_image(n_rows, n_columns)
    out = area_resize(image, np.empty((3, height, width), np.float32))
    np.testing.assert_allclose(out, oracle(image, height, width), atol=2e-3)


@settings(max_examples=150, deadline=None)
@given(n=st.integers(1, 90), m=st.integers(1, 90))
@example(n=26, m=46)  # 23 · 26 / 46 is 13, in floating point a little less
def test_weights_of_one_side(n, m):
    """A ramp along one side makes a wrong weight of any input pixel visible."""
    ramp = np.arange(n, dtype=np.uint8)[None, None, :] * 2
    out = area_resize(ramp, np.empty((1, 1, m), np.float32))
    np.testing.assert_allclose(out, oracle(ramp, 1, m), atol=2e-3)
    column = np.ascontiguousarray(ramp.reshape(1, n, 1))
    out = area_resize(column, np.empty((1, m, 1), np.float32))
    np.testing.assert_allclose(out[0, :, 0], oracle(ramp, 1, m)[0, 0], atol=2e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("box", [(0, 0, 700, 640), (-90, 17, 800, 777), (300, -500, 701, 900)])
@pytest.mark.parametrize("size", [(420, 384), (24, 24), (297, 801)])
def test_boxes_resized_stripe_by_stripe(dtype, box, size):
    """The image has more numbers than are copied, or kept between the products, at a time."""
    image = random_image(700, 640).astype(dtype)
    top, left, height, width = box
    black = np.zeros((3, 2000, 2000), dtype)
    black[:, 600:1300, 600:1240] = image
    out = area_crop(image, box, np.empty((3, *size), np.float32))
    part = black[:, 600 + top : 600 + top + height, 600 + left : 600 + left + width]
    np.testing.assert_allclose(out, oracle(part, *size), atol=2e-3)


@settings(max_examples=60, deadline=None)
@given(n_rows=sides, n_columns=sides, height=sides, width=sides)
def test_uint8_output_is_rounded_to_the_nearest(n_rows, n_columns, height, width):
    image = random_image(n_rows, n_columns)
    out = area_resize(image, np.empty((3, height, width), np.uint8))
    assert out.dtype == np.uint8
    assert np.abs(out - oracle(image, height, width)).max() <= 0.5 + 1e-3


def test_halves_round_to_even():
    image = np.array([[[0, 1, 2, 3, 254, 255]]], np.uint8)
    assert area_resize(image, np.empty((1, 1, 3), np.uint8)).tolist() == [[[0, 2, 254]]]


@settings(max_examples=60, deadline=None)
@given(
    n_rows=st.integers(1, 200),
    n_columns=st.integers(1, 200),
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    value=st.integers(0, 255),
)
def test_a_constant_image_stays_constant(n_rows, n_columns, height, width, value):
    image = np.full((3, n_rows, n_columns), value, np.uint8)
    assert (area_resize(image, np.empty((3, height, width), np.uint8)) == value).all()
    assert np.abs(area_resize(image, np.empty((3, height, width), np.float32)) - value).max() <= 1e-3


def test_the_mean_is_kept_where_sides_shrink_by_whole_factors():
    image = random_image(120, 90)
    out = area_resize(image, np.empty((3, 40, 18), np.float32))
    np.testing.assert_allclose(out, image.reshape(3, 40, 3, 18, 5).mean(axis=(2, 4)), atol=2e-3)


def test_the_same_size_is_the_same_image():
    image = random_image(101, 57)
    assert (area_resize(image, np.empty_like(image)) == image).all()


def test_channels_do_not_mix():
    image = np.zeros((3, 50, 50), np.uint8)
    image[1] = 200
    out = area_resize(image, np.empty((3, 21, 21), np.uint8))
    assert (out[1] == 200).all()
    assert not out[[0, 2]].any()


def test_it_returns_the_array_it_filled_and_leaves_the_input_alone():
    image = random_image(40, 40)
    before, out = image.copy(), np.empty((3, 17, 12), np.float32)
    assert area_resize(image, out) is out
    assert (image == before).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_part_of_a_larger_image(dtype):
    """Crops are views: strides that are not those of a contiguous array."""
    image = random_image(90, 90).astype(dtype)
    part = image[:, 13:77, 20:61]
    out = area_resize(part, np.empty((3, 24, 24), np.float32))
    np.testing.assert_allclose(out, oracle(np.ascontiguousarray(part), 24, 24), atol=2e-3)


def test_into_a_part_of_a_larger_array():
    image, batch = random_image(60, 60), np.zeros((3, 3, 24, 24), np.float32)
    area_resize(image, batch[1])
    np.testing.assert_allclose(batch[1], oracle(image, 24, 24), atol=2e-3)
    assert not batch[[0, 2]].any()


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    corner=st.tuples(st.integers(-140, 140), st.integers(-140, 140)),
    box=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    side=st.sampled_from([24, 48]),
    dtype=st.sampled_from([np.uint8, np.float32]),
)
def test_a_box_is_cut_out_of_black_surroundings(size, corner, box, side, dtype):
    image = random_image(*size).astype(dtype)
    black = np.zeros((3, *box), dtype)
    for y in range(box[0]):
        for x in range(max(-corner[1], 0), min(box[1], size[1] - corner[1])):
            if 0 <= corner[0] + y < size[0]:
                black[:, y, x] = image[:, corner[0] + y, corner[1] + x]
    out = area_crop(image, (*corner, *box), np.full((3, side, side), np.nan, np.float32))
    np.testing.assert_allclose(out, oracle(black, side, side), atol=2e-3)
