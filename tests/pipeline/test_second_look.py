"""Tests that faces beyond a photo's edges are found at a second look, without new false detections."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facespace
from facespace.detection.factory import create_detector
from facespace.faces.face import Face
from facespace.io.file_kinds import IMAGE_ENDINGS
from facespace.pipeline.photos import process
from facespace.pipeline.second_look import _moved, find_with_second_look, look_again

POINTS = ((50.0, 60.0), (90.0, 60.0), (70.0, 80.0), (55.0, 100.0), (85.0, 100.0))


class Detector:
    """Finds `faces` in images with a grey border, nothing in others; records its inputs."""

    def __init__(self, *faces: Face, min_size: float = 20.0) -> None:
        self.faces, self.min_size = list(faces), min_size
        self.calls: list[list[np.ndarray]] = []

    def detect_many(self, images):
        self.calls.append(list(images))
        return [self.faces if (image[0] == 127).all() and (image[:, -1] == 127).all() else [] for image in images]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def face_of(x1: float, y1: float, x2: float, y2: float, score: float = 0.9) -> Face:
    return Face((x1, y1, x2, y2), score, POINTS)


def inside(pixels: np.ndarray, face: Face, share: float) -> np.ndarray:
    """Return the part of a photo that is inset from the face's box by a share of it, on every side."""
    x1, y1, x2, y2 = face.box
    dx, dy = share * face.width, share * face.height
    return pixels[round(y1 + dy) : round(y2 - dy), round(x1 + dx) : round(x2 - dx)]


@pytest.fixture(scope="module")
def sface() -> facespace.Embedder:
    """Its crops are aligned by landmarks, so they do not depend on where a box was cut."""
    return facespace.Embedder.load("sface", precision="float32")


@pytest.mark.parametrize("name", ["yunet", "mtcnn"])
@pytest.mark.parametrize("share", [0.1, 0.15, 0.2])
def test_a_face_that_fills_its_photo_is_found(name, share, hopper, sface):
    detector = create_detector(name)
    (whole,) = detector.detect(hopper)
    photo = inside(hopper, whole, share)
    large = np.asarray(Image.fromarray(photo).resize((6 * photo.shape[1], 6 * photo.shape[0])))
    shift = [round(whole.box[0] + share * whole.width), round(whole.box[1] + share * whole.height)]
    eyes = np.linalg.norm(np.subtract(*whole.landmarks[:2]))
    for pixels, scale in ((photo, 1), (large, 6)):
        assert len(find_with_second_look([pixels], detector)[0]) == 1
        ((face,),) = look_again([pixels], detector)
        points = np.array(face.landmarks) / scale + shift
        assert np.linalg.norm(points - whole.landmarks, axis=1).max() < 0.4 * eyes, "where they are in the photo"
        box = np.array(face.box) / scale + [*shift, *shift]
        assert np.abs(box - whole.box).max() < 0.25 * whole.width, "the box may reach beyond the border"
    ((alike,),) = (one.embeddings for one in process([photo], detector, sface))
    ((known,),) = (one.embeddings for one in process([hopper], detector, sface))
    assert float(np.asarray(alike) @ np.asarray(known)) > 0.4, "aligned though its box reaches beyond the border"


def test_mtcnn_does_not_find_it_at_the_first_look(hopper, detector):
    """Otherwise the second look would have no effect."""
    (whole,) = detector.detect(hopper)
    photo = inside(hopper, whole, 0.15)
    assert detector.detect(photo) == [] and len(find_with_second_look([photo], detector)[0]) == 1


@pytest.mark.parametrize("name", ["yunet", "mtcnn"])
def test_no_false_face_is_found(name, cat_file):
    skimage = Path(cat_file).parent
    others = [
        facespace.read(cat_file),
        *(facespace.read(skimage / f) for f in ("coffee.png", "rocket.jpg", "brick.png")),
    ]
    blank = [np.full((side, 300, 3), grey, np.uint8) for side in (40, 300) for grey in (0, 127, 255)]
    images = [*others, *(image[40:200, 100:260] for image in others), *blank, noise(40, 60), noise(300, 400)]
    assert find_with_second_look(images, create_detector(name)) == [[] for _ in images]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["yunet", "mtcnn"])
def test_photos_with_faces_and_dogs_stay_as_they_are(name, shared):
    files = sorted(file for file in (shared / "data" / "photos").iterdir() if file.suffix in IMAGE_ENDINGS)
    images, detector = [facespace.read(file) for file in files], create_detector(name)
    assert any(file.name == "dogs.jpg" for file in files)
    assert find_with_second_look(images, detector) == detector.detect_many(images)


