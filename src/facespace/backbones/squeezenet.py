"""SqueezeNet (Iandola et al. 2016, arXiv:1602.07360) as FaceNet defined it in 2018.

Layers have the names of that program in lower case.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

from facespace.backbones.backbone import Backbone
from facespace.backbones.registry import register
from facespace.backbones.tensorflow_layers import Build, Convolution, Dense


class Fire(nn.Module):
    """A 1×1 convolution to few channels, then a 1×1 and a 3×3 convolution in parallel."""

    def __init__(self, n_in: int, squeezed: int, expanded: int, build: Build) -> None:
        super().__init__()
        self.squeeze = build(n_in, squeezed, 1)
        self.expand = nn.ModuleDict({"1x1": build(squeezed, expanded, 1), "3x3": build(squeezed, expanded, 3)})

    def forward(self, x: Tensor) -> Tensor:
        """Map (N,C,H,W) to (N,2·expanded,H,W)."""
        x = self.squeeze(x)
        return torch.cat([side(x) for side in self.expand.values()], 1)


@register("squeezenet")
class SqueezeNet(Backbone):
    """SqueezeNet: 1.4 million parameters at dimension 128; made for 160 px, takes any size from 25."""

    minimum_size = 25

    def __init__(self, *, dimension: int = 512, keep_probability: float = 1.0, batch_norm_scale: bool = False) -> None:
        super().__init__(dimension=dimension, keep_probability=keep_probability, batch_norm_scale=batch_norm_scale)
        build = functools.partial(Convolution, batch_norm_scale=batch_norm_scale)
        self.conv1 = build(3, 96, 7, stride=2)
        self.fire2 = Fire(96, 16, 64, build)
        self.fire3 = Fire(128, 16, 64, build)
        self.fire4 = Fire(128, 32, 128, build)
        self.fire5 = Fire(256, 32, 128, build)
        self.fire6 = Fire(256, 48, 192, build)
        self.fire7 = Fire(384, 48, 192, build)
        self.fire8 = Fire(384, 64, 256, build)
        self.fire9 = Fire(512, 64, 256, build)
        self.dropout = nn.Dropout(1 - keep_probability)
        self.conv10 = Convolution(512, 1000, 1, batch_norm=False, relu=False)
        self.bottleneck = Dense(1000, self.dimension, batch_norm_scale=batch_norm_scale)

    def compute(self, images: Tensor) -> Tensor:
        """Return features (N,D) of images (N,3,H,W)."""
        x = functional.max_pool2d(self.conv1(images), 3, 2)
        x = functional.max_pool2d(self.fire4(self.fire3(self.fire2(x))), 2, 2)
        x = self.fire8(self.fire7(self.fire6(self.fire5(x))))
        x = self.fire9(functional.max_pool2d(x, 3, 2))
        x = self.conv10(self.dropout(x))
        features: Tensor = self.bottleneck(x.mean((2, 3)))
        return features
