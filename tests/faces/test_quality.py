"""Tests that quality is worse for smaller, blurred and darker faces, and follows its formula."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from facespace.detection.factory import create_detector
from facespace.detection.protocol import Detector
from facespace.faces.alignment import align
from facespace.faces.face import Face
from facespace.faces.input_spec import INPUT_SPECS
from facespace.faces.quality import LOW_QUALITY, crop_quality, face_quality, weakness

POINTS = ((20.0, 40.0), (40.0, 40.0), (30.0, 50.0), (22.0, 60.0), (38.0, 60.0))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return create_detector("yunet")


def quality_of(detector: Detector, image: np.ndarray) -> float:
    face = max(detector.detect(image), key=lambda one: one.score)
    return face_quality(image, face)


def oracle(crop: np.ndarray, size: float, score: float) -> float:
    """Compute the docstring's formula pixel by pixel."""
    grey = np.asarray(Image.fromarray(crop).convert("L"), float)[16:112, 16:96]
    edges = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, grey.shape[0] - 1)
        for x in range(1, grey.shape[1] - 1)
    ]
    z = 0.93 * math.log(size) + 4.70 * math.log(1 + np.std(edges)) - 0.88 * math.log(1 + grey.std())
    return 1 / (1 + math.exp(-(z + 5.11 * score - 10.97) / 3))


@pytest.mark.parametrize(("side", "score"), [(14.0, 0.61), (40.0, 0.8), (100.0, 0.93)])
def test_the_formula(hopper: np.ndarray, side: float, score: float) -> None:
    face = Face((10, 10, 10 + side, 10 + side / 2), score, POINTS)
    crop = align(hopper, face, INPUT_SPECS["sface"])
    assert face_quality(hopper, face) == pytest.approx(oracle(crop, side, score), abs=1e-5)
    assert face_quality(hopper, face, crop) == face_quality(hopper, face)


def test_beyond_the_measured_range_nothing_changes(hopper: np.ndarray) -> None:
    crop = align(hopper, Face((0, 0, 50, 60), 0.9, POINTS), INPUT_SPECS["sface"])
    large, huge = (Face((0, 0, side, side), 0.95, POINTS) for side in (101.0, 900.0))
    assert face_quality(hopper, large, crop) == face_quality(hopper, huge, crop) == crop_quality(crop)


def test_smaller_blurred_and_darker_faces_are_worse(hopper: np.ndarray, detector: Detector) -> None:
    whole = Image.fromarray(hopper)
    best = quality_of(detector, hopper)
    assert 0.75 < best <= 1
    small = whole.resize((whole.width // 8, whole.height // 8), Image.Resampling.LANCZOS)
    smaller = whole.resize((whole.width // 12, whole.height // 12), Image.Resampling.LANCZOS)
    blurred = whole.filter(ImageFilter.GaussianBlur(6))
    dark = Image.fromarray((hopper * 0.1).astype(np.uint8))
    values = [quality_of(detector, np.asarray(picture)) for picture in (small, smaller, blurred, dark)]
    assert max(values) < best
    assert values[1] < values[0]
    assert values[2] < 0.6


def test_a_face_without_a_crop_has_none(hopper: np.ndarray) -> None:
    assert face_quality(hopper, Face((0, 0, 50, 60), 0.9, ((5.0, 5.0),) * 5)) == 0


def test_another_crop_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a five-point crop must be \(112, 112, 3\), got \(160, 160, 3\)"):
        crop_quality(np.zeros((160, 160, 3), np.uint8))


def test_why_a_face_is_too_poor() -> None:
    small, large = Face((0, 0, 20, 31), 0.9, POINTS), Face((0, 0, 20, 33), 0.9, POINTS)
    assert weakness(small) == ""
    assert weakness(dataclasses.replace(small, quality=LOW_QUALITY)) == ""
    assert weakness(dataclasses.replace(small, quality=LOW_QUALITY - 0.01)) == "too small"
    assert weakness(dataclasses.replace(large, quality=LOW_QUALITY - 0.01)) == "too blurred or dark"
