"""Center loss: it pulls the features of each identity to their centre (Wen et al. 2016, ECCV)."""

from __future__ import annotations

import torch
from torch import Tensor

from facespace.training.distributed import gathered
from facespace.training.losses.loss import Loss, register


@register("center")
class CenterLoss(Loss):
    """The loss is mean (f − c_y)² over batch and dimensions. The centre c_y follows the features f of identity y.

    In training, after the loss is computed, each centre moves by equation 4 of the paper (Wen et al. 2016):

        c_j ← c_j − rate · Σ (c_j − fᵢ) / (1 + n_j)        over the n_j features of identity j in the batch

    `legacy` uses the update of FaceNet's program instead, c_j ← c_j − rate · Σ (c_j − fᵢ), which diverges if
    rate · n_j > 2. `rate` equals 1 − `center_loss_alfa` of that program. The paper sums the loss; here it is a mean as
    in FaceNet's program, so that loss weights of published recipes keep their meaning. Centres start at 0; they are
    buffers, not parameters.
    """

    centers: Tensor

    def __init__(self, *, dimension: int, n_classes: int, rate: float = 0.5, legacy: bool = False) -> None:
        super().__init__()
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be more than 0 and at most 1, got {rate}")
        self.rate = rate
        self.legacy = legacy
        self._seen: list[tuple[Tensor, Tensor]] = []
        self.register_buffer("centers", torch.zeros(n_classes, dimension))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the loss with the current centres.

        `facts["largest_center"]` is the largest length among the centres of the identities in the batch, and
        `facts["largest_feature"]` the largest length among the features.
        """
        centers = self.centers[labels].to(features.dtype)
        with torch.no_grad():
            self.facts["largest_center"] = centers.norm(dim=1).max()
            self.facts["largest_feature"] = features.norm(dim=1).max()
        if self.training:
            self._seen.append((features.detach().to(self.centers.dtype), labels))
            if not self.deferred:
                self.update()
        return (features - centers).square().mean()

    @torch.no_grad()
    def update(self) -> None:
        """Move the centres by all features seen on all ranks since the last update."""
        if not self._seen:
            return
        features, labels = (torch.cat(column) for column in zip(*self._seen, strict=True))
        self._seen.clear()
        features, labels = gathered(features), gathered(labels)
        identities, position, counts = labels.unique(return_inverse=True, return_counts=True)
        apart = torch.zeros(len(identities), features.shape[1], dtype=features.dtype, device=features.device)
        apart.index_add_(0, position, self.centers[labels] - features)
        if not self.legacy:
            apart /= 1 + counts[:, None]
        self.centers[identities] -= self.rate * apart

    def forget(self) -> None:
        """Drop the features seen since the last update."""
        self._seen.clear()
