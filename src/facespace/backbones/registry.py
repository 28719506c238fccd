"""The registry of networks: it creates backbones by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from facespace.backbones.backbone import Backbone
from facespace.errors import ModelError
from facespace.io.text import plain_text
from facespace.registry import Registry

_NETWORKS: Registry[Backbone] = Registry("facespace.backbones", one="network", many="networks", error=ModelError)
register, known, network_class = _NETWORKS.register, _NETWORKS.known, _NETWORKS.find


def option_names(name: str) -> tuple[str, ...]:
    """Return the names of the options that `create` takes for this network."""
    return tuple(inspect.signature(network_class(name)).parameters)


def create(name: str, **options: Any) -> Backbone:
    """Create a network by name, with new weights drawn from torch's generator.

    Options are `dimension` (length of a feature vector, 512 by default) and, for some networks, `keep_probability`
    (of the dropout before the last layer) and `batch_norm_scale` (whether batch norms have a gamma). Raises
    `ModelError` for an unknown name, `TypeError` or `ValueError` for an option that the network does not take.

    >>> network = create("tiny", dimension=16)
    >>> network.name, network.options, network.input_size
    ('tiny', {'dimension': 16}, 112)
    """
    network = network_class(name)
    taken = option_names(name)
    if unknown := sorted(set(options) - set(taken)):
        raise TypeError(f"{name} takes the options {', '.join(taken)}; got {plain_text(', '.join(unknown))[:60]}")
    return network(**options)


class _NoInitialization(TorchFunctionMode):
    """Skips the initialisation of weights, for which torch would import modules for seconds on the meta device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def skeleton(name: str, **options: Any) -> Backbone:
    """Create a network on torch's meta device: its weights have names and shapes, but no memory."""
    network_class(name)  # imports the networks, which must not happen on the meta device
    with _NoInitialization(), torch.device("meta"):
        return create(name, **options)
