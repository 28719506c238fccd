"""Creates detectors by name."""

from __future__ import annotations

import importlib
from typing import Any, cast

from facespace.defaults import DEFAULT_DETECTOR
from facespace.detection.protocol import Detector

# The name of each detector, its module in this package, and its class. A module is imported when it is first needed.
DETECTORS = {"mtcnn": ("mtcnn.detector", "MTCNN"), "yunet": ("yunet", "YuNet")}


def check_detector(name: str) -> str:
    """Return the name of a detector unchanged. Raises `ValueError` for an unknown name."""
    if name not in DETECTORS:
        raise ValueError(f"no detector is called {name!r}; there are {', '.join(DETECTORS)}")
    return name


def create_detector(name: str = DEFAULT_DETECTOR, **options: Any) -> Detector:
    """Create a detector by name, with the options of its class. Raises `ValueError` for an unknown name.

    >>> create_detector("mtcnn", min_size=40).min_size
    40.0
    >>> create_detector("haar")
    Traceback (most recent call last):
        ...
    ValueError: no detector is called 'haar'; there are mtcnn, yunet
    """
    module, detector = DETECTORS[check_detector(name)]
    return cast(Detector, getattr(importlib.import_module(f"facespace.detection.{module}"), detector)(**options))
