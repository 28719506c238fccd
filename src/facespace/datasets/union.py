"""Several datasets as one."""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from facespace.datasets.protocol import LabelledImages
from facespace.errors import DatasetError

_NUMBER = re.compile("[0-9]+")
_OF_UNION = re.compile(r"^[0-9]+(?: \(dataset [0-9]+\))+$")  # names that an earlier union gave


class UnionImages:
    """The images of several datasets one after the other, as `LabelledImages`; equal names are one identity.

    Names keep the order of their first appearance. If the names of a dataset are just consecutive numbers from 0 or 1
    on (with or without leading zeros), its identities are different from those of all other datasets: identity 7 of the
    second dataset is called `7 (dataset 2)`. In any other dataset, a number is a name like any other; a warning is
    given if several such datasets share a number. Raises `DatasetError` if there are no datasets.

    >>> from types import SimpleNamespace
    >>> first = SimpleNamespace(names=["Anna", "Ben"], labels=np.array([0, 1, 1]))
    >>> union = UnionImages([first, SimpleNamespace(names=["Cleo", "Anna"], labels=np.array([1, 0]))])
    >>> union.names, union.labels.tolist()
    (('Anna', 'Ben', 'Cleo'), [0, 1, 1, 0, 2])
    """

    def __init__(self, datasets: Sequence[LabelledImages]) -> None:
        if not datasets:
            raise DatasetError("a union needs at least one dataset, got none")
        self.datasets = tuple(datasets)
        label: dict[str, int] = {}
        parts = []
        n_shared_numbers = 0
        for position, dataset in enumerate(self.datasets, 1):
            names: Sequence[str] = dataset.names
            if len(self.datasets) > 1:
                counted = _is_counted(names)
                names = [
                    f"{name} (dataset {position})" if counted or _OF_UNION.search(name) else name for name in names
                ]
                n_shared_numbers += sum(name in label and _NUMBER.fullmatch(name) is not None for name in names)
            merged = np.array([label.setdefault(name, len(label)) for name in names], np.int64)
            parts.append(merged[dataset.labels])
        if n_shared_numbers:
            warnings.warn(
                f"{n_shared_numbers} identities whose names are equal numbers in several datasets are treated as the same "
                "people; rename their folders if that is wrong",
                stacklevel=2,
            )
        self.names = tuple(label)
        self.labels: npt.NDArray[np.int64] = np.concatenate(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        """Return one image as its dataset stores it, undecoded."""
        dataset, within = self._place(index)
        return dataset.encoded(within)

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return one image, (H,W,3) uint8 RGB."""
        dataset, within = self._place(index)
        return dataset.read(within)

    def _place(self, index: int) -> tuple[LabelledImages, int]:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        k = int(np.searchsorted(self._ends, index, "right"))
        return self.datasets[k], index - (int(self._ends[k - 1]) if k else 0)


def _is_counted(names: Sequence[str]) -> bool:
    """Return whether the names are the numbers from 0 or 1 on, each once."""
    if not all(map(_NUMBER.fullmatch, names)):
        return False
    numbers = {int(name[-18:]) for name in names}
    least, most = min(numbers, default=0), max(numbers, default=-1)
    return len(numbers) == len(names) == most - least + 1 and least <= 1
