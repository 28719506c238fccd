"""The model of an old command, with the line by which the old programs said which one they loaded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from facespace.cli.shared.models import load_embedder
from facespace.cli.shared.output import write_line
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.embedding.embedder import Embedder


def load_model(given: str) -> Embedder:
    """The model in a file or folder, or of a name."""
    kind = "directory" if os.path.isdir(os.path.expanduser(given)) else "filename"
    write_line(f"Model {kind}: {plain_text(given)}")
    return load_embedder(given)
