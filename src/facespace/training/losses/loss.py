"""What every loss of this package is, the names of all of them, and how to build the same one again."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from torch import Tensor, nn

from facespace.registry import Registry


class Loss(nn.Module):
    """One term of what is minimised: `loss(features, labels)` is a scalar.

    Features (N,D) are raw, as a backbone gives them, labels (N,) whole numbers. Weights of classes, centres and running
    statistics are parameters and buffers of the module, so they are optimised, saved and resumed with it. `facts` holds
    numbers worth watching of the last call, on the way to nothing else.
    """

    name: str = ""  # given by `register`
    sharded: tuple[str, ...] = ()  # parameters of which every rank has rows of its own
    deferred: bool = False  # whether `update` is called for it, once a step, as the training loop does
    facts: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.facts = {}

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of these features."""
        raise NotImplementedError

    def update(self) -> None:
        """What is no gradient's doing, once after every step of training: nothing, for most losses.

        Where it is not `deferred` a loss sees to it itself, with every call in training.
        """

    def forget(self) -> None:
        """Drop what was kept for `update`: the step is taken again."""


_LOSSES: Registry[Loss] = Registry("facespace.training.losses", one="loss", many="losses", error=ValueError)
register, known, loss_class = _LOSSES.register, _LOSSES.known, _LOSSES.find


def create(name: str, *, dimension: int, n_classes: int, **options: Any) -> Loss:
    """The loss of that name for features of `dimension` numbers and `n_classes` identities.

    A loss that has no use for one of the two does not get it. Raises `ValueError` for an unknown name, `TypeError`
    for an option the loss does not take.

    >>> create("arcface", dimension=8, n_classes=3, margin=0.3).margin
    0.3
    """
    loss = loss_class(name)
    taken = tuple(inspect.signature(loss).parameters)
    if unknown := sorted(set(options) - set(taken)):
        close = difflib.get_close_matches(unknown[0], taken, n=1)
        hint = f", the closest is {close[0]}" if close else ""
        raise TypeError(f"the loss {name} has no option {unknown[0]}{hint}; it takes {', '.join(taken) or 'none'}")
    sizes = {"dimension": dimension, "n_classes": n_classes}
    return loss(**{key: value for key, value in sizes.items() if key in taken}, **options)
