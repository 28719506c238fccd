"""Blocks of the two Inception-ResNets (Szegedy et al. 2016, arXiv:1602.07261).

A layer's name states its kernel: `conv2d_0b_1x7` is one high and seven wide. A layer called `1a` has stride 2 and VALID
padding, so it halves the feature map. All other layers of a block have stride 1 and SAME padding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from facespace.backbones.tensorflow_layers import Build, Convolution

Layers = Mapping[str, int]  # a branch: the names of its convolutions and their numbers of output channels


def branch(n_in: int, layers: Layers, build: Build, *, before: nn.Module | None = None) -> nn.Sequential:
    """Return a sequence of convolutions, after the module `before` if there is one."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    if before is not None:
        modules["pool"] = before
    for name, n_out in layers.items():
        height, width = map(int, name.rpartition("_")[2].split("x"))
        halves = "_1a_" in name
        modules[name] = build(
            n_in, n_out, (height, width), stride=2 if halves else 1, padding="valid" if halves else "same"
        )
        n_in = n_out
    return nn.Sequential(modules)


def branches(n_in: int, specs: Sequence[Layers], build: Build) -> OrderedDict[str, nn.Module]:
    """Return parallel branches named `branch_0`, `branch_1`, …"""
    return OrderedDict((f"branch_{k}", branch(n_in, spec, build)) for k, spec in enumerate(specs))


def channels(specs: Sequence[Layers]) -> int:
    """Return the number of output channels of all branches together."""
    return sum(list(spec.values())[-1] for spec in specs)


class Mixed(nn.Module):
    """Parallel branches whose outputs are concatenated along the channels."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N,C,H,W) to (N,C',H',W')."""
        return torch.cat([module(x) for module in self.children()], 1)


def reduction(n_in: int, specs: Sequence[Layers], build: Build) -> tuple[Mixed, int]:
    """Return a block of branches and a max pooling, all with stride 2, and its total number of output channels."""
    modules = branches(n_in, specs, build)
    modules[f"branch_{len(specs)}"] = nn.MaxPool2d(3, 2)
    return Mixed(modules), channels(specs) + n_in


class Residual(nn.Module):
    """y = x + scale·conv1x1(branches(x)), followed by ReLU except in a network's last block."""

    def __init__(
        self, n_channels: int, specs: Sequence[Layers], build: Build, *, scale: float, relu: bool = True
    ) -> None:
        super().__init__()
        for name, module in branches(n_channels, specs, build).items():
            self.add_module(name, module)
        self.conv2d_1x1 = Convolution(channels(specs), n_channels, 1, batch_norm=False, relu=False)
        self.scale = scale
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Map (N,C,H,W) to the same shape."""
        *sides, join = self.children()
        y: Tensor = x + self.scale * join(torch.cat([side(x) for side in sides], 1))
        return functional.relu(y) if self.relu else y


def repeated(
    times: int, name: str, n_channels: int, specs: Sequence[Layers], build: Build, *, scale: float
) -> nn.Sequential:
    """Return a sequence of residual blocks named `name_1`, `name_2`, …"""
    blocks = (Residual(n_channels, specs, build, scale=scale) for _ in range(times))
    return nn.Sequential(OrderedDict((f"{name}_{k}", block) for k, block in enumerate(blocks, 1)))
