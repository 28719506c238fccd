"""Training of networks by recipes; a resumed run computes bit for bit what an uninterrupted one would.

Begin with `loop.train`, the loop, and `recipe.Recipe`. `step` is the arithmetic of one step, `state` is everything that
is kept between two steps, and `checkpoint` stores it on disk. `distributed` exchanges data with the other processes,
`agreement` checks that all of them train the same thing. Shipped recipes are in `recipes/`; to add one, write a TOML
file there. Losses are in `losses/`.
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
