"""The base class of all losses, and the registry that creates them by name."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from torch import Tensor, nn

from facespace.registry import Registry


class Loss(nn.Module):
    """One term of the total loss: `loss(features, labels)` returns a scalar.

    Features (N,D) are the raw output of a backbone, labels (N,) are integers. Weights of identities, centres and running
    statistics are parameters and buffers of the module, so they are optimised, saved and resumed with it. `facts`
    contains figures of the last call for logs and guards; no gradient flows through them.
    """

    name: str = ""  # set by `register`
    sharded: tuple[str, ...] = ()  # names of parameters whose rows are split over the ranks
    deferred: bool = False  # whether the training loop calls `update` once a step, instead of the loss itself
    facts: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.facts = {}

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of these features."""
        raise NotImplementedError

    def update(self) -> None:
        """Update state that has no gradient, such as centres, after a training step. Most losses have no such state.

        If `deferred` is False, a loss calls this itself in every forward pass of training.
        """

    def forget(self) -> None:
        """Drop what was kept for `update`, because the step will be computed again."""


_LOSSES: Registry[Loss] = Registry("facespace.training.losses", one="loss", many="losses", error=ValueError)
register, known, loss_class = _LOSSES.register, _LOSSES.known, _LOSSES.find


def create(name: str, *, dimension: int, n_classes: int, **options: Any) -> Loss:
    """Create a loss by name for features of `dimension` numbers and `n_classes` identities.

    The two sizes are passed only to losses that take them. Raises `ValueError` for an unknown name, `TypeError` for an
    option that the loss does not take.

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
