"""Tests photos read at reduced size: the same faces at the same places, cropped from enough pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facespace.faces.alignment import ARCFACE_TEMPLATE, align
from facespace.faces.face import Face
from facespace.faces.input_spec import INPUT_SPECS, InputSpec
from facespace.io import image
from facespace.pipeline.photos import process
from facespace.pipeline.reduced_photos import ReducedPhoto, full_size, read_reduced, source_pixels

SPEC = INPUT_SPECS["arcface-112"]


def face(size: float, x: float = 0, y: float = 0) -> Face:
    """A face with the template's points, `size` times as large as a crop."""
    points = tuple((x + size * px, y + size * py) for px, py in ARCFACE_TEMPLATE)
    return Face((x, y, x + size * 112, y + size * 112), 0.9, points)


class Detector:
    """Finds one face at a fixed place of the full photo in any image, and records the images it was given."""

    def __init__(self, found: Face, scale: float = 0.5) -> None:
        self.found, self.scale = found, scale
        self.shown: list[tuple[tuple[int, ...], int]] = []

    runtime = "none"

    def detect(self, image: np.ndarray) -> list[Face]:
        return self.detect_many([image])[0]

    def detect_many(self, images: Iterable[np.ndarray]) -> list[list[Face]]:
        images = list(images)
        return self.detect_reduced(images, [1] * len(images))

    def least_scale(self, height: int, width: int) -> float:
        return self.scale

    def detect_reduced(self, photos: Sequence[np.ndarray], reductions: Sequence[int]) -> list[list[Face]]:
        self.shown += [(photo.shape, n) for photo, n in zip(photos, reductions, strict=True)]
        return [[full_size_back(self.found, n)] for n in reductions]


def full_size_back(found: Face, n: int) -> Face:
    x1, y1, x2, y2 = (value / n for value in found.box)
    return dataclasses.replace(found, box=(x1, y1, x2, y2), landmarks=tuple((x / n, y / n) for x, y in found.landmarks))


