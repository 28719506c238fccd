"""Images with the people on them: what every dataset of the project offers, whatever file it lies in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class LabelledImages(Protocol):
    """A fixed sequence of images, each of one identity.

    `names[label]` is the identity's name (its number as text where the file knows no names); `labels` (N,) int64
    is there without reading an image. Objects can be pickled, so that worker processes read side by side: each opens
    the files anew. Reading raises `DatasetError` for a damaged dataset and `ImageError` for a damaged image.
    """

    @property
    def names(self) -> Sequence[str]:
        """The identities, by label."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The label of every image, (N,)."""

    def __len__(self) -> int:
        """How many images."""

    def encoded(self, index: int) -> bytes:
        """One image as its file holds it (JPEG, PNG, …), undecoded."""

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """One image, (H,W,3) uint8 RGB."""
