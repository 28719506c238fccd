"""Training losses in torch, created by name; a recipe lists them with their weights.

Begin with `loss.Loss`. To add a loss, write one file in this folder with a subclass of `Loss` under
`@register("its-name")`; the contract tests find it through the registry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.training.losses.loss import Loss as Loss, create as create, known as known, register as register

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "loss": ["Loss", "create", "known", "register"],
    },
)
