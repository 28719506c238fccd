"""From crops to points on the unit sphere, and from error rates to similarity thresholds.

Begin with `embedder.Embedder`, whose vectors are `vectors.Embeddings`. `calibration` gives the threshold for a rate;
its measured tables are in `calibrations/`, one per model, written by benchmarks/calibrate.py. `compatibility` refuses
to compare vectors made in different ways, and `collapse` detects networks that give every face the same vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.embedding.calibration import Calibration as Calibration
    from facespace.embedding.embedder import Embedder as Embedder
    from facespace.embedding.vectors import Embeddings as Embeddings

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "calibration": ["Calibration"],
        "embedder": ["Embedder"],
        "vectors": ["Embeddings"],
    },
)
