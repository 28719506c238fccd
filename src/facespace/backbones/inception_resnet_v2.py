"""Inception-ResNet-v2 as FaceNet defined it in 2018; layers have that program's names in lower case."""

from __future__ import annotations

import functools

from torch import Tensor, nn

from facespace.backbones.backbone import Backbone
from facespace.backbones.inception_blocks import Mixed, Residual, branch, branches, channels, reduction, repeated
from facespace.backbones.registry import register
from facespace.backbones.tensorflow_layers import AveragePoolSame, Convolution, Dense

_MIXED_5B = (
    {"conv2d_1x1": 96},
    {"conv2d_0a_1x1": 48, "conv2d_0b_5x5": 64},
    {"conv2d_0a_1x1": 64, "conv2d_0b_3x3": 96, "conv2d_0c_3x3": 96},
)
_MIXED_5B_POOLED = {"conv2d_0b_1x1": 64}
_BLOCK35 = (
    {"conv2d_1x1": 32},
    {"conv2d_0a_1x1": 32, "conv2d_0b_3x3": 32},
    {"conv2d_0a_1x1": 32, "conv2d_0b_3x3": 48, "conv2d_0c_3x3": 64},
)
_REDUCTION_A = (
    {"conv2d_1a_3x3": 384},
    {"conv2d_0a_1x1": 256, "conv2d_0b_3x3": 256, "conv2d_1a_3x3": 384},
)
_BLOCK17 = (
    {"conv2d_1x1": 192},
    {"conv2d_0a_1x1": 128, "conv2d_0b_1x7": 160, "conv2d_0c_7x1": 192},
)
_REDUCTION_B = (
    {"conv2d_0a_1x1": 256, "conv2d_1a_3x3": 384},
    {"conv2d_0a_1x1": 256, "conv2d_1a_3x3": 288},
    {"conv2d_0a_1x1": 256, "conv2d_0b_3x3": 288, "conv2d_1a_3x3": 320},
)
_BLOCK8 = (
    {"conv2d_1x1": 192},
    {"conv2d_0a_1x1": 192, "conv2d_0b_1x3": 224, "conv2d_0c_3x1": 256},
)


@register("inception-resnet-v2")
class InceptionResnetV2(Backbone):
    """Inception-ResNet-v2: 54.5 million parameters at dimension 128. Made for 160 px; any size from 75 px works."""

    minimum_size = 75

    def __init__(self, *, dimension: int = 512, keep_probability: float = 1.0, batch_norm_scale: bool = False) -> None:
        super().__init__(dimension=dimension, keep_probability=keep_probability, batch_norm_scale=batch_norm_scale)
        build = functools.partial(Convolution, batch_norm_scale=batch_norm_scale)
        self.conv2d_1a_3x3 = build(3, 32, 3, stride=2, padding="valid")
        self.conv2d_2a_3x3 = build(32, 32, 3, padding="valid")
        self.conv2d_2b_3x3 = build(32, 64, 3)
        self.maxpool_3a_3x3 = nn.MaxPool2d(3, 2)
        self.conv2d_3b_1x1 = build(64, 80, 1)
        self.conv2d_4a_3x3 = build(80, 192, 3, padding="valid")
        self.maxpool_5a_3x3 = nn.MaxPool2d(3, 2)
        mixed = branches(192, _MIXED_5B, build)
        mixed["branch_3"] = branch(192, _MIXED_5B_POOLED, build, before=AveragePoolSame(3))
        self.mixed_5b = Mixed(mixed)
        wide = channels([*_MIXED_5B, _MIXED_5B_POOLED])
        self.repeat = repeated(10, "block35", wide, _BLOCK35, build, scale=0.17)
        self.mixed_6a, wide = reduction(wide, _REDUCTION_A, build)
        self.repeat_1 = repeated(20, "block17", wide, _BLOCK17, build, scale=0.10)
        self.mixed_7a, wide = reduction(wide, _REDUCTION_B, build)
        self.repeat_2 = repeated(9, "block8", wide, _BLOCK8, build, scale=0.20)
        self.block8 = Residual(wide, _BLOCK8, build, scale=1.0, relu=False)
        self.conv2d_7b_1x1 = build(wide, 1536, 1)
        self.dropout = nn.Dropout(1 - keep_probability)
        self.bottleneck = Dense(1536, self.dimension, batch_norm_scale=batch_norm_scale)

    def compute(self, images: Tensor) -> Tensor:
        """Return features (N,D) of images (N,3,H,W)."""
        x = self.conv2d_2b_3x3(self.conv2d_2a_3x3(self.conv2d_1a_3x3(images)))
        x = self.conv2d_4a_3x3(self.conv2d_3b_1x1(self.maxpool_3a_3x3(x)))
        x = self.repeat(self.mixed_5b(self.maxpool_5a_3x3(x)))
        x = self.repeat_1(self.mixed_6a(x))
        x = self.repeat_2(self.mixed_7a(x))
        x = self.conv2d_7b_1x1(self.block8(x))
        features: Tensor = self.bottleneck(self.dropout(x.mean((2, 3))))
        return features
