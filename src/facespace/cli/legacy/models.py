"""The model argument of the old programs: whatever they left, and everything this one opens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace.cli.legacy.arguments import say_all

if TYPE_CHECKING:
    from facespace.embedding.embedder import Embedder


def load(model: str) -> Embedder:
    """The model, with a line for what had to be assumed of it."""
    from facespace.conversion.foreign_model import open_model

    opened = open_model(model)
    say_all(opened.remarks)
    return opened.embedder
