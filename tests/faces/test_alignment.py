"""Tests both ways of cropping a face: against golden boxes, published crops and least squares."""

from __future__ import annotations

import collections
import io
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from facespace import Face, InputSpec, align
from facespace.faces.alignment import ARCFACE_TEMPLATE, central_crop, crop_box, similarity_transform
from facespace.faces.input_spec import INPUT_SPECS
from support.landmarks import LANDMARKS

# The box template


@settings(max_examples=200, deadline=None)
@given(
    corner=st.tuples(st.floats(-300, 500), st.floats(-300, 500)),
    side=st.tuples(st.floats(0.01, 400), st.floats(0.01, 400)),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    crop_margin=st.integers(0, 80),
)
def test_crops_are_never_empty_nor_outside(corner, side, width, height, crop_margin):
    box = (*corner, corner[0] + side[0], corner[1] + side[1])
    x1, y1, x2, y2 = crop_box(box, width, height, crop_margin)
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height
    expected = [
        int(max(box[0] - crop_margin / 2, 0)),
        int(max(box[1] - crop_margin / 2, 0)),
        int(min(box[2] + crop_margin / 2, width)),
        int(min(box[3] + crop_margin / 2, height)),
    ]
    if expected[0] < expected[2] and expected[1] < expected[3]:
        assert [x1, y1, x2, y2] == expected


def test_half_of_an_odd_margin_is_half_a_pixel():
    assert crop_box((10.6, 10.4, 20.4, 20.6), 100, 100, 3) == (9, 8, 21, 22)


@pytest.mark.shared
def test_golden_crop_boxes(shared, detector):
    """Every 33rd photo of LFW view 1, with the 2018 choice of face: area − 2 · squared distance from the centre."""
    lines = (shared / "golden" / "lfw_view1_boxes_160_32.txt").read_text(encoding="utf-8").splitlines()[::33]
    assert len(lines) >= 150
    entries = [line.split() for line in lines]
    folder = shared / "data" / "lfw_view1" / "images"
    images = [np.asarray(Image.open(folder / name).convert("RGB")) for name, *_ in entries]
    agree = 0
    for (_, *expected), image, faces in zip(entries, images, detector.detect_many(images), strict=True):
        height, width = image.shape[:2]

        def value(face: Face, width: int = width, height: int = height) -> float:
            x1, y1, x2, y2 = face.box
            way = ((x1 + x2) / 2 - width / 2) ** 2 + ((y1 + y2) / 2 - height / 2) ** 2
            return (x2 - x1) * (y2 - y1) - 2 * way

        found = crop_box(max(faces, key=value).box, width, height, 32) if faces else ()
        difference = np.subtract(found, [int(v) for v in expected]) if len(found) == len(expected) else np.array([99])
        agree += bool(np.abs(difference).max(initial=0) <= 1)
    assert agree / len(lines) >= 0.99


def test_the_central_crop_is_that_of_the_central_face(hopper: np.ndarray) -> None:
    spec, (height, width) = INPUT_SPECS["facenet-2018"], hopper.shape[:2]
    corner = Face((0, 0, 80, 80), 1.0, LANDMARKS)
    middle = Face((width / 2 - 40, height / 2 - 40, width / 2 + 40, height / 2 + 40), 0.9, LANDMARKS)
    crop = central_crop(hopper, [corner, middle], spec)
    assert np.array_equal(crop, align(hopper, middle, spec))
    assert not np.array_equal(crop, align(hopper, corner, spec))


def test_the_box_template_resizes_the_crop(hopper):
    face = Face((200.7, 80.2, 330.9, 260.5), 0.99, LANDMARKS)
    crop = align(hopper, face, InputSpec(160, "box", crop_margin=32))
    part = Image.fromarray(hopper[64:276, 184:346])
    assert (crop == np.asarray(part.resize((160, 160), Image.Resampling.BILINEAR))).all()


