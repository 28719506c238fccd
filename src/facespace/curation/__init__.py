"""Finds problems of a dataset: damaged files, copies, likely wrong labels, people of an evaluation set.

Begin with `checker.check`. `duplicates` finds copies; `keep_drop` writes the list of files to keep and to drop, and
moves files according to it; `report` writes the findings as a page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.curation.checker import Findings as Findings, check as check
    from facespace.curation.keep_drop import apply_list as apply_list, propose as propose

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "checker": ["Findings", "check"],
        "keep_drop": ["apply_list", "propose"],
    },
)
