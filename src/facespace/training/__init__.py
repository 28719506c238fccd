"""Networks trained by recipes, resumed to the bit.

Begin with `loop.train`, the loop, and `recipe.Recipe`. `step` is the arithmetic of one step, `state` everything between
two steps, `checkpoint` keeps it on disk; `distributed` speaks with the other processes,
`agreement` makes sure that they train the same thing. Shipped recipes are in
`recipes/`; to add one, write a TOML file there. Losses are in `losses/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.training.loop import train as train
    from facespace.training.recipe import Recipe as Recipe

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "loop": ["train"],
        "recipe": ["Recipe"],
    },
)
