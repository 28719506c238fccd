"""AdaFace: a margin that adapts to image quality, which is measured by the length of the features (Kim et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from facespace.training.distributed import gathered
from facespace.training.losses.loss import register
from facespace.training.losses.margin import MarginSoftmax


@register("adaface")
class AdaFace(MarginSoftmax):
    """cos(θ + g₁) − g₂ at the label with g₁ = −m·z, g₂ = m·z + m (arXiv:2204.00964, equations 9 to 11).

    z = clip((‖f‖ − μ)·h/σ, −1, 1), where ‖f‖ is the length of the features; its mean μ and deviation σ are moving
    averages with weight `momentum` for the new batch. Long features (good images, z = 1) get a negative angular margin,
    which emphasises hard samples; features of mean length (z = 0) get CosFace's margin; short ones (z = −1) get
    ArcFace's. `margin` is m, `concentration` h.
    """

    mean_norm: Tensor
    std_norm: Tensor

    def __init__(
        self,
        *,
        dimension: int,
        n_classes: int,
        margin: float = 0.4,
        concentration: float = 0.333,
        scale: float = 64.0,
        momentum: float = 0.01,
    ) -> None:
        super().__init__(dimension, n_classes, scale)
        self.margin, self.concentration, self.momentum = margin, concentration, momentum
        self.register_buffer("mean_norm", torch.tensor(20.0))
        self.register_buffer("std_norm", torch.tensor(100.0))

    def at_label(self, cosine: Tensor, features: Tensor) -> Tensor:
        """Return cos(θ + g₁) − g₂."""
        z = self._quality(features.detach().norm(dim=1))[:, None]
        angle = torch.acos(cosine.clamp(-1 + 1e-4, 1 - 1e-4))
        angle = (angle - self.margin * z).clamp(1e-4, torch.pi - 1e-4)
        return torch.cos(angle) - (self.margin + self.margin * z)

    @torch.no_grad()
    def _quality(self, norms: Tensor) -> Tensor:
        norms = norms.clamp(0.001, 100)
        if self.training:
            everywhere = gathered(norms)
            self.mean_norm += self.momentum * (everywhere.mean() - self.mean_norm)
            if len(everywhere) > 1:  # a single value has no deviation
                self.std_norm += self.momentum * (everywhere.std() - self.std_norm)
        return ((norms - self.mean_norm) * self.concentration / (self.std_norm + 1e-3)).clamp(-1, 1)
