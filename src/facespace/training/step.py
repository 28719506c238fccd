"""The arithmetic of one training step: losses, averaging over ranks, gradient norm and clipping, moving average."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from facespace.training import distributed
from facespace.training.losses.loss import Loss

_COUNTED = ("triplets",)  # facts of losses that are summed over micro-batches; all other facts are averaged


def seed_of(seed: int, step: int, part: int) -> int:
    """Return the seed of torch's generator for one micro-batch, so that its draws do not depend on other micro-batches.

    >>> seed_of(666, 3, 0) == seed_of(666, 3, 0) != seed_of(666, 3, 1)
    True
    """
    return int(np.random.SeedSequence([seed, 4, step, part]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def losses_of(
    network: nn.Module,
    terms: Mapping[str, Loss],
    weights: Mapping[str, float],
    pixels: Tensor,
    labels: Tensor,
    precision: torch.dtype,
) -> tuple[Tensor, list[Tensor]]:
    """Return the total loss of images (n,3,S,S), and the list of its parts that `named` takes.

    The list has each term's loss, followed by the term's `facts`. The network computes in `precision`, the losses in
    float32.
    """
    with torch.autocast(pixels.device.type, precision, enabled=precision is not torch.float32):
        features = network(pixels)
    features = features.float()
    total = features.new_zeros(())
    values = []
    for name, term in terms.items():
        loss = term(features, labels)
        total = total + weights[name] * loss
        values += [loss, *term.facts.values()]
    return total, values


def named(
    terms: Mapping[str, Loss], values: Iterable[float], n_parts: int
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the losses and the facts of a step by name.

    `values` are the parts that `losses_of` returns, averaged over the step's `n_parts` micro-batches. Facts that are
    counts, such as the number of triplets, are multiplied by `n_parts`, so that they are sums over the step.
    """
    rest = iter(values)
    losses, facts = {}, {}
    for name, term in terms.items():
        losses[name] = next(rest)
        facts[name] = {fact: next(rest) * (n_parts if fact in _COUNTED else 1) for fact in term.facts}
    return losses, facts


def mean_over_ranks(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of replicated loss parameters over ranks. DDP already does this for the backbone."""
    if distributed.n_ranks() > 1:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.summed(parameter.grad)
            parameter.grad /= distributed.n_ranks()


def gradient_norm(shared: Iterable[nn.Parameter], sharded: Iterable[nn.Parameter]) -> Tensor:
    """Return the Euclidean norm of all gradients together; each rank has a part of the `sharded` parameters."""
    mine = [p.grad for p in shared if p.grad is not None]
    parts = [p.grad for p in sharded if p.grad is not None]
    length = torch.nn.utils.get_total_norm(mine)
    if not parts and distributed.n_ranks() == 1:
        return length
    square = torch.nn.utils.get_total_norm(parts).square() if parts else torch.zeros_like(length)
    return (length.square() + distributed.summed(square.to(length.device))).sqrt()


def clip(optimizer: torch.optim.Optimizer, norm: float, most: float) -> None:
    """Scale all gradients so that their common norm, now `norm`, is at most `most`; a `most` of 0 means no limit."""
    if norm > most > 0:
        for group in optimizer.param_groups:
            if gradients := [p.grad for p in group["params"] if p.grad is not None]:
                torch._foreach_mul_(gradients, most / norm)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Compute average ← decay·average + (1 − decay)·network, including batch norm statistics; counters are copied."""
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    moving = [(a, b) for a, b in pairs if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in moving], [b for _, b in moving], 1 - decay)
    for a, b in pairs:
        if not a.is_floating_point():
            a.copy_(b)


@torch.no_grad()
def regularization(optimizer: torch.optim.Optimizer) -> float:
    """Return the term that weight decay adds to the loss: Σ ½·weight_decay·‖w‖² over all parameters that decay."""
    total = 0.0
    for group in optimizer.param_groups:
        if group["weight_decay"]:
            length = torch.nn.utils.get_total_norm([p.detach() for p in group["params"]])
            total += 0.5 * group["weight_decay"] * float(length) ** 2
    return total
