"""What a face detector is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

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


@runtime_checkable
class ReducedDetector(Detector, Protocol):
    """A detector that makes large photos smaller, so that they need not be read in full size."""

    def least_scale(self, height: int, width: int) -> float:
        """The scale, at most 1, to which a photo of this size can be made smaller before it is searched."""

    def detect_reduced(self, photos: Sequence[npt.NDArray[np.uint8]], reductions: Sequence[int]) -> list[list[Face]]:
        """`detect_many` for photos (H,W,3) that were read at 1/n of their size, for the `reductions` n.

        The faces that are found are those that are wanted of the photos in full size. Coordinates are those of the photos as
        they are here.
        """
