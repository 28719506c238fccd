"""The distance matrix of faces, as the old programs printed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from facespace.cli.shared.output import write_line
from facespace.io.text import plain_text


def write_images(paths: Sequence[str]) -> None:
    """Print the photos with their numbers."""
    write_line("Images:")
    for k, path in enumerate(paths):
        write_line(f"{k}: {plain_text(path)}")


def write_matrix(embeddings: Any) -> None:
    """Print the Euclidean distances between all embeddings (N,D), with 4 decimals."""
    import numpy as np

    from facespace.metrics.distances import pair_distances

    n = len(embeddings)
    write_line("Distance matrix")
    write_line("    " + "".join(f"    {k}     " for k in range(n)))
    for k in range(n):
        distances = np.sqrt(pair_distances(embeddings, np.full(n, k), np.arange(n)))
        write_line(f"{k}  " + "".join(f"  {distance:.4f}  " for distance in distances))
