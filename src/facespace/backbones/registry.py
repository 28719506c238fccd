"""Names of networks, and the classes behind them."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import facespace.backbones as package
from facespace.backbones.backbone import Backbone
from facespace.errors import ModelError
from facespace.text import plain_text

_NETWORKS: dict[str, type[Backbone]] = {}
_Class = TypeVar("_Class", bound=type[Backbone])


def register(name: str) -> Callable[[_Class], _Class]:
    """A decorator that makes a class known to `create` by a name: lower case, words joined by hyphens."""

    def enter(network: _Class) -> _Class:
        if name in _NETWORKS and _NETWORKS[name].__module__ != network.__module__:
            raise ValueError(f"two networks are called {name}: {_NETWORKS[name].__name__} and {network.__name__}")
        network.name = name
        _NETWORKS[name] = network
        return network

    return enter


@functools.cache
def _import_all() -> None:
    """Every module of this package is imported once, so that the networks in them are registered."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def known() -> tuple[str, ...]:
    """The networks' names, sorted.

    >>> "inception-resnet-v1" in known()
    True
    """
    _import_all()
    return tuple(sorted(_NETWORKS))


def network_class(name: str) -> type[Backbone]:
    """The class of that name; `ModelError` names the known ones where there is none."""
    names = known()
    if name in _NETWORKS:
        return _NETWORKS[name]
    text = plain_text(str(name))[:60]
    close = difflib.get_close_matches(text.lower(), names, n=1)
    hint = f", the closest is {close[0]}" if close else ""
    raise ModelError(f"no network is called {text!r}{hint}; there are {', '.join(names)}")


def option_names(name: str) -> tuple[str, ...]:
    """What `create` takes for this network, beside its name."""
    return tuple(inspect.signature(network_class(name)).parameters)


def create(name: str, **options: Any) -> Backbone:
    """The network of that name with new weights, drawn from torch's generator.

    Options are `dimension` (length of a feature vector, 512 where not told) and, for some networks,
    `keep_probability` (of dropout before the last layer) and `batch_norm_scale` (batch norms with a gamma). Raises
    `ModelError` for an unknown name, `TypeError` or `ValueError` for an option the network does not take.

    >>> network = create("tiny", dimension=16)
    >>> network.name, network.options, network.input_size
    ('tiny', {'dimension': 16}, 112)
    """
    network = network_class(name)
    taken = option_names(name)
    if unknown := sorted(set(options) - set(taken)):
        raise TypeError(f"{name} takes the options {', '.join(taken)}; got {plain_text(', '.join(unknown))[:60]}")
    return network(**options)


class _WithoutDrawing(TorchFunctionMode):
    """First weights are not drawn: what draws them where there is no memory for them takes seconds to import."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def skeleton(name: str, **options: Any) -> Backbone:
    """What `create` makes, on torch's meta device: names and shapes of the weights, but no memory for them."""
    network_class(name)  # imports the networks, which must not happen on that device
    with _WithoutDrawing(), torch.device("meta"):
        return create(name, **options)
