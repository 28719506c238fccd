"""Inception-ResNet-v1 as FaceNet defined it in 2018; layers have that program's names in lower case."""

from __future__ import annotations

import functools

from torch import Tensor, nn

from facespace.backbones.backbone import Backbone
from facespace.backbones.inception_blocks import Residual, reduction, repeated
from facespace.backbones.registry import register
from facespace.backbones.tensorflow_layers import Convolution, Dense

_BLOCK35 = (
    {"conv2d_1x1": 32},
    {"conv2d_0a_1x1": 32, "conv2d_0b_3x3": 32},
    {"conv2d_0a_1x1": 32, "conv2d_0b_3x3": 32, "conv2d_0c_3x3": 32},
)
_REDUCTION_A = (
    {"conv2d_1a_3x3": 384},
    {"conv2d_0a_1x1": 192, "conv2d_0b_3x3": 192, "conv2d_1a_3x3": 256},
)
_BLOCK17 = (
    {"conv2d_1x1": 128},
    {"conv2d_0a_1x1": 128, "conv2d_0b_1x7": 128, "conv2d_0c_7x1": 128},
)
_REDUCTION_B = (
    {"conv2d_0a_1x1": 256, "conv2d_1a_3x3": 384},
    {"conv2d_0a_1x1": 256, "conv2d_1a_3x3": 256},
    {"conv2d_0a_1x1": 256, "conv2d_0b_3x3": 256, "conv2d_1a_3x3": 256},
)
_BLOCK8 = (
    {"conv2d_1x1": 192},
    {"conv2d_0a_1x1": 192, "conv2d_0b_1x3": 192, "conv2d_0c_3x1": 192},
)


@register("inception-resnet-v1")
class InceptionResnetV1(Backbone):
    """Inception-ResNet-v1: 22.8 million parameters at dimension 128; made for 160 px, takes any size from 75."""

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
        self.conv2d_4b_3x3 = build(192, 256, 3, stride=2, padding="valid")
        self.repeat = repeated(5, "block35", 256, _BLOCK35, build, scale=0.17)
        self.mixed_6a, wide = reduction(256, _REDUCTION_A, build)
        self.repeat_1 = repeated(10, "block17", wide, _BLOCK17, build, scale=0.10)
        self.mixed_7a, wide = reduction(wide, _REDUCTION_B, build)
        self.repeat_2 = repeated(5, "block8", wide, _BLOCK8, build, scale=0.20)
        self.block8 = Residual(wide, _BLOCK8, build, scale=1.0, relu=False)
        self.dropout = nn.Dropout(1 - keep_probability)
        self.bottleneck = Dense(wide, self.dimension, batch_norm_scale=batch_norm_scale)

    def compute(self, images: Tensor) -> Tensor:
        """Return features (N,D) of images (N,3,H,W)."""
        x = self.conv2d_2b_3x3(self.conv2d_2a_3x3(self.conv2d_1a_3x3(images)))
        x = self.conv2d_4a_3x3(self.conv2d_3b_1x1(self.maxpool_3a_3x3(x)))
        x = self.repeat(self.conv2d_4b_3x3(x))
        x = self.repeat_1(self.mixed_6a(x))
        x = self.repeat_2(self.mixed_7a(x))
        x = self.block8(x)
        features: Tensor = self.bottleneck(self.dropout(x.mean((2, 3))))
        return features
