"""A penalty on the length of raw features, as in FaceNet's train_softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from facespace.training.losses.loss import Loss, register


@register("features-norm")
class FeaturesNorm(Loss):
    """mean ‖ |f| + 1e-4 ‖_p over the batch: `prelogits_norm_loss` of the 2018 program, p = `order`.

    >>> round(float(FeaturesNorm(order=1)(torch.tensor([[3.0, -4.0]]), torch.tensor([0]))), 4)
    7.0002
    """

    def __init__(self, *, order: float = 1.0) -> None:
        super().__init__()
        self.order = order

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """Return the mean norm; labels are not used."""
        norms: Tensor = torch.linalg.vector_norm(features.abs() + 1e-4, ord=self.order, dim=1)
        return norms.mean()