@pytest.fixture(scope="module")
def smooth() -> np.ndarray:
    """Return a picture without edges, which looks the same at every size."""
    small = np.random.default_rng(3).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((800, 600), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory: pytest.TempPathFactory, smooth: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("reduced") / "photo.jpg"
    Image.fromarray(smooth).save(path, quality=95, subsampling=0)
    return path


@pytest.mark.parametrize(("scale", "n"), [(1.0, 1), (0.51, 1), (0.5, 2), (0.3, 2), (0.25, 4), (0.01, 8)])
def test_a_jpeg_is_read_as_small_as_the_detector_takes_it(jpeg: Path, scale: float, n: int) -> None:
    photo = read_reduced(jpeg, Detector(face(1), scale))
    assert photo.reduction == n and photo.pixels.shape == (600 // n, 800 // n, 3)


def test_other_sources_and_detectors_have_the_full_photo(jpeg: Path, smooth: np.ndarray) -> None:
    class Plain:
        def detect_many(self, images: object) -> None: ...

    assert read_reduced(jpeg, Plain()).reduction == 1  # type: ignore[arg-type]
    assert read_reduced(smooth, Detector(face(1))).pixels is smooth
    png = jpeg.with_suffix(".png")
    Image.fromarray(smooth).save(png)
    assert read_reduced(png, Detector(face(1))).pixels.shape == smooth.shape


@pytest.mark.parametrize(("size", "n"), [(4.0, 2), (5.0, 4), (4.0, 1)])
def test_a_crop_of_enough_pixels_is_that_of_the_full_photo(smooth: np.ndarray, jpeg: Path, size: float, n: int) -> None:
    def never() -> np.ndarray:
        raise AssertionError("not needed")

    reduced, _ = image.read_reduced(jpeg, lambda *_: 1 / n)
    one = face(size, 60, 20)
    found = ReducedPhoto(reduced, n, never).crop(one, SPEC)
    difference = np.abs(found.astype(int) - align(smooth, one, SPEC))
    assert difference.max() <= 6 and difference.mean() < 1


def test_a_small_face_is_cut_out_of_the_full_photo_which_is_read_once(smooth: np.ndarray) -> None:
    read = []

    def full() -> np.ndarray:
        read.append(1)
        return smooth

    photo = ReducedPhoto(smooth[::4, ::4], 4, full)
    for x in (10, 300):
        np.testing.assert_array_equal(photo.crop(face(2, x, 50), SPEC), align(smooth, face(2, x, 50), SPEC))
    assert len(read) == 1
    photo.forget()
    photo.crop(face(2), SPEC)
    assert len(read) == 2


def test_a_crop_does_not_depend_on_what_was_cut_out_before(smooth: np.ndarray, jpeg: Path) -> None:
    photo = read_reduced(jpeg, Detector(face(1)))
    alone = photo.crop(face(4, 60, 20), SPEC)
    photo.crop(face(1, 50, 50), SPEC)
    np.testing.assert_array_equal(photo.crop(face(4, 60, 20), SPEC), alone)


@pytest.mark.parametrize("margin", [0, 32, 101])
@pytest.mark.parametrize("n", [2, 4])
def test_the_margin_around_a_box_is_that_of_the_full_photo(smooth: np.ndarray, n: int, margin: int) -> None:
    reduced = np.asarray(Image.fromarray(smooth).reduce(n))
    spec = InputSpec(80, "box", crop_margin=margin)
    found = ReducedPhoto(reduced, n).crop(face(3.5, 100, 100), spec)
    difference = np.abs(found.astype(int) - align(smooth, face(3.5, 100, 100), spec))
    assert difference.max() < 20 and difference.mean() < 5  # of 255; the border is cut at whole pixels


def test_a_file_that_was_removed_or_replaced(jpeg: Path, smooth: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg.read_bytes())
    expected = align(smooth, face(1, 50, 50), SPEC).astype(int)
    for change in (lambda: Image.new("RGB", (50, 50)).save(path), path.unlink):
        photo = read_reduced(jpeg, Detector(face(1)))
        photo = ReducedPhoto(photo.pixels, photo.reduction, lambda: image.read(path))
        change()
        assert np.abs(photo.crop(face(1, 50, 50), SPEC) - expected).mean() < 3


def test_faces_have_coordinates_of_the_full_photo() -> None:
    small = dataclasses.replace(face(1, 3, 4), crop_points=face(1, 5, 6).landmarks)
    large = full_size(small, 4)
    assert large.box == (12, 16, 460, 464) and large.score == small.score
    assert large.landmarks == tuple((4 * x, 4 * y) for x, y in small.landmarks)
    assert large.crop_points is not None and large.crop_points[0] == (
        4 * small.crop_points[0][0],
        4 * small.crop_points[0][1],
    )
    assert full_size(small, 1) is small


def test_source_pixels_per_pixel_of_the_crop() -> None:
    assert source_pixels(face(2.5), SPEC) == pytest.approx(2.5)
    assert source_pixels(face(1), InputSpec(56, "box")) == 2


@pytest.mark.parametrize("size", [4.0, 1.5])
def test_process_gives_what_it_gives_for_the_full_photo(jpeg: Path, size: float) -> None:
    class Embedder:
        spec, dimension = SPEC, 3

        def represent(self, crops: np.ndarray) -> np.ndarray:
            return crops.mean(axis=(1, 2)).astype(np.float32)

    detector, full = Detector(face(size, 60, 20)), Detector(face(size, 60, 20), 1.0)
    (one,), (other,) = (
        list(process([jpeg], which, Embedder(), keep_crops=True))  # type: ignore[arg-type]
        for which in (detector, full)
    )
    assert detector.shown == [((300, 400, 3), 2)] and full.shown == [((600, 800, 3), 1)]
    assert one.faces[0].box == other.faces[0].box and one.faces[0].landmarks == other.faces[0].landmarks
    assert one.faces[0].quality == pytest.approx(other.faces[0].quality, abs=0.02)
    assert np.abs(one.crops.astype(int) - other.crops).max() <= (6 if size > 2 else 0)
    np.testing.assert_allclose(one.embeddings, other.embeddings, atol=0.5)


def test_requested_pixels_are_in_full_size(jpeg: Path) -> None:
    detector = Detector(face(4, 60, 20))
    (photo,) = process([jpeg], detector, keep_pixels=True)
    assert photo.pixels is not None and photo.pixels.shape == (600, 800, 3) and detector.shown == [((600, 800, 3), 1)]
    (photo,) = process([jpeg], detector, try_rotations=True)
    assert all(n == 1 for _, n in detector.shown)
