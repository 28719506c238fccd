"""Several datasets as one."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from facespace.datasets.labelled import LabelledImages
from facespace.errors import DatasetError


class UnionImages:
    """The images of several datasets one after the other, as `LabelledImages`; identities of one name are one.

    Names keep the order in which they come first. A dataset that knows no names, only the numbers 0, 1, 2, …, shares
    nobody with others: its identity 7 is called `7 (dataset 2)`, if it is the second. `DatasetError` where there are
    no datasets.

    >>> from types import SimpleNamespace
    >>> first = SimpleNamespace(names=["Anna", "Ben"], labels=np.array([0, 1, 1]))
    >>> union = UnionImages([first, SimpleNamespace(names=["Cleo", "Anna"], labels=np.array([1, 0]))])
    >>> union.names, union.labels.tolist()
    (('Anna', 'Ben', 'Cleo'), [0, 1, 1, 0, 2])
    """

    def __init__(self, datasets: Sequence[LabelledImages]) -> None:
        if not datasets:
            raise DatasetError("a union wants at least one dataset; got none")
        self.datasets = tuple(datasets)
        label: dict[str, int] = {}
        parts = []
        for position, dataset in enumerate(self.datasets, 1):
            names: Sequence[str] = dataset.names
            if len(self.datasets) > 1 and all(name == str(number) for number, name in enumerate(names)):
                names = [f"{name} (dataset {position})" for name in names]
            merged = np.array([label.setdefault(name, len(label)) for name in names], np.int64)
            parts.append(merged[dataset.labels])
        self.names = tuple(label)
        self.labels: npt.NDArray[np.int64] = np.concatenate(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        """One image as its dataset holds it, undecoded."""
        dataset, within = self._place(index)
        return dataset.encoded(within)

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """One image, (H,W,3) uint8 RGB."""
        dataset, within = self._place(index)
        return dataset.read(within)

    def _place(self, index: int) -> tuple[LabelledImages, int]:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        k = int(np.searchsorted(self._ends, index, "right"))
        return self.datasets[k], index - (int(self._ends[k - 1]) if k else 0)
