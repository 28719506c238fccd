"""Softmax cross entropy over the identities, on raw and on normalised features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from facespace.training.losses.loss import Loss, register


@register("softmax")
class Softmax(Loss):
    """−log softmax(W f + b) at the label, averaged over the batch: the classifier of FaceNet's train_softmax.

    W (n_classes, dimension) is initialised by Xavier's uniform rule, b with 0. The features are raw.

    >>> loss = Softmax(dimension=2, n_classes=4)
    >>> _ = torch.nn.init.zeros_(loss.weight)
    >>> round(loss(torch.ones(3, 2), torch.tensor([0, 1, 2])).item(), 4)  # log 4
    1.3863
    """

    def __init__(self, *, dimension: int, n_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_classes, dimension))
        self.bias = nn.Parameter(torch.zeros(n_classes))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy; `facts["accuracy"]` is the share of the batch that is classified correctly."""
        logits = functional.linear(features, self.weight, self.bias)
        self.facts["accuracy"] = (logits.argmax(1) == labels).float().mean()
        return functional.cross_entropy(logits, labels)


@register("normalised-softmax")
class NormalisedSoftmax(Loss):
    """−log softmax(s·cos θ) at the label: features and weights of length 1 (Wang et al. 2017, arXiv:1704.06369).

    This is ArcFace without a margin. `scale` is s.
    """

    def __init__(self, *, dimension: int, n_classes: int, scale: float = 30.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(n_classes, dimension))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy; `facts["accuracy"]` is the share of the batch that is classified correctly."""
        cosines = functional.linear(functional.normalize(features), functional.normalize(self.weight))
        self.facts["accuracy"] = (cosines.argmax(1) == labels).float().mean()
        return functional.cross_entropy(self.scale * cosines, labels)
