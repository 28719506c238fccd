"""Tests faces cut out for viewing: the border, the largest side, and boxes beyond the image."""

from __future__ import annotations

import numpy as np
import pytest

from facespace.faces.portraits import portrait


def image() -> np.ndarray:
    """Return an image in which every pixel contains its column and row."""
    rows, columns = np.mgrid[:200, :250]
    return np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)


def test_a_border_is_around_the_box() -> None:
    picture = np.asarray(portrait(image(), (100.0, 80.0, 130.0, 120.0), 96))
    assert picture.shape == (73, 63, 3)
    assert picture[0, 0].tolist() == [84, 64, 0]
    assert picture[-1, -1].tolist() == [146, 136, 0]


@pytest.mark.parametrize("box", [(-40.0, -40.0, 20.0, 30.0), (240.0, 190.0, 400.0, 300.0), (0.0, 0.0, 250.0, 200.0)])
def test_no_side_is_longer_and_nothing_beyond_the_image_is_shown(box: tuple[float, float, float, float]) -> None:
    picture = portrait(image(), box, 40)
    assert 1 < max(picture.size) <= 40


@pytest.mark.parametrize("box", [(-50.0, -50.0, -30.0, -30.0), (400.0, 400.0, 410.0, 410.0)])
def test_of_a_box_beyond_the_image_one_pixel_remains(box: tuple[float, float, float, float]) -> None:
    assert portrait(image(), box, 40).size == (1, 1)
