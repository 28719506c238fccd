"""The contract of all detectors that `create_detector` knows."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facespace
from facespace import Face
from facespace.detection.factory import DETECTORS, create_detector
from facespace.detection.protocol import Detector


@pytest.fixture(scope="module", params=sorted(DETECTORS))
def finder(request: pytest.FixtureRequest) -> Detector:
    return create_detector(request.param)


def rounded(faces: list[Face]) -> list[dict]:
    return [face.as_dict() for face in faces]


def test_it_finds_the_one_face_where_it_is(finder: Detector, hopper: np.ndarray) -> None:
    (face,) = finder.detect(hopper)
    assert isinstance(face, Face)
    assert 0.5 < face.score <= 1
    left, right, nose, mouth_left, mouth_right = face.landmarks
    assert face.box[0] < left[0] < nose[0] < right[0] < face.box[2], "left and right are as seen in the image"
    assert face.box[1] < left[1] < nose[1] < mouth_left[1] < face.box[3]
    assert mouth_left[0] < mouth_right[0]
    assert 200 < (face.box[0] + face.box[2]) / 2 < 320 and 150 < (face.box[1] + face.box[3]) / 2 < 300


def test_it_finds_nothing_in_an_empty_image(finder: Detector) -> None:
    assert finder.detect(np.zeros((64, 48, 3), np.uint8)) == []
    assert finder.detect(np.full((5, 7, 3), 200, np.uint8)) == []
    assert finder.detect_many([]) == []


def test_faces_move_with_the_picture(finder: Detector, hopper: np.ndarray) -> None:
    """Coordinates are pixels from the upper left corner, x first.

    The shift is a multiple of 32, the largest cell of a network that divides the image into a grid.
    """
    (face,) = finder.detect(hopper)
    (moved,) = finder.detect(np.pad(hopper, ((32, 0), (64, 0), (0, 0))))
    np.testing.assert_allclose(np.array(moved.landmarks) - face.landmarks, [[64, 32]] * 5, atol=3)


def test_many_give_the_same_as_one_by_one(finder: Detector, hopper: np.ndarray, collins_file: Path) -> None:
    images = [hopper, np.zeros((40, 40, 3), np.uint8), facespace.read(collins_file), hopper[:, ::-1]]
    found = finder.detect_many(iter(images))
    assert [len(faces) for faces in found] == [1, 0, 1, 1]
    for faces, image in zip(found, images, strict=True):
        for one, other in zip(faces, finder.detect(image), strict=True):
            np.testing.assert_allclose(one.box, other.box, atol=0.01)
            assert one.score == pytest.approx(other.score, abs=1e-4)


def test_it_takes_any_kind_of_image(finder: Detector, hopper: np.ndarray, hopper_file: Path) -> None:
    expected = rounded(finder.detect(hopper))
    before = hopper.copy()
    with Image.open(hopper_file) as opened:
        assert rounded(finder.detect(opened)) == expected
    assert rounded(finder.detect(hopper_file)) == rounded(finder.detect(str(hopper_file))) == expected
    gray = np.asarray(Image.fromarray(hopper).convert("L"))
    assert len(finder.detect(gray)) == 1
    assert rounded(finder.detect(np.asfortranarray(hopper))) == expected
    assert (hopper == before).all()


def test_the_error_for_other_inputs_is_one_line(finder: Detector, tmp_path: Path) -> None:
    for call in (lambda: finder.detect(None), lambda: finder.detect_many([None]), lambda: finder.detect(3)):
        with pytest.raises(TypeError, match="must be a path"):
            call()
    with pytest.raises(facespace.ImageError, match="no such file"):
        finder.detect(tmp_path / "none.jpg")
    for image in (np.zeros((2, 5, 5, 3), np.uint8), np.zeros((5, 5, 3), np.int64), np.zeros(5, np.uint8)):
        with pytest.raises(ValueError, match=r"an image must be \(H, W, 3\) uint8 RGB"):
            finder.detect(image)
    with pytest.raises(TypeError, match="detect_many takes several images; got str"):
        finder.detect_many("party.jpg")
    with pytest.raises(TypeError, match="detect_many takes several images; got ndarray"):
        finder.detect_many(np.zeros((120, 160, 3), np.uint8))
    assert finder.detect_many(np.zeros((2, 40, 40, 3), np.uint8)) == [[], []]


def test_it_can_be_sent_to_other_processes(finder: Detector, hopper: np.ndarray) -> None:
    again = pickle.loads(pickle.dumps(finder))
    assert type(again) is type(finder) and again.runtime == finder.runtime
    assert rounded(again.detect(hopper)) == rounded(finder.detect(hopper))


def test_it_names_its_runtime(finder: Detector) -> None:
    assert isinstance(finder.runtime, str) and finder.runtime
