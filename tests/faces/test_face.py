"""Tests one face: invalid values, and comparison with other faces."""

from __future__ import annotations

import itertools
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from facespace import Face
from facespace.faces.face import central_face, overlaps
from support.landmarks import LANDMARKS

FACE = Face((10, 20, 50, 70), 0.99, LANDMARKS)


@pytest.mark.parametrize(
    ("box", "score", "landmarks", "message"),
    [
        ((10, 20, 50), 0.9, LANDMARKS, "box of 4 numbers"),
        ((10, 20, 50, 70, 0.9), 0.9, LANDMARKS, "box of 4 numbers"),
        ((10, 20, 50, 70), 0.9, LANDMARKS[:4], "5 landmarks of 2, got 4 and 4"),
        ((10, 20, 50, 70), 0.9, (*LANDMARKS[:4], (1, 2, 3)), "5 landmarks of 2"),
        ((10, 20, math.nan, 70), 0.9, LANDMARKS, "finite"),
        ((10, 20, math.inf, 70), 0.9, LANDMARKS, "finite"),
        ((10, 20, 50, 70), math.nan, LANDMARKS, "finite"),
        ((10, 20, 50, 70), 0.9, (*LANDMARKS[:4], (1, -math.inf)), "finite"),
        ((50, 20, 50, 70), 0.9, LANDMARKS, "x1 < x2 and y1 < y2"),
        ((10, 70, 50, 20), 0.9, LANDMARKS, "x1 < x2 and y1 < y2"),
    ],
)
def test_invalid_faces_are_refused(box, score, landmarks, message):
    with pytest.raises(ValueError, match=message):
        Face(box, score, landmarks)


@pytest.mark.parametrize("points", [LANDMARKS[:4], (), (*LANDMARKS[:4], (math.nan, 1.0)), ((1.0,) * 3,) * 5])
def test_points_for_crops_are_checked_as_landmarks_are(points: tuple) -> None:
    with pytest.raises(ValueError, match="a face"):
        Face((0, 0, 10, 10), 1.0, LANDMARKS, crop_points=points)


def test_a_face_may_reach_beyond_the_border():
    face = Face((-10.5, -3, 50, 70), 0.5, LANDMARKS)
    assert (face.width, face.height) == (60.5, 73)


def test_a_face_does_not_change():
    with pytest.raises(FrozenInstanceError):
        FACE.score = 1.0


def test_a_face_as_json_writes_it():
    face = Face((np.float32(1 / 3), 0, 50.12345, 70), np.float64(0.99999951), LANDMARKS)
    assert face.as_dict() == {
        "box": [0.333, 0.0, 50.123, 70.0],
        "score": 1.0,
        "landmarks": [list(point) for point in LANDMARKS],
    }
    assert {type(value) for value in face.as_dict()["box"]} == {float}


def boxed(*box: float) -> Face:
    return Face(box, 0.9, LANDMARKS)


def test_the_central_face_has_the_largest_area_less_twice_the_squared_distance() -> None:
    """In a photo of 200x100 px, whose centre is (100, 50)."""
    large, middle = boxed(0, 0, 40, 40), boxed(95, 45, 105, 55)  # 1600 − 2·(80² + 30²) and 100 − 0
    assert central_face([large, middle], 200, 100) is middle
    assert central_face([middle, large], 200, 100) is middle
    huge = boxed(0, 0, 150, 100)  # 15000 − 2·25²
    assert central_face([large, middle, huge], 200, 100) is huge


@pytest.mark.parametrize(("extra", "chosen"), [(-1, 0), (1, 1)])
def test_the_distance_counts_twice(extra: int, chosen: int) -> None:
    """A face of 20x20 px in the centre, and a square one whose centre lies 30 px to the right: 400 against a² − 1800."""
    half = (math.sqrt(400 + 2 * 30**2) + extra) / 2
    faces = [boxed(90, 40, 110, 60), boxed(130 - half, 50 - half, 130 + half, 50 + half)]
    assert central_face(faces, 200, 100) is faces[chosen]


def test_width_and_height_are_not_swapped() -> None:
    left_of_centre, above_centre = boxed(80, 40, 90, 50), boxed(140, 20, 150, 30)
    assert central_face([left_of_centre, above_centre], 300, 50) is above_centre
    assert central_face([left_of_centre, above_centre], 170, 90) is left_of_centre


def test_the_first_of_equal_faces_is_central() -> None:
    left, right = boxed(10, 40, 30, 60), boxed(70, 40, 90, 60)
    assert central_face([left, right], 100, 100) is left
    assert central_face([right, left], 100, 100) is right
    with pytest.raises(ValueError):
        central_face([], 100, 100)


def test_overlaps_are_those_of_counted_pixels() -> None:
    """Boxes have whole pixels, so intersection and union can be counted pixel by pixel."""
    random = np.random.default_rng(0)
    corners = random.integers(0, 8, (2, 6, 2))
    boxes = [np.concatenate([low, low + random.integers(1, 8, (6, 2))], axis=1) for low in corners]

    def pixels(box: np.ndarray) -> set[tuple[int, int]]:
        return set(itertools.product(range(box[0], box[2]), range(box[1], box[3])))

    expected = [[len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b)) for b in boxes[1]] for a in boxes[0]]
    found = overlaps(boxes[0], boxes[1])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert (found == 0).any()
    assert (found > 0.2).any()


def test_overlaps_of_a_box_with_itself_and_of_no_boxes() -> None:
    box = np.array([[0.5, -1.0, 2.5, 7.0]], np.float32)
    assert overlaps(box, box).tolist() == [[1.0]]
    assert overlaps(box, np.empty((0, 4))).shape == (1, 0)
    assert overlaps(np.empty((0, 4)), box).shape == (0, 1)