def test_coordinates_are_those_of_the_photo():
    photo = noise(400, 800)  # searched at 160 x 320 px with a border of 80
    detector = Detector(face_of(60, 70, 260, 250))
    ((found,),) = look_again([photo], detector)
    assert detector.calls[0][0].shape == (320, 480, 3)
    np.testing.assert_allclose(found.box, [-50, -25, 450, 425])
    np.testing.assert_allclose(found.landmarks, (np.array(POINTS) - 80) * 2.5)
    assert found.score == 0.9


def test_the_photo_stands_in_the_middle_of_the_border():
    photo = noise(60, 100)
    detector = Detector()
    look_again([photo], detector)
    ((bordered,),) = detector.calls
    np.testing.assert_array_equal(bordered[30:90, 30:130], photo)
    assert bordered.shape == (120, 160, 3) and (bordered[:30] == 127).all() and (bordered[:, 130:] == 127).all()


@pytest.mark.parametrize(
    ("face", "counts"),
    [
        (face_of(80, 80, 220, 220), True),
        (face_of(80, 80, 220, 220, score=0.69), False),
        (face_of(80, 80, 190, 190), False),  # 110 of 160 px: it does not fill the photo
        (face_of(80, 80, 202, 120), True),
    ],
)
def test_only_certain_and_large_faces_count(face, counts):
    assert len(look_again([noise(160, 300)], Detector(face))[0]) == counts


def test_one_more_search_for_the_photos_without_a_face():
    class First(Detector):
        def detect_many(self, images):
            found = super().detect_many(images)
            return [
                [face_of(0, 0, 5, 5)] if image[0, 0, 0] == 9 else faces
                for image, faces in zip(images, found, strict=True)
            ]

    photos = [noise(50, 50) for _ in range(5)]
    for k, photo in enumerate(photos):
        photo[0, 0] = 9 if k in (1, 4) else 8
    detector = First(face_of(20, 20, 80, 80))
    found = find_with_second_look(photos, detector)
    assert [len(call) for call in detector.calls] == [5, 3]
    assert [faces[0].box for faces in found] == [
        (0, 0, 5, 5) if k in (1, 4) else (-5, -5, 55, 55) for k in range(5)
    ]  # fmt: skip
    detector.calls.clear()
    find_with_second_look([photos[1]], detector)
    assert len(detector.calls) == 1, "nothing was left to look for"


def test_a_detector_of_large_faces_gets_a_larger_photo():
    detector = Detector(min_size=100)
    look_again([noise(1000, 1500)], detector)
    assert detector.calls[0][0].shape == (800, 1000, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3, 5)])
@pytest.mark.parametrize("name", ["yunet", "mtcnn"])
def test_photos_of_any_size(size, name):
    assert find_with_second_look([noise(*size)], create_detector(name)) == [[]]


def test_process_looks_again(hopper, detector):
    (whole,) = detector.detect(hopper)
    photo = inside(hopper, whole, 0.15)
    (found, none) = process([photo, np.zeros((90, 90, 3), np.uint8)], detector)
    assert len(found.faces) == 1 and none.faces == []
    assert (
        found.faces[0].quality is not None
        and dataclasses.replace(found.faces[0], quality=None) == (find_with_second_look([photo], detector)[0][0])
    )


def test_a_face_is_moved_with_all_its_points() -> None:
    points = tuple((float(k), k + 0.5) for k in range(5))
    face = Face((10, 20, 30, 60), 0.9, points, crop_points=tuple((x + 1, y) for x, y in points))
    moved = _moved(face, 10, (0.5, 2.0))
    assert moved.box == (0, 5, 40, 25)
    assert moved.landmarks == tuple(((x - 10) / 0.5, (y - 10) / 2) for x, y in points)
    assert moved.crop_points == tuple(((x - 9) / 0.5, (y - 10) / 2) for x, y in points)
    assert _moved(dataclasses.replace(face, crop_points=None), 10, (0.5, 2.0)).crop_points is None


def test_a_photo_read_smaller_is_looked_at_again_at_the_size_of_the_full_one(hopper):
    detector = create_detector("yunet", min_size=100)
    (whole,) = detector.detect(hopper)
    photo = Image.fromarray(inside(hopper, whole, 0.15))
    large, reduced = (np.asarray(photo.resize((80 * n, 96 * n), Image.Resampling.BOX)) for n in (4, 1))
    ((full,),) = look_again([large], detector)
    ((found,),) = look_again([reduced], detector, [4])
    np.testing.assert_allclose(4 * np.array(found.landmarks), full.landmarks, atol=8)
    assert look_again([noise(50, 50), noise(50, 50)], detector, [1, 8]) == [[], []]