@pytest.mark.parametrize("template", ["box", "arcface"])
@pytest.mark.parametrize("box", [(-50, -60, 20, 30), (-90, -90, -20, -20), (500, 500, 600, 600), (0, 0, 1000, 1000)])
def test_a_crop_of_any_face_has_its_size(template, box):
    image = np.full((64, 48, 3), 100, np.uint8)
    crop = align(image, Face(box, 0.9, tuple((box[0] + x, box[1] + y) for x, y in LANDMARKS)), InputSpec(40, template))
    assert crop.shape == (40, 40, 3)
    assert crop.dtype == np.uint8


def test_any_source_of_an_image_gives_the_same_crop(hopper: np.ndarray, hopper_file: Path) -> None:
    face = Face((200.7, 80.2, 330.9, 260.5), 0.99, LANDMARKS)
    for spec in (InputSpec(32, "box"), InputSpec(32, "arcface")):
        crop = align(hopper, face, spec)
        assert crop.std() > 10
        assert (align(hopper_file, face, spec) == crop).all()
        assert (align(hopper[:, ::-1][:, ::-1], face, spec) == crop).all()  # not contiguous


# The ArcFace template


def least_squares(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Solve x' = a·x − b·y + c, y' = b·x + a·y + d for a, b, c, d."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


points = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).uniform(-50, 50, (5, 2)))


@settings(max_examples=100, deadline=None)
@given(points, points)
def test_similarity_is_the_least_squares_one(source, target):
    np.testing.assert_allclose(similarity_transform(source, target), least_squares(source, target), atol=1e-8)


@settings(max_examples=100, deadline=None)
@given(points, st.floats(-math.pi, math.pi), st.floats(0.01, 20), st.floats(-500, 500), st.floats(-500, 500))
def test_it_finds_the_similarity_that_was_applied(source, angle, scale, x, y):
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    matrix = np.array([[a, -b, x], [b, a, y]])
    target = source @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(similarity_transform(source, target), matrix, atol=1e-8)


@settings(max_examples=50, deadline=None)
@given(points)
def test_a_mirror_image_is_not_reflected_back(source):
    linear = similarity_transform(source, source * [-1, 1])[:, :2]
    assert np.linalg.det(linear) >= 0
    np.testing.assert_allclose(linear, least_squares(source, source * [-1, 1])[:, :2], atol=1e-8)


def test_two_points_are_enough_and_one_is_not():
    found = similarity_transform(np.array([[0, 0], [2, 0]]), np.array([[5, 5], [5, 9]]))
    np.testing.assert_allclose(found, [[0, -2, 5], [2, 0, 5]], atol=1e-12)
    with pytest.raises(ValueError, match="two distinct points"):
        similarity_transform(np.full((5, 2), 7.0), np.asarray(ARCFACE_TEMPLATE))


def test_a_face_on_the_template_is_copied():
    """If the landmarks already lie on the template, the crop equals the image, pixel by pixel."""
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    crop = align(image, Face((10, 10, 100, 110), 0.9, ARCFACE_TEMPLATE), INPUT_SPECS["arcface-112"])
    assert np.abs(crop.astype(int) - image).max() <= 1


def test_a_crop_is_cut_by_the_points_for_it_where_there_are_some() -> None:
    """A detector may locate them more steadily than its landmarks."""
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    here, there = (tuple((x + shift, y + shift) for x, y in ARCFACE_TEMPLATE) for shift in (0, 40))
    spec = INPUT_SPECS["arcface-112"]
    crop = align(image, Face((0, 0, 112, 112), 1.0, here, crop_points=there), spec)
    np.testing.assert_array_equal(crop, align(image, Face((0, 0, 112, 112), 1.0, there), spec))
    np.testing.assert_allclose(crop.astype(int), image[40:152, 40:152], atol=1)


