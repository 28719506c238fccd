"""From distances and labels to accuracy, VAL@FAR, ROC and thresholds, with NumPy alone.

Begin with `verification.evaluate`, the LFW protocol. `bootstrap` computes intervals over people, `distances` the
distances of many pairs in blocks. To add a metric, write a pure function with its formula and a doctest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.metrics.distances import pair_distances as pair_distances
    from facespace.metrics.verification import (
        Rate as Rate,
        Roc as Roc,
        Verification as Verification,
        choose_threshold as choose_threshold,
        evaluate as evaluate,
        exact_roc as exact_roc,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "distances": ["pair_distances"],
        "verification": ["Rate", "Roc", "Verification", "choose_threshold", "evaluate", "exact_roc"],
    },
)
