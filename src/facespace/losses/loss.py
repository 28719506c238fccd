"""What every loss of this package is, the names of all of them, and how to build the same one again."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

import facespace.losses as package


class Loss(nn.Module):
    """One term of what is minimised: `loss(features, labels)` is a scalar.

    Features (N,D) are raw, as a backbone gives them, labels (N,) whole numbers. Weights of classes, centres and running
    statistics are parameters and buffers of the module, so they are optimised, saved and resumed with it. `facts` holds
    numbers worth watching of the last call, on the way to nothing else.
    """

    name: str = ""  # given by `register`
    facts: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.facts = {}

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of these features."""
        raise NotImplementedError


_LOSSES: dict[str, type[Loss]] = {}
_Class = TypeVar("_Class", bound=type[Loss])


def register(name: str) -> Callable[[_Class], _Class]:
    """A decorator that makes a class known to `create` by a name: lower case, words joined by hyphens."""

    def enter(loss: _Class) -> _Class:
        if name in _LOSSES:
            raise ValueError(f"two losses are called {name}: {_LOSSES[name].__name__} and {loss.__name__}")
        loss.name = name
        _LOSSES[name] = loss
        return loss

    return enter


@functools.cache
def _import_all() -> None:
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def known() -> tuple[str, ...]:
    """The losses' names, sorted.

    >>> "arcface" in known()
    True
    """
    _import_all()
    return tuple(sorted(_LOSSES))


def loss_class(name: str) -> type[Loss]:
    """The class of that name; `ValueError` names the known ones where there is none."""
    names = known()
    if name not in _LOSSES:
        close = difflib.get_close_matches(str(name).lower(), names, n=1)
        hint = f", the closest is {close[0]}" if close else ""
        raise ValueError(f"no loss is called {name!r}{hint}; there are {', '.join(names)}")
    return _LOSSES[name]


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
