"""Checks during training that notice a failing run early and say what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from facespace.errors import TrainingError

_COLLAPSED = 0.01  # mean squared distance of a batch's embeddings; it is 2 if they are spread over the whole sphere
_PATIENCE = 50  # steps for which a collapse, or a lack of triplets, is tolerated
_FAR_CENTER = 100.0  # centres longer than this many times the longest feature are taken to diverge
# The messages of CUDA, torch on Linux, torch on Windows, and CUDA's libraries.
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")


@dataclass
class Guards:
    """Counters of consecutive bad steps; they are saved in checkpoints."""

    collapsed: int = 0
    without_triplets: int = 0

    def check(self, step: int, name: str, facts: Mapping[str, float]) -> None:
        """Check the figures of one loss after a step (`Loss.facts`). Raises `TrainingError`, which says what to change.

        >>> Guards().check(7, "center", {"largest_center": 5e4, "largest_feature": 12.0})
        Traceback (most recent call last):
            ...
        facespace.errors.TrainingError: step 7: the centres of center diverge (length 50,000, features 12); lower its rate, or leave out legacy
        """
        if "largest_center" in facts:
            center, feature = facts["largest_center"], max(facts["largest_feature"], 1.0)
            if not center <= _FAR_CENTER * feature:
                raise TrainingError(
                    f"step {step}: the centres of {name} diverge (length {center:,.0f}, features {feature:,.0f}); "
                    "lower its rate, or leave out legacy"
                )
        if "spread" not in facts:
            return
        self.collapsed = self.collapsed + 1 if facts["spread"] < _COLLAPSED else 0
        if self.collapsed >= _PATIENCE:
            raise TrainingError(
                f"step {step}: the embeddings have collapsed to one point (mean squared distance {facts['spread']:.2g} "
                f"for {self.collapsed} steps, {facts['active']:.0%} of triplets active); start from a trained model "
                "(init), lower learning_rate, or use miner=semi-hard"
            )
        self.without_triplets = self.without_triplets + 1 if not facts["triplets"] or not facts["active"] else 0
        if self.without_triplets >= _PATIENCE:
            raise TrainingError(
                f"step {step}: no triplet left to learn from for {self.without_triplets} steps; use larger batches with more "
                "people or a larger margin to find harder ones, or regard training as finished"
            )


def first_not_finite(
    backbone: nn.Module, terms: Mapping[str, nn.Module], images: Tensor, *, forward: Callable[[], Any]
) -> str:
    """Describe the first tensor of a training step that contains NaN or infinity; return "" if all are finite.

    The tensors are checked in this order: weights; images; the outputs of all modules of the backbone and the losses,
    for which `forward` is called again; batch norm statistics, which are computed from outputs; gradients, from the
    loss backwards.
    """
    modules = {"backbone": backbone, **{f"loss {name}": term for name, term in terms.items()}}
    for owner, module in modules.items():
        if name := _first(module.named_parameters()):
            return f"the weight {name} of {owner}"
    if not torch.isfinite(images).all():
        return "the images"
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name)

        return look

    hooks = [
        module.register_forward_hook(watch(f"the output of {owner}" + (f".{name}" if name else "")))
        for owner, whole in modules.items()
        for name, module in whole.named_modules()
    ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return found[0]
    for owner, module in modules.items():
        if name := _first(module.named_buffers()):
            return f"the statistic {name} of {owner}"
    for owner, module in reversed(modules.items()):
        gradients = ((name, parameter.grad) for name, parameter in reversed(list(module.named_parameters())))
        if name := _first((name, gradient) for name, gradient in gradients if gradient is not None):
            return f"the gradient of {name} of {owner}"
    return ""


def _first(entries: Iterable[tuple[str, Tensor]]) -> str:
    return next(
        (name for name, tensor in entries if tensor.is_floating_point() and not torch.isfinite(tensor).all()), ""
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception reports that a GPU or the machine ran out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and any(words in message for words in _NO_MEMORY)
