"""A small network for tests and experiments; it can be trained, but is too weak to recognise people."""

from __future__ import annotations

from torch import Tensor, nn

from facespace.backbones.backbone import Backbone
from facespace.backbones.registry import register


@register("tiny")
class Tiny(Backbone):
    """Four 3×3 convolutions with stride 2, global average pooling, one dense layer."""

    input_size = minimum_size = 112

    def __init__(self, *, dimension: int = 512) -> None:
        super().__init__(dimension=dimension)
        modules: list[nn.Module] = []
        for n_in, n_out in ((3, 8), (8, 16), (16, 32), (32, 64)):
            modules += [
                nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(n_out),
                nn.PReLU(n_out),
            ]
        self.maps = nn.Sequential(*modules)
        self.full = nn.Linear(64, self.dimension, bias=False)
        self.norm = nn.BatchNorm1d(self.dimension)

    def compute(self, images: Tensor) -> Tensor:
        """Return features (N,D) of images (N,3,112,112)."""
        features: Tensor = self.norm(self.full(self.maps(images).mean((2, 3))))
        return features
