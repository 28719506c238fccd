"""IResNet, the networks of the ArcFace papers (Deng et al. 2018, arXiv:1801.07698), for faces of 112 px.

Parameters have the names and shapes of insightface's arcface_torch, so its published weights load unchanged. A block is
batch norm, 3×3 convolution, batch norm, PReLU, 3×3 convolution, batch norm, added to its input without activation.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from facespace.backbones.backbone import Backbone
from facespace.backbones.registry import register


def _convolution(n_in: int, n_out: int, side: int, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(n_in, n_out, side, stride, side // 2, bias=False)
    nn.init.normal_(layer.weight, 0, 0.1)
    return layer


class Block(nn.Module):
    """y = x + f(x). With `stride` 2 (first block of a stage), height and width are halved.

    The second convolution of f halves those of f(x), and a 1×1 convolution halves those of x.
    """

    def __init__(self, n_in: int, n_out: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.conv1 = _convolution(n_in, n_out, 3)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.prelu = nn.PReLU(n_out)
        self.conv2 = _convolution(n_out, n_out, 3, stride)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.downsample: nn.Module | None = None
        if stride > 1:
            self.downsample = nn.Sequential(_convolution(n_in, n_out, 1, stride), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N,C,H,W) to (N,C',H/stride,W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = shortcut + self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y


def _stage(n_in: int, n_out: int, n_blocks: int) -> nn.Sequential:
    return nn.Sequential(*(Block(n_out if k else n_in, n_out, stride=1 if k else 2) for k in range(n_blocks)))


class IResNet(Backbone):
    """Base class of the IResNets: four stages of `n_blocks` blocks; the features' batch norm has a scale fixed at 1."""

    input_size = minimum_size = 112
    n_blocks: ClassVar[tuple[int, int, int, int]]

    def __init__(self, *, dimension: int = 512, keep_probability: float = 1.0) -> None:
        super().__init__(dimension=dimension, keep_probability=keep_probability)
        self.conv1 = _convolution(3, 64, 3)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.layer1 = _stage(64, 64, self.n_blocks[0])
        self.layer2 = _stage(64, 128, self.n_blocks[1])
        self.layer3 = _stage(128, 256, self.n_blocks[2])
        self.layer4 = _stage(256, 512, self.n_blocks[3])
        self.bn2 = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout(1 - keep_probability)
        self.fc = nn.Linear(512 * 7 * 7, self.dimension)
        self.features = nn.BatchNorm1d(self.dimension)
        self.features.weight.requires_grad_(False)

    def compute(self, images: Tensor) -> Tensor:
        """Return features (N,D) of images (N,3,112,112)."""
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self.bn2(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        features: Tensor = self.features(self.fc(self.dropout(x.flatten(1))))
        return features


@register("iresnet18")
class IResNet18(IResNet):
    """IResNet-18: 24.0 million parameters."""

    n_blocks = (2, 2, 2, 2)


@register("iresnet34")
class IResNet34(IResNet):
    """IResNet-34: 34.1 million parameters."""

    n_blocks = (3, 4, 6, 3)


@register("iresnet50")
class IResNet50(IResNet):
    """IResNet-50: 43.6 million parameters."""

    n_blocks = (3, 4, 14, 3)


@register("iresnet100")
class IResNet100(IResNet):
    """IResNet-100: 65.2 million parameters."""

    n_blocks = (3, 13, 30, 3)
