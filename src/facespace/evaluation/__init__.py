"""A model's error rates on labelled pairs of photos, with a report.

Begin with `pairs.evaluate_pairs`; `report` writes the figures as JSON and as a page. The formulas are in `metrics`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.evaluation.pairs import Evaluation as Evaluation, evaluate_pairs as evaluate_pairs
    from facespace.evaluation.report import write_report as write_report

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "pairs": ["Evaluation", "evaluate_pairs"],
        "report": ["write_report"],
    },
)
