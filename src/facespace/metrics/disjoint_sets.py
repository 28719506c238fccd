"""Union-find: sets of numbers that are joined pair by pair, for example people or copies known only by pairs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class DisjointSets:
    """The numbers 0 to n − 1, each in a set of its own until `join` (Tarjan 1975, with path halving).

    A set is identified by its smallest number.

    >>> sets = DisjointSets(5)
    >>> sets.join(4, 2), sets.join(2, 1), sets.find(4)
    (2, 1, 1)
    >>> sets.smallest().tolist()
    [0, 1, 1, 3, 1]
    """

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def find(self, number: int) -> int:
        """Return the smallest number in the set of `number`."""
        parent = self._parent
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    def join(self, one: int, other: int) -> int:
        """Join the sets of two numbers and return the smallest number of the joined set."""
        smaller, larger = sorted((self.find(one), self.find(other)))
        self._parent[larger] = smaller
        return smaller

    def smallest(self) -> npt.NDArray[np.int64]:
        """Return, for each number, the smallest one in its set (n,)."""
        return np.array([self.find(number) for number in range(len(self._parent))], np.int64)
