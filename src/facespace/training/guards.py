"""What goes wrong in training, noticed while it goes wrong, with what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from facespace.errors import TrainingError

_COLLAPSED = 0.01  # mean squared distance of a batch's embeddings; 2 where they are spread over the sphere
_PATIENCE = 50  # steps that a collapse, or a lack of triplets, may last
_FAR_CENTER = 100.0  # times the longest feature
# As CUDA, torch on Linux, torch on Windows, and CUDA's libraries say it.
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")


@dataclass
class Guards:
    """Counts what must not go on for long; its fields are saved with checkpoints."""

    collapsed: int = 0
    without_triplets: int = 0

    def check(self, step: int, name: str, facts: Mapping[str, float]) -> None:
        """Look at the facts of one loss after a step; `TrainingError` says what to change.

        >>> Guards().check(7, "center", {"largest_center": 5e4, "largest_feature": 12.0})
        Traceback (most recent call last):
            ...
        facespace.errors.TrainingError: step 7: the centres of center run away (length 50,000, features 12); lower its rate, or leave out legacy
        """
        if "largest_center" in facts:
            center, feature = facts["largest_center"], max(facts["largest_feature"], 1.0)
            if not center <= _FAR_CENTER * feature:
                raise TrainingError(
                    f"step {step}: the centres of {name} run away (length {center:,.0f}, features {feature:,.0f}); "
                    "lower its rate, or leave out legacy"
                )
        if "spread" not in facts:
            return
        self.collapsed = self.collapsed + 1 if facts["spread"] < _COLLAPSED else 0
        if self.collapsed >= _PATIENCE:
            raise TrainingError(
                f"step {step}: the embeddings have collapsed to one point (mean squared distance {facts['spread']:.2g} "
                f"for {self.collapsed} steps, {facts['active']:.0%} of triplets active); begin from a trained model "
                "(init), lower learning_rate, or take miner=semi-hard"
            )
        self.without_triplets = self.without_triplets + 1 if not facts["triplets"] or not facts["active"] else 0
        if self.without_triplets >= _PATIENCE:
            raise TrainingError(
                f"step {step}: no triplet left to learn from for {self.without_triplets} steps; larger batches with more "
                "people find harder ones, as does a larger margin; or training is at its end"
            )


def first_not_finite(
    backbone: nn.Module, terms: Mapping[str, nn.Module], images: Tensor, *, forward: Callable[[], Any]
) -> str:
    """The first tensor on the way from images to gradients that holds NaN or infinity, in words.

    Weights come first, then images, then what each module of the backbone gives when `forward` is called again, then
    each term's loss, then statistics, which follow outputs, then gradients from the loss back. Empty where all are
    finite.
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
    """Whether an exception says that memory, of a GPU or the machine, was not enough."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(words in said for words in _NO_MEMORY)
