"""Which images a step of training sees: an endless order without gaps, a function of seed and step alone.

Nothing is remembered between steps, so a run that is resumed at any step sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Order = Callable[[int], Ints]


class Stream:
    """Passes over a dataset put end to end, `order(0)`, `order(1)`, …, each an array of image numbers.

    >>> stream = Stream(shuffled(3, seed=0))
    >>> sorted(stream.part(0, 3).tolist()), len(stream.part(2, 7))
    ([0, 1, 2], 7)
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._pass, self._images = 0, order(0)
        self.length = len(self._images)
        if not self.length:
            raise ValueError("a stream wants at least one image a pass")

    def part(self, start: int, n: int) -> Ints:
        """The image numbers at the positions `start` to `start + n`, (n,)."""
        parts = []
        while n > 0:
            number, offset = divmod(start, self.length)
            if number != self._pass:
                self._pass, self._images = number, self._order(number)
            taken = self._images[offset : offset + n]
            parts.append(taken)
            start += len(taken)
            n -= len(taken)
        return np.concatenate([np.empty(0, np.int64), *parts])


def shuffled(n_images: int, *, seed: int) -> Order:
    """Every image once a pass, in a new order each time."""

    def order(number: int) -> Ints:
        return np.random.default_rng([seed, 1, number]).permutation(n_images)

    return order


def by_people(labels: Ints, per_person: int, *, seed: int) -> Order:
    """People in a new order each pass; of each, `per_person` images drawn anew, or all of them where there are fewer.

    A batch of P·K images so holds P people with K images each, and more people where some have fewer images; where
    passes are no whole number of batches, one may end amid a person, or reach into the next pass. Two positions of a
    pass never have the same image, so classes of any size do; a person with one image serves as a negative for others.
    `labels` (N,) as in `LabelledImages`.

    >>> order = by_people(np.array([7, 7, 7, 8, 9, 9]), 2, seed=1)
    >>> len(order(0)), order(0).tolist() == order(0).tolist()
    (5, True)
    """
    if per_person < 1:
        raise ValueError(f"images a person want at least 1; got {per_person}")
    people, person = np.unique(labels, return_inverse=True)

    def order(number: int) -> Ints:
        random = np.random.default_rng([seed, 2, number])
        place = random.permutation(len(people))[person]  # of each image's person in this pass
        sequence = np.lexsort((random.random(len(labels)), place))
        starts = np.searchsorted(place[sequence], np.arange(len(people)))
        rank = np.arange(len(sequence)) - starts[place[sequence]]
        return sequence[rank < per_person].astype(np.int64)

    return order
