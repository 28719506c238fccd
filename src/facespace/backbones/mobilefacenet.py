"""MobileFaceNet (Chen et al. 2018, arXiv:1804.07573) with the width of insightface's arcface_torch, for faces of 112 px.

Parameters have that program's names and shapes, so its published weights load unchanged. That is why every group of
layers is a list called `layers`.
"""

from __future__ import annotations

from torch import Tensor, nn

from facespace.backbones.backbone import Backbone
from facespace.backbones.registry import register


class Layers(nn.Module):
    """A sequence of modules; if `residual`, its output is added to its input."""

    def __init__(self, *modules: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(*modules)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Apply the modules in order."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def _convolution(
    n_in: int, n_out: int, side: int = 1, *, stride: int = 1, padding: int = 0, groups: int = 1, prelu: bool = True
) -> Layers:
    layer = nn.Conv2d(n_in, n_out, side, stride, padding, groups=groups, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return Layers(layer, nn.BatchNorm2d(n_out), *([nn.PReLU(n_out)] if prelu else []))


def _depthwise(n_in: int, n_out: int, groups: int, *, stride: int = 1, residual: bool = False) -> Layers:
    """Return a 1×1 convolution to `groups` channels, a depthwise 3×3, and a 1×1 without activation."""
    return Layers(
        _convolution(n_in, groups),
        _convolution(groups, groups, 3, stride=stride, padding=1, groups=groups),
        _convolution(groups, n_out, prelu=False),
        residual=residual,
    )


def _residuals(n_channels: int, groups: int, n_blocks: int) -> Layers:
    return Layers(*(_depthwise(n_channels, n_channels, groups, residual=True) for _ in range(n_blocks)))


@register("mobilefacenet")
class MobileFaceNet(Backbone):
    """MobileFaceNet: 2.1 million parameters. A depthwise 7×7 convolution replaces global average pooling."""

    input_size = minimum_size = 112

    def __init__(self, *, dimension: int = 512) -> None:
        super().__init__(dimension=dimension)
        self.layers = nn.Sequential(
            _convolution(3, 128, 3, stride=2, padding=1),
            _convolution(128, 128, 3, padding=1, groups=64),
            _depthwise(128, 128, 128, stride=2),
            _residuals(128, 128, 4),
            _depthwise(128, 256, 256, stride=2),
            _residuals(256, 256, 6),
            _depthwise(256, 256, 512, stride=2),
            _residuals(256, 256, 2),
        )
        self.conv_sep = _convolution(256, 512)
        last = nn.Linear(512, self.dimension, bias=False)
        nn.init.kaiming_normal_(last.weight, mode="fan_out", nonlinearity="relu")
        self.features = Layers(
            _convolution(512, 512, 7, groups=512, prelu=False), nn.Flatten(), last, nn.BatchNorm1d(self.dimension)
        )

    def compute(self, images: Tensor) -> Tensor:
        """Return features (N,D) of images (N,3,112,112)."""
        features: Tensor = self.features(self.conv_sep(self.layers(images)))
        return features
