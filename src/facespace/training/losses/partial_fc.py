"""Partial FC: a margin classifier for millions of identities. All ranks share its weights, and a step samples some.

An et al. 2022, arXiv:2203.15565. With one process and `sample_rate` 1 it is the plain margin softmax.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from facespace.training.distributed import gathered, n_ranks, rank
from facespace.training.losses.loss import Loss, register
from facespace.training.losses.margin import arc_margin

Margin = Literal["arcface", "cosface"]
_BLOCK = 65536  # rows of weights drawn at once


@register("partial-fc")
class PartialFC(Loss):
    """ArcFace or CosFace with the identities split over the ranks of torch.distributed.

    Rank r of R has the weights of the identities ⌊n·r/R⌋ to ⌊n·(r + 1)/R⌋ − 1. Features and labels of all ranks are
    gathered, and each rank computes the logits of its identities. The ranks then exchange only the sums that softmax
    over all identities needs. With `sample_rate` below 1 each rank uses that share of its identities in a step: all
    identities in the batch, and random ones up to that share. The weights of all others do not change in that step.
    Gradients are those of the mean over the batches of all ranks. Those of the features are multiplied by the number of
    ranks, because DDP later averages the backbone's gradients over ranks.
    """

    sharded = ("weight",)

    def __init__(
        self,
        *,
        dimension: int,
        n_classes: int,
        margin: float = 0.5,
        scale: float = 64.0,
        kind: Margin = "arcface",
        sample_rate: float = 1.0,
    ) -> None:
        super().__init__()
        if kind not in get_args(Margin):
            raise ValueError(f"kind must be one of {', '.join(get_args(Margin))}, got {kind!r}")
        if not 0 < sample_rate <= 1:
            raise ValueError(f"sample_rate must be more than 0 and at most 1, got {sample_rate}")
        self.margin, self.scale, self.kind, self.sample_rate = margin, scale, kind, sample_rate
        self.rank, self.n_ranks = rank(), n_ranks()
        self.n_classes = n_classes
        self.first = n_classes * self.rank // self.n_ranks
        n_own = n_classes * (self.rank + 1) // self.n_ranks - self.first
        self.weight = nn.Parameter(torch.empty(n_own, dimension))
        self._initialize_weights()

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy over the batches of all ranks, which is the same number on each rank."""
        features = features if features.dtype == torch.float64 else features.float()
        if self.n_ranks > 1:
            features, labels = _Gather.apply(features), gathered(labels)
        weight, own = self._sampled(labels)
        with torch.autocast(features.device.type, enabled=False):
            cosines = functional.linear(functional.normalize(features), functional.normalize(weight))
            mine = own >= 0
            column = own.clamp_min(0)[:, None]
            at_label = cosines.gather(1, column)
            changed = arc_margin(at_label, self.margin) if self.kind == "arcface" else at_label - self.margin
            logits = self.scale * cosines.scatter(1, column, torch.where(mine[:, None], changed, at_label))
            return self._cross_entropy(logits, mine, column)

    @torch.no_grad()
    def _initialize_weights(self) -> None:
        """Draw normal weights in blocks: they do not depend on the number of ranks, and need little extra memory."""
        seed = int(torch.randint(2**62, ()))
        end = self.first + len(self.weight)
        for block in range(self.first // _BLOCK, -(-end // _BLOCK)):
            start, stop = max(block * _BLOCK, self.first), min((block + 1) * _BLOCK, end)
            rows = min(_BLOCK, self.n_classes - block * _BLOCK)
            generator = torch.Generator().manual_seed(seed + block)
            drawn = torch.randn(rows, self.weight.shape[1], generator=generator) * 0.01
            self.weight[start - self.first : stop - self.first] = drawn[start - block * _BLOCK : stop - block * _BLOCK]

    def _sampled(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return this rank's sampled weights, and each label's row in them, or −1 if another rank has the label."""
        own = labels - self.first
        own = torch.where((own >= 0) & (own < len(self.weight)), own, -1)
        if self.sample_rate == 1 or not self.training:
            return self.weight, own
        present = own[own >= 0].unique()
        n = max(len(present), int(self.sample_rate * len(self.weight)), 1)
        order = torch.rand(len(self.weight), device=labels.device)
        order[present] = 2.0  # these come first
        chosen = order.topk(n).indices.sort().values
        row = torch.searchsorted(chosen, own.clamp_min(0))
        return self.weight[chosen], torch.where(own >= 0, row, -1)

    def _cross_entropy(self, logits: Tensor, mine: Tensor, column: Tensor) -> Tensor:
        largest = logits.detach().amax(1)
        if self.n_ranks > 1:
            distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        shifted = logits - largest[:, None]
        total = shifted.exp().sum(1)
        at_label = torch.where(mine, shifted.gather(1, column)[:, 0], 0.0)
        if self.n_ranks > 1:
            total, at_label = _Sum.apply(total), _Sum.apply(at_label)
        self.facts["accuracy_with_margin"] = (at_label.detach() == 0).float().mean()
        loss: Tensor = (total.log() - at_label).mean()
        return loss


class _Gather(torch.autograd.Function):
    """Gathers the features of all ranks; the gradient is the sum over ranks, times their number.

    Each rank computes only the gradient of its own identities, so these are summed. DDP later divides the backbone's
    gradients by the number of ranks, so they are multiplied by it.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.n = len(local)
        return gathered(local)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        gradient: Tensor = gradients[0].contiguous()
        distributed.all_reduce(gradient)
        start = rank() * ctx.n
        return gradient[start : start + ctx.n] * n_ranks()


class _Sum(torch.autograd.Function):
    """Sums a tensor over ranks. The loss is the same number on every rank, so the gradient passes through unchanged."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:  # noqa: ARG004
        summed = local.clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:  # noqa: ARG004
        gradient: Tensor = gradients[0]
        return gradient
