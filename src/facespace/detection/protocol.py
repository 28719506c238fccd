"""The protocols that face detectors satisfy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from facespace.faces.face import Face
from facespace.io.image import Source


class Detector(Protocol):
    """A face detector: it finds the box, score and five landmarks of each face in an image.

    An image is an (H,W,3) uint8 RGB array, or anything else that `facespace.read` takes: a path, a PIL image, a gray
    array. Detectors can be pickled, so that several processes can each build their own.
    """

    @property
    def runtime(self) -> str:
        """The runtime that computes the networks: `openvino`, `onnxruntime`, …"""

    def detect(self, image: Source) -> list[Face]:
        """Return the faces of one image; an empty list if it shows no face.

        Raises `ImageError` for an image that cannot be read, and `TypeError` for anything that is not an image.
        """

    def detect_many(self, images: Iterable[Source]) -> list[list[Face]]:
        """Return the faces of several images of any sizes, in their order."""


@runtime_checkable
class ReducedDetector(Detector, Protocol):
    """A detector that downscales large photos, so that they can be decoded at a reduced size."""

    def least_scale(self, height: int, width: int) -> float:
        """Return the scale, at most 1, at which a photo of this size is searched; it need not be decoded any larger."""

    def detect_reduced(self, photos: Sequence[npt.NDArray[np.uint8]], reductions: Sequence[int]) -> list[list[Face]]:
        """Return the faces of photos (H,W,3) that were decoded at 1/n of their size, for the `reductions` n.

        Options such as a smallest face size refer to the photos at full size. Coordinates refer to the reduced photos.
        """
