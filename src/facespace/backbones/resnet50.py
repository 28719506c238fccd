"""ResNet-50 (He et al. 2015, arXiv:1512.03385) as Tiny-Face-Recognition defined it for faces of 112 px.

The first convolution keeps the size, no pooling follows, and each stage halves the map in its first 1×1 convolution.
The last 7×7 map is flattened row by row with channels innermost, as in TensorFlow.
"""

from __future__ import annotations

import functools
from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

from facespace.backbones.backbone import Backbone
from facespace.backbones.registry import register
from facespace.backbones.tensorflow_layers import Build, Convolution, Dense

_MOMENTUM = 0.01  # TensorFlow's default decay of .99
_STAGES = (3, 4, 6, 3)


class Bottleneck(nn.Module):
    """ReLU(shortcut(x) + f(x)), f being 1×1, 3×3, 1×1 convolutions; the shortcut is x, or a 1×1 in a stage's first block."""

    def __init__(self, n_in: int, narrow: int, build: Build, *, stride: int) -> None:
        super().__init__()
        self.reduce = build(n_in, narrow, 1, stride=stride, padding="valid")
        self.middle = build(narrow, narrow, 3)
        self.increase = build(narrow, 4 * narrow, 1, relu=False)
        self.shortcut: nn.Module | None = None
        if stride > 1:
            self.shortcut = build(n_in, 4 * narrow, 1, stride=stride, padding="valid", relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N,C,H,W) to (N,4·narrow,H/stride,W/stride)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return functional.relu(shortcut + self.increase(self.middle(self.reduce(x))))


@register("resnet50")
class ResNet50(Backbone):
    """ResNet-50: 74.9 million parameters, two thirds of them in the last layer."""

    input_size = minimum_size = 112

    def __init__(self, *, dimension: int = 512) -> None:
        super().__init__(dimension=dimension)
        build = functools.partial(Convolution, batch_norm_scale=True, momentum=_MOMENTUM)
        self.stem = build(3, 64, 7)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        n_in = 64
        for stage, n_blocks in enumerate(_STAGES):
            narrow = 64 << stage
            for k in range(n_blocks):
                # The original program numbers its stages from 2 and its blocks 1a, 1b, 1c, 2a, …
                name = f"{stage + 2}_{stage + 1}{'abcdef'[k]}"
                blocks[name] = Bottleneck(n_in, narrow, build, stride=1 if k else 2)
                n_in = 4 * narrow
        self.blocks = nn.Sequential(blocks)
        self.fc = Dense(7 * 7 * n_in, self.dimension, bias=True, batch_norm_scale=True, momentum=_MOMENTUM)

    def compute(self, images: Tensor) -> Tensor:
        """Return features (N,D) of images (N,3,112,112)."""
        x = self.blocks(self.stem(images))
        features: Tensor = self.fc(x.permute(0, 2, 3, 1).flatten(1))
        return features
