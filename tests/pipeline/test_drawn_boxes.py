"""Tests faces in boxes drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from facespace.faces.alignment import align
from facespace.faces.face import Face
from facespace.faces.input_spec import INPUT_SPECS
from facespace.pipeline.drawn_boxes import assumed_face, checked_box, face_in_box, in_photo, region_around

POINTS = ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60))


@pytest.mark.parametrize(
    "numbers",
    [[], [1, 2, 3], [0, 0, 7, 50], [0, 0, 50, 7], [50, 50, 10, 10], [float("nan"), 0, 50, 50], [0, 0, float("inf"), 50],
     [-90, -90, -10, -10], [100, 100, 200, 200], [94, 0, 300, 50], [1e308, 0, 1e309, 1]],
)  # fmt: skip
def test_invalid_boxes_are_refused(numbers):
    with pytest.raises(ValueError, match="a box must"):
        checked_box(numbers, 100, 100)


def test_a_box_ends_at_the_border():
    assert checked_box([-10, 20, 500, 60.5], 100, 80) == (0, 20, 100, 60.5)


def test_a_face_found_in_the_region_is_where_it_is_in_the_photo():
    """A small face is enlarged, and its corners are mapped back to within a pixel."""
    image = np.zeros((400, 600, 3), np.uint8)
    image[100:130, 200:225] = 255
    region = region_around(image, (200, 100, 225, 130))
    assert max(region.pixels.shape) >= 320 and region.scale > 4
    rows, columns = np.nonzero(region.pixels[..., 0] > 127)
    found = Face(
        (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), 0.9, ((1, 1),) * 5, crop_points=((2, 2),) * 5
    )
    back = in_photo(found, region)
    assert np.allclose(back.box, (200, 100, 225, 130), atol=1)
    assert np.allclose(back.landmarks[0], (region.x + 1 / region.scale, region.y + 1 / region.scale))
    assert back.crop_points is not None and back.quality is None


def test_a_large_region_is_made_smaller():
    region = region_around(np.zeros((3000, 3000, 3), np.uint8), (10, 10, 2900, 2900))
    assert max(region.pixels.shape) == 1024 and (region.x, region.y) == (0, 0)


def test_the_face_in_the_box():
    inside, beside = Face((10, 10, 60, 70), 0.9, POINTS), Face((200, 10, 260, 70), 0.9, POINTS)
    assert face_in_box([beside, inside], (5, 5, 65, 75)) is inside
    assert face_in_box([beside], (5, 5, 65, 75)) is None
    assert face_in_box([], (5, 5, 65, 75)) is None


@pytest.mark.parametrize("spec", ["sface", "facenet-2018"])
def test_an_assumed_face_is_cut_upright_from_the_box(spec):
    """The crop for both kinds of network is centred on the box."""
    image = np.zeros((300, 300, 3), np.uint8)
    image[100:220, 100:200] = 200
    face = assumed_face((100, 100, 200, 220))
    crop = align(image, face, INPUT_SPECS[spec])
    size = len(crop)
    assert crop[size // 3 : 2 * size // 3, size // 3 : 2 * size // 3].min() == 200
    assert (np.diff([point[1] for point in face.landmarks[:3:2]]) > 0).all()
