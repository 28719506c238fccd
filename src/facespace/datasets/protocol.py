"""The protocol of every dataset: images with their identities, in any file format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class LabelledImages(Protocol):
    """A fixed sequence of images, each of one identity.

    `names[label]` is the identity's name, or its number as text if the dataset has no names. `labels` (N,) int64 is
    available without reading an image. Objects can be pickled, so that worker processes read in parallel: each reopens
    the files. Reading raises `DatasetError` for a damaged dataset and `ImageError` for a damaged image.
    """

    @property
    def names(self) -> Sequence[str]:
        """The identities, by label."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The label of every image, (N,)."""

    def __len__(self) -> int:
        """Return the number of images."""

    def encoded(self, index: int) -> bytes:
        """Return one image as stored (JPEG, PNG, …), undecoded."""

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return one image, (H,W,3) uint8 RGB."""
