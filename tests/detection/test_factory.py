"""Detectors by name."""

from __future__ import annotations

import pytest

from facespace import MTCNN
from facespace.detection import YuNet
from facespace.detection.factory import DETECTORS, create_detector


def test_the_default_is_yunet_and_options_are_its_own() -> None:
    detector = create_detector(min_size=33, min_score=0.8)
    assert isinstance(detector, YuNet) and (detector.min_size, detector.min_score) == (33, 0.8)
    detector = create_detector("mtcnn", min_size=33)
    assert isinstance(detector, MTCNN) and detector.min_size == 33


def test_the_error_for_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=f"^no detector is called 'yolo'; there are {', '.join(DETECTORS)}$"):
        create_detector("yolo")


@pytest.mark.parametrize("name", DETECTORS)
def test_an_option_that_it_does_not_have(name: str) -> None:
    with pytest.raises(TypeError, match="colour"):
        create_detector(name, colour="red")
