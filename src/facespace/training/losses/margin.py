"""Softmax losses with a margin on the sphere: ArcFace, CosFace, their combination with SphereFace, sub-centre ArcFace.

All of them are −log softmax(s·cos θ′), where θ is the angle between features and the weights of an identity. At the
label θ′ includes a margin that makes cos θ smaller, so the right identity has to win by that margin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from facespace.training.losses.loss import Loss, register


def arc_margin(cosine: Tensor, margin: float) -> Tensor:
    """Return cos(θ + m), or cos θ − m·sin m if θ + m would exceed π (Deng et al. 2018, arXiv:1801.07698).

    sin θ is √(1 − cos²θ). For this, cos θ is clamped slightly inside ±1, where the slope of the root is infinite.

    >>> [round(value, 3) for value in arc_margin(torch.tensor([1.0, 0.0]), 0.5).tolist()]
    [0.877, -0.479]
    """
    clamped = _inside(cosine)
    moved = clamped * math.cos(margin) - (1 - clamped.square()).sqrt() * math.sin(margin)
    return torch.where(cosine > math.cos(math.pi - margin), moved, cosine - margin * math.sin(margin))


def combined_margin(cosine: Tensor, factor: float, margin: float, shift: float) -> Tensor:
    """Return cos(m₁θ + m₂) − m₃; from π to 2π, −2 − cos replaces cos, then cos − 4, and so on.

    So the result decreases with θ everywhere: a larger angle never costs less.

    `factor` is m₁ and alone gives SphereFace; `margin` is m₂, alone ArcFace; `shift` is m₃, alone CosFace.

    >>> round(combined_margin(torch.tensor(0.0), 1.0, 0.0, 0.35).item(), 4)
    -0.35
    """
    angle = factor * torch.acos(_inside(cosine)) + margin
    turns = torch.div(angle.detach(), math.pi, rounding_mode="floor")
    sign = 1 - 2 * torch.remainder(turns, 2)
    return sign * torch.cos(angle) - 2 * turns - shift


def _inside(cosine: Tensor) -> Tensor:
    limit = 1 - (1e-7 if cosine.dtype in (torch.float32, torch.float64) else 1e-3)
    return cosine.clamp(-limit, limit)


class MarginSoftmax(Loss):
    """Base class of the margin losses: cosines in float32, a margin at the label, softmax."""

    def __init__(self, dimension: int, n_classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(n_classes, dimension))
        nn.init.normal_(self.weight, std=0.01)

    def cosines(self, features: Tensor) -> Tensor:
        """Return cos θ between all features and all identities, (N, n_classes)."""
        return functional.linear(functional.normalize(features), functional.normalize(self.weight))

    def at_label(self, cosine: Tensor, features: Tensor) -> Tensor:
        """Apply the margin to cos θ at the label, (N,1) → (N,1)."""
        raise NotImplementedError

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy; `facts["accuracy"]` is computed without the margin."""
        with torch.autocast(features.device.type, enabled=False):
            features = features if features.dtype == torch.float64 else features.float()
            cosines = self.cosines(features)
            self.facts["accuracy"] = (cosines.argmax(1) == labels).float().mean()
            column = labels[:, None]
            changed = self.at_label(cosines.gather(1, column), features)
            return functional.cross_entropy(self.scale * cosines.scatter(1, column, changed), labels)


@register("arcface")
class ArcFace(MarginSoftmax):
    """ArcFace: cos(θ + margin) at the label, margin in radians (Deng et al. 2018, arXiv:1801.07698)."""

    def __init__(self, *, dimension: int, n_classes: int, margin: float = 0.5, scale: float = 64.0) -> None:
        super().__init__(dimension, n_classes, scale)
        self.margin = margin

    def at_label(self, cosine: Tensor, features: Tensor) -> Tensor:  # noqa: ARG002
        """Return `arc_margin` of the cosine."""
        return arc_margin(cosine, self.margin)


@register("cosface")
class CosFace(MarginSoftmax):
    """CosFace: cos θ − margin at the label (Wang et al. 2018, arXiv:1801.09414)."""

    def __init__(self, *, dimension: int, n_classes: int, margin: float = 0.35, scale: float = 64.0) -> None:
        super().__init__(dimension, n_classes, scale)
        self.margin = margin

    def at_label(self, cosine: Tensor, features: Tensor) -> Tensor:  # noqa: ARG002
        """Return the cosine minus the margin."""
        return cosine - self.margin


@register("combined-margin")
class CombinedMargin(MarginSoftmax):
    """cos(factor·θ + margin) − shift at the label: SphereFace, ArcFace and CosFace in one (arXiv:1801.07698, eq. 4).

    SphereFace alone is factor > 1, margin 0, shift 0.
    """

    def __init__(
        self,
        *,
        dimension: int,
        n_classes: int,
        factor: float = 1.0,
        margin: float = 0.3,
        shift: float = 0.2,
        scale: float = 64.0,
    ) -> None:
        super().__init__(dimension, n_classes, scale)
        if factor < 1 or margin < 0:
            raise ValueError(f"factor must be at least 1 and margin at least 0, got {factor} and {margin}")
        self.factor, self.margin, self.shift = factor, margin, shift

    def at_label(self, cosine: Tensor, features: Tensor) -> Tensor:  # noqa: ARG002
        """Return `combined_margin` of the cosine."""
        return combined_margin(cosine, self.factor, self.margin, self.shift)


@register("sub-center-arcface")
class SubCenterArcFace(ArcFace):
    """ArcFace with several centres per identity; only an identity's nearest centre counts (Deng et al. 2020, ECCV).

    Wrongly labelled and unusual photos get a centre of their own and do not distort the identity's main centre.
    """

    def __init__(
        self, *, dimension: int, n_classes: int, n_centers: int = 3, margin: float = 0.5, scale: float = 64.0
    ) -> None:
        super().__init__(dimension=dimension, n_classes=n_classes * n_centers, margin=margin, scale=scale)
        self.n_centers = n_centers

    def cosines(self, features: Tensor) -> Tensor:
        """Return cos θ with the nearest centre of every identity, (N, n_classes)."""
        cosines = super().cosines(features)
        return cosines.view(len(features), -1, self.n_centers).amax(2)
