"""The order of the training images: an endless stream that depends on the seed and the position alone.

There is no state between steps, so a run that is resumed at any step sees the same images as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Order = Callable[[int], Ints]


class Stream:
    """The concatenation of all passes over a dataset: `order(0)`, `order(1)`, …, each an array of image numbers.

    >>> stream = Stream(shuffled(3, seed=0))
    >>> sorted(stream.part(0, 3).tolist()), len(stream.part(2, 7))
    ([0, 1, 2], 7)
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._pass, self._images = 0, order(0)
        self.length = len(self._images)
        if not self.length:
            raise ValueError("a pass must have at least one image, got 0")

    def part(self, start: int, n: int) -> Ints:
        """Return the image numbers (n,) at the positions `start` to `start + n − 1`."""
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
    """Return an order in which each pass has every image once, newly shuffled."""

    def order(number: int) -> Ints:
        return np.random.default_rng([seed, 1, number]).permutation(n_images)

    return order


def by_people(labels: Ints, per_person: int, *, seed: int) -> Order:
    """Return an order that lists people one after the other, with `per_person` images of each.

    Each pass shuffles the people and draws their images; a person with fewer images has all of them in the pass. So a
    batch of P·K images has P people with K images each, or more people if some have fewer images. If a pass is not a
    whole number of batches, a batch may end within a person or reach into the next pass. A pass never repeats an image,
    so people may have any number of images; the image of a person with one image serves as a negative. `labels` (N,)
    are those of `LabelledImages`.

    >>> order = by_people(np.array([7, 7, 7, 8, 9, 9]), 2, seed=1)
    >>> len(order(0)), order(0).tolist() == order(0).tolist()
    (5, True)
    """
    if per_person < 1:
        raise ValueError(f"per_person must be at least 1, got {per_person}")
    people, person = np.unique(labels, return_inverse=True)

    def order(number: int) -> Ints:
        random = np.random.default_rng([seed, 2, number])
        place = random.permutation(len(people))[person]  # the position of each image's person in this pass
        sequence = np.lexsort((random.random(len(labels)), place))
        starts = np.searchsorted(place[sequence], np.arange(len(people)))
        rank = np.arange(len(sequence)) - starts[place[sequence]]
        return sequence[rank < per_person].astype(np.int64)

    return order
