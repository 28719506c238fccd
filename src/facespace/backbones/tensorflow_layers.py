"""Layers that compute the same as TensorFlow's where torch's differ: padding, batch norm, initial weights.

SAME padding gives an output of ceil(n / stride). The amount of padding depends on the input's size. If it is odd, the
additional pixel goes to the bottom or right, so the padding is not symmetric.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-3
MOMENTUM = 0.005  # weight of the new batch in the moving averages: 1 − TensorFlow's decay of 0.995

Padding = Literal["same", "valid"]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the pixels that SAME padding adds before and after `size` pixels.

    With o = ceil(size / stride): total = max((o − 1)·stride + kernel − size, 0), half of it before, rounded down.

    >>> same_padding(160, 7, 2), same_padding(161, 7, 2)
    ((2, 3), (3, 3))
    """
    total = max((size + stride - 1) // stride * stride - stride + kernel - size, 0)
    return total // 2, total - total // 2


def _pad(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    top, bottom = same_padding(x.shape[2], kernel[0], stride[0])
    left, right = same_padding(x.shape[3], kernel[1], stride[1])
    return functional.pad(x, (left, right, top, bottom))


def average_pool_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Average-pool (N,C,H,W) with SAME padding; a window at the border is averaged over its pixels inside the map."""
    if stride == 1 and kernel % 2:  # the padding is symmetric, so one operator of the runtimes is enough
        return functional.avg_pool2d(x, kernel, stride, kernel // 2, count_include_pad=False)
    pair = (kernel, kernel), (stride, stride)
    real = torch.ones_like(x[:1, :1])
    return functional.avg_pool2d(_pad(x, *pair), kernel, stride) / functional.avg_pool2d(
        _pad(real, *pair), kernel, stride
    )


class AveragePoolSame(nn.Module):
    """`average_pool_same` with stride 1 as a layer."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Map (N,C,H,W) to the same shape."""
        return average_pool_same(x, self.kernel, 1)


def _batch_norm(
    kind: type[nn.BatchNorm1d] | type[nn.BatchNorm2d], n_channels: int, *, scale: bool, momentum: float
) -> nn.Module:
    norm = kind(n_channels, eps=EPSILON, momentum=momentum)
    if not scale:
        # Gamma stays 1 and is neither trained nor saved, but cuDNN and exporters require a tensor.
        del norm.weight
        norm.register_buffer("weight", torch.ones(n_channels), persistent=False)
    return norm


class Convolution(nn.Conv2d):
    """Convolution, batch norm (child `batchnorm`) and ReLU; without batch norm it has a bias.

    Weights are initialised by Xavier's rule: uniform within ±√(6 / (fan in + fan out)), as in TensorFlow.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: Padding = "same",
        batch_norm: bool = True,
        batch_norm_scale: bool = False,
        momentum: float = MOMENTUM,
        relu: bool = True,
    ) -> None:
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        symmetric = stride == 1 and all(side % 2 for side in sides)
        built_in = (sides[0] // 2, sides[1] // 2) if padding == "same" and symmetric else (0, 0)
        super().__init__(n_in, n_out, sides, stride=stride, padding=built_in, bias=not batch_norm)
        self.pads = padding == "same" and not symmetric
        self.relu = relu
        self.batchnorm: nn.Module | None = None
        if batch_norm:
            self.batchnorm = _batch_norm(nn.BatchNorm2d, n_out, scale=batch_norm_scale, momentum=momentum)

    def reset_parameters(self) -> None:
        """Initialise the weights."""
        _xavier(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N,C,H,W) to (N,O,H',W')."""
        if self.pads:
            x = _pad(x, (self.kernel_size[0], self.kernel_size[1]), (self.stride[0], self.stride[1]))
        x = super().forward(x)
        if self.batchnorm is not None:
            x = self.batchnorm(x)
        return functional.relu(x) if self.relu else x


Build = Callable[..., Convolution]  # `Convolution` with some of its options bound


class Dense(nn.Linear):
    """Dense layer and batch norm (child `batchnorm`), without activation; weights are initialised by Xavier's rule."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        bias: bool = False,
        batch_norm_scale: bool = False,
        momentum: float = MOMENTUM,
    ) -> None:
        super().__init__(n_in, n_out, bias=bias)
        self.batchnorm = _batch_norm(nn.BatchNorm1d, n_out, scale=batch_norm_scale, momentum=momentum)

    def reset_parameters(self) -> None:
        """Initialise the weights."""
        _xavier(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N,C) to (N,O)."""
        features: Tensor = self.batchnorm(super().forward(x))
        return features


def _xavier(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
