"""Triplet loss, and the miners that choose the triplets of a batch (Schroff et al. 2015, arXiv:1503.03832)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from facespace.training.losses.loss import Loss, register

Miner = Literal["all", "hard", "semi-hard", "batch-hard", "vgg"]
Triplets = tuple[Tensor, Tensor, Tensor]


@register("triplet")
class TripletLoss(Loss):
    """Mean of max(0, d(a,p) − d(a,n) + margin) over triplets of the batch, with d the squared Euclidean distance.

    Features are first scaled to unit length. For each pair of an anchor a and a positive p, two images of one identity,
    `miner` chooses negatives n among the batch's images of other identities:

    - `all`: all of them;
    - `hard`: all with d(a,n) < d(a,p);
    - `semi-hard`: the nearest one with d(a,p) < d(a,n) < d(a,p) + margin;
    - `batch-hard`: one triplet per anchor, with the farthest positive and the nearest negative (Hermans et al. 2017);
    - `vgg`: a random one with d(a,n) < d(a,p) + margin, as in FaceNet's program of 2018. Two images are used as a pair
      only once, with the earlier image of the batch as anchor.

    A batch without triplets gives a loss of 0 with a gradient of 0. `facts` has `triplets`, the number of chosen
    triplets; `active`, the share of these triplets with a loss above 0; and `spread`, the mean squared distance between
    the batch's embeddings, which goes to 0 when training collapses.
    """

    def __init__(self, *, margin: float = 0.2, miner: Miner = "semi-hard") -> None:
        super().__init__()
        if miner not in get_args(Miner):
            raise ValueError(f"miner must be one of {', '.join(get_args(Miner))}, got {miner!r}")
        if margin <= 0:
            raise ValueError(f"margin must be more than 0, got {margin}")
        self.margin = margin
        self.miner: Miner = miner

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over the chosen triplets."""
        embeddings = functional.normalize(features if features.dtype == torch.float64 else features.float(), eps=1e-10)
        with torch.no_grad():
            distances = squared_distances(embeddings)
            anchor, positive, negative = choose_triplets(distances, labels, margin=self.margin, miner=self.miner)
            n = len(labels)
            self.facts["spread"] = distances.sum() / max(n * (n - 1), 1)
            self.facts["triplets"] = distances.new_tensor(len(anchor))
        if not len(anchor):
            self.facts["active"] = distances.new_zeros(())
            return embeddings.sum() * 0
        apart = (embeddings[anchor] - embeddings[positive]).square().sum(1)
        apart = apart - (embeddings[anchor] - embeddings[negative]).square().sum(1) + self.margin
        self.facts["active"] = (apart.detach() > 0).float().mean()
        return functional.relu(apart).mean()


def squared_distances(embeddings: Tensor) -> Tensor:
    """Return ‖eᵢ − eⱼ‖² = 2 − 2·eᵢ·eⱼ of unit vectors, (N,N), clamped to at least 0."""
    return (2 - 2 * embeddings @ embeddings.T).clamp_min(0)


def choose_triplets(distances: Tensor, labels: Tensor, *, margin: float, miner: Miner) -> Triplets:
    """Return the indices (T,) of anchors, positives and negatives, chosen by a miner of `TripletLoss`.

    The miner `vgg` draws from torch's generator.

    >>> d = torch.tensor([[0.0, 1.0, 1.1], [1.0, 0.0, 3.0], [1.1, 3.0, 0.0]])
    >>> [x.tolist() for x in choose_triplets(d, torch.tensor([5, 5, 7]), margin=0.2, miner="semi-hard")]
    [[0], [1], [2]]
    """
    n = len(labels)
    same = labels[:, None] == labels[None, :]
    different = ~same
    itself = torch.eye(n, dtype=torch.bool, device=labels.device)
    if miner == "batch-hard":
        positives = same & ~itself
        usable = (positives.any(1) & different.any(1)).nonzero()[:, 0]
        far = distances.masked_fill(~positives, -1).argmax(1)
        near = distances.masked_fill(~different, torch.inf).argmin(1)
        return usable, far[usable], near[usable]
    pairs = (torch.triu(same, 1) if miner == "vgg" else same & ~itself).nonzero()
    chosen = [_negatives(distances, different, pair, margin, miner) for pair in pairs.split(_rows(n))]
    if not chosen:
        empty = labels.new_empty(0)
        return empty, empty, empty
    anchor, positive, negative = (torch.cat(column) for column in zip(*chosen, strict=True))
    return anchor, positive, negative


def _rows(n: int) -> int:
    """Return how many pairs to process at once, so that pairs × images take some tens of megabytes."""
    return max(1, 2**23 // max(n, 1))


def _negatives(distances: Tensor, different: Tensor, pairs: Tensor, margin: float, miner: Miner) -> Triplets:
    anchor, positive = pairs.unbind(1)
    near = distances[anchor]  # (pairs, N)
    far = distances[anchor, positive][:, None]
    allowed = different[anchor]
    if miner == "hard":
        allowed = allowed & (near < far)
    elif miner == "semi-hard":
        allowed = allowed & (near > far) & (near < far + margin)
        found = allowed.any(1)
        nearest = near.masked_fill(~allowed, torch.inf).argmin(1)
        return anchor[found], positive[found], nearest[found]
    elif miner == "vgg":
        allowed = allowed & (near - far < margin)
        found = allowed.any(1)
        if not found.any():
            return anchor[:0], positive[:0], anchor[:0]
        return anchor[found], positive[found], torch.multinomial(allowed[found].float(), 1)[:, 0]
    row, negative = allowed.nonzero().unbind(1)
    return anchor[row], positive[row], negative
