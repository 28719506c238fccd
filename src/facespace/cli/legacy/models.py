"""Loading a model, with the line that the old programs printed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from facespace.cli.shared.models import load_embedder
from facespace.cli.shared.output import write_line
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.embedding.embedder import Embedder


def load_model(given: str) -> Embedder:
    """Load a model by its path or name; print `Model filename: …` or `Model directory: …`, as the old programs did."""
    kind = "directory" if os.path.isdir(os.path.expanduser(given)) else "filename"
    write_line(f"Model {kind}: {plain_text(given)}")
    return load_embedder(given)
