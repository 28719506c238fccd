"""Tests that photos that are not upright are turned, and upright ones stay unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import facespace
from facespace.detection.factory import create_detector
from facespace.faces.alignment import align
from facespace.faces.face import Face
from facespace.pipeline.photos import process
from facespace.pipeline.rotations import TURNS, find_upright, surest_turn, turn
from facespace.pipeline.second_look import find_with_second_look

POINTS = ((20.0, 40.0), (40.0, 40.0), (30.0, 50.0), (22.0, 60.0), (38.0, 60.0))


def faces(*scores: float) -> list[Face]:
    return [Face((0, 0, 60, 60), score, POINTS) for score in scores]


def turned_by(pixels: np.ndarray, degrees: int) -> np.ndarray:
    """Return the photo as stored by a turned camera: turning it clockwise by `degrees` makes it upright."""
    return np.ascontiguousarray(np.rot90(pixels, degrees // 90))


@pytest.mark.parametrize("name", ["yunet", "mtcnn"])
@pytest.mark.parametrize("degrees", TURNS)
def test_a_turned_photo_is_turned_back(name, degrees, hopper, embedder):
    detector = create_detector(name)
    (photo,) = process(
        [turned_by(hopper, degrees)], detector, embedder, keep_pixels=True, keep_crops=True, try_rotations=True
    )
    assert photo.turned == degrees
    np.testing.assert_array_equal(photo.pixels, hopper)
    (expected,) = detector.detect(hopper)
    (face,) = photo.faces
    assert (face.box, face.landmarks) == (expected.box, expected.landmarks), "coordinates of the upright photo"
    np.testing.assert_array_equal(photo.crops[0], align(hopper, expected, embedder.spec))


def test_photos_are_not_turned_by_default(hopper, detector):
    pixels = turned_by(hopper, 180)
    (photo,) = process([pixels], detector, keep_pixels=True)
    assert photo.turned == 0
    np.testing.assert_array_equal(photo.pixels, pixels)


def test_each_photo_has_its_own_turn(hopper, collins_file, cat_file):
    photos = [turned_by(hopper, 90), facespace.read(cat_file), turned_by(facespace.read(collins_file), 180), hopper]
    found = list(process(photos, create_detector("yunet"), try_rotations=True))
    assert [photo.turned for photo in found] == [90, 0, 180, 0]
    assert [len(photo.faces) for photo in found] == [1, 0, 1, 1]
    assert all(photo.pixels is None for photo in found)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["yunet", "mtcnn"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_the_photos_of_the_report(name, degrees, shared):
    file = shared / "data" / "faults" / f"rot{degrees}.jpg"
    (photo,) = process([str(file)], create_detector(name), keep_pixels=True, try_rotations=True)
    assert photo.turned == degrees and len(photo.faces) == 1
    np.testing.assert_array_equal(photo.pixels, np.rot90(facespace.read(file), -degrees // 90))
    (left, right, *_, mouth) = photo.faces[0].landmarks
    assert left[0] < right[0] and mouth[1] > left[1], "the face is upright now"


@pytest.mark.shared
def test_upright_photos_stay_upright(shared):
    files = sorted((shared / "data" / "album" / "known").glob("*/*"))[::30]
    files += [shared / "data" / "photos" / f"{name}.jpg" for name in ("2007_007763", "2009_004587", "bald_guys")]
    found = list(process(map(str, files), create_detector("yunet"), try_rotations=True))
    assert len(found) > 15 and [photo.turned for photo in found] == [0] * len(files)


def test_the_most_certain_faces_decide_and_not_their_number():
    assert surest_turn([faces(0.84), faces(0.95), faces(0.89, 0.77, 0.7), faces(0.89)]) == 1
    assert surest_turn([faces(*[0.9] * 10), faces(0.94), [], []]) == 0, "a group counts all its sure faces"
    assert surest_turn([[], [], faces(0.9), []]) == 2


def test_upright_is_preferred():
    assert surest_turn([[], [], [], []]) == 0
    assert surest_turn([faces(0.9), faces(0.9), faces(0.9), faces(0.9)]) == 0
    assert surest_turn([faces(0.95), faces(0.952), [], []]) == 0, "not clearly better"
    assert surest_turn([faces(0.61), faces(0.68), [], []]) == 0, "two doubtful faces do not turn a photo"
    assert surest_turn([[], faces(0.65), [], []]) == 0


def test_turning_is_clockwise():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for degrees in TURNS:
        np.testing.assert_array_equal(turn(image, degrees), np.rot90(image, -degrees // 90))
    assert turn(image, 0) is image
    assert turn(image, 90).tolist() == np.asarray(Image.fromarray(image).transpose(Image.Transpose.ROTATE_270)).tolist()


def test_a_turned_face_that_fills_its_photo_is_found(hopper, detector):
    (whole,) = detector.detect(hopper)
    x1, y1, x2, y2 = whole.box
    dx, dy = 0.15 * whole.width, 0.15 * whole.height
    photo = hopper[round(y1 + dy) : round(y2 - dy), round(x1 + dx) : round(x2 - dx)]
    (found,) = find_upright([turned_by(photo, 270)], detector)
    assert found.degrees == 270
    assert found.faces == find_with_second_look([photo], detector)[0]
    np.testing.assert_array_equal(found.pixels, photo)


def test_a_photo_with_a_face_in_any_turn_is_not_looked_at_again(hopper):
    class Counting:
        calls = 0

        def detect_many(self, images):
            Counting.calls += 1
            return [faces(0.9) if image.shape[0] > image.shape[1] else [] for image in images]

    (found,) = find_upright([np.zeros((50, 80, 3), np.uint8)], Counting())
    assert (found.degrees, Counting.calls) == (90, 4)