@pytest.mark.parametrize("angle", [0.0, 0.7, math.pi])
@pytest.mark.parametrize("side", [12, 90, 700])
def test_a_crop_depends_on_nothing_beyond_it(angle: float, side: int) -> None:
    """Only the part of the image that the crop shows is read."""
    image = np.random.default_rng(1).integers(0, 256, (900, 1000, 3)).astype(np.uint8)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = (np.asarray(ARCFACE_TEMPLATE) / 112 - 0.5) @ turn.T * side + (500.3, 450.7)
    face = Face((400, 400, 600, 600), 1.0, tuple(map(tuple, points.tolist())))
    crop = align(image, face, INPUT_SPECS["arcface-112"])
    reach = int(side * 0.8) + 3  # more than half of a square's diagonal
    top, left = max(450 - reach, 0), max(500 - reach, 0)
    part = image[top : 451 + reach, left : 501 + reach]
    moved = Face(face.box, 1.0, tuple((x - left, y - top) for x, y in face.landmarks))
    np.testing.assert_allclose(crop.astype(int), align(part, moved, INPUT_SPECS["arcface-112"]), atol=1)


def test_a_shifted_face_is_shifted_back_and_black_outside():
    image = np.random.default_rng(0).integers(1, 256, (112, 112, 3)).astype(np.uint8)
    moved = tuple((x - 20, y + 7) for x, y in ARCFACE_TEMPLATE)
    crop = align(image, Face((10, 10, 100, 110), 0.9, moved), INPUT_SPECS["arcface-112"])
    assert np.abs(crop[:104, 21:].astype(int) - image[7:111, 1:92]).max() <= 1
    assert not crop[:, :19].any()
    assert not crop[106:].any()


def test_landmarks_land_on_the_template():
    """A spot of light at each landmark of a turned face appears at the template's position."""
    angle, scale = math.radians(25), 1.7
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    landmarks = np.asarray(ARCFACE_TEMPLATE) @ turn.T + [90, 30]
    y, x = np.mgrid[:320, :320]
    for spec, factor in ((INPUT_SPECS["arcface-112"], 1.0), (InputSpec(224, "arcface"), 2.0)):
        for (u, v), expected in zip(landmarks, ARCFACE_TEMPLATE, strict=True):
            light = 255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 4.0**2))
            image = np.repeat(light[:, :, None], 3, axis=2).astype(np.uint8)
            crop = align(image, Face((0, 0, 9, 9), 0.9, tuple(map(tuple, landmarks))), spec)[..., 0].astype(float)
            rows, columns = np.mgrid[: spec.size, : spec.size]
            spot = (crop * columns).sum() / crop.sum(), (crop * rows).sum() / crop.sum()
            np.testing.assert_allclose(spot, np.multiply(expected, factor), atol=0.15 * factor)


class PlainUnpickler(pickle.Unpickler):
    """Loads lists, bytes and bools only; no classes or functions."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"{module}.{name}")


def verification_crops(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        jpegs, _ = PlainUnpickler(file, encoding="bytes").load()
    return np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs])


@pytest.mark.shared
def test_arcface_crops_are_those_of_the_published_file(shared, detector):
    """Photos of pairsDevTest: each has its crop among the 2,000 of lfw_dev.bin."""
    crops = verification_crops(shared / "data" / "lfw_dev.bin")
    assert crops.shape == (2000, 112, 112, 3)

    def small(images: np.ndarray) -> np.ndarray:
        vectors = images[:, ::4, ::4].reshape(len(images), -1).astype(np.float32)
        vectors = vectors - vectors.mean(axis=1, keepdims=True)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    known = small(crops)
    lines = (shared / "data" / "lfw_view1" / "pairsDevTest.txt").read_text(encoding="utf-8").splitlines()[1:]
    correlations, differences = [], []
    for name, number, *_ in (line.split() for line in lines[::60]):
        path = shared / "data" / "lfw_view1" / "images" / name / f"{name}_{int(number):04d}.jpg"
        image = np.asarray(Image.open(path).convert("RGB"))
        face = max(detector.detect(image), key=lambda f: f.width * f.height)
        ours = align(image, face, INPUT_SPECS["arcface-112"])
        similar = known @ small(ours[None])[0]
        correlations.append(similar.max())
        differences.append(np.abs(ours.astype(float) - crops[int(similar.argmax())]).mean())
    assert len(correlations) >= 15
    assert np.median(correlations) >= 0.99
    assert np.median(differences) <= 4
    assert collections.Counter(c > 0.95 for c in correlations)[True] >= len(correlations) - 1
