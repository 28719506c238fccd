"""What a face detector is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from facespace.faces.face import Face
from facespace.io.image import Source


class Detector(Protocol):
    """Finds the faces of images: box, score and five landmarks of each.

    An image is an (H,W,3) uint8 RGB array, or anything else that `facespace.read` takes: a path, a PIL image, a gray
    array. Detectors can be pickled, so that each process of several builds its own.
    """

    @property
    def runtime(self) -> str:
        """What computes: `openvino`, `onnxruntime`, …"""

    def detect(self, image: Source) -> list[Face]:
        """The faces of one image; an empty list where there is none.

        Raises `ImageError` for an image that cannot be read, and `TypeError` for what is no image.
        """

    def detect_many(self, images: Iterable[Source]) -> list[list[Face]]:
        """The same for images of any sizes, in their order."""
