"""What networks are trained with, in torch: terms by name, which a recipe lists with their weights.

A new loss is one file in this folder: a subclass of `Loss` under `@register("its-name")`.
"""

from facespace.losses.loss import Loss, create, known, register

__all__ = ["Loss", "create", "known", "register"]
