"""What the two Inception-ResNets are built of (Szegedy et al. 2016, arXiv:1602.07261).

A layer's name tells its kernel: `conv2d_0b_1x7` is one high and seven wide. One called `1a` halves the picture: stride
2, VALID. All others in a block are SAME.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from facespace.backbones.tensorflow_layers import Build, Convolution

Layers = Mapping[str, int]  # a branch: names of its convolutions, and channels they put out


def branch(n_in: int, layers: Layers, build: Build, *, before: nn.Module | None = None) -> nn.Sequential:
    """Convolutions in a row, after a pooling if there is one."""
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
    """`branch_0`, `branch_1`, … all from the same input."""
    return OrderedDict((f"branch_{k}", branch(n_in, spec, build)) for k, spec in enumerate(specs))


def channels(specs: Sequence[Layers]) -> int:
    """Channels of the branches side by side."""
    return sum(list(spec.values())[-1] for spec in specs)


class Mixed(nn.Module):
    """Branches side by side, joined in the order of their names."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) to (N,C',H',W')."""
        return torch.cat([module(x) for module in self.children()], 1)


def reduction(n_in: int, specs: Sequence[Layers], build: Build) -> tuple[Mixed, int]:
    """Branches and a max pooling, all of stride 2, with the channels they put out together."""
    modules = branches(n_in, specs, build)
    modules[f"branch_{len(specs)}"] = nn.MaxPool2d(3, 2)
    return Mixed(modules), channels(specs) + n_in


class Residual(nn.Module):
    """y = x + scale·conv1x1(branches(x)), then ReLU, except in a network's last."""

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
        """(N,C,H,W) to the same shape."""
        *sides, join = self.children()
        y: Tensor = x + self.scale * join(torch.cat([side(x) for side in sides], 1))
        return functional.relu(y) if self.relu else y


def repeated(
    times: int, name: str, n_channels: int, specs: Sequence[Layers], build: Build, *, scale: float
) -> nn.Sequential:
    """`name_1`, `name_2`, … one after the other."""
    blocks = (Residual(n_channels, specs, build, scale=scale) for _ in range(times))
    return nn.Sequential(OrderedDict((f"{name}_{k}", block) for k, block in enumerate(blocks, 1)))
