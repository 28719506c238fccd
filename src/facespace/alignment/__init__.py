"""Aligns class folders of photos into the same folders of crops, shared by any number of processes.

Begin with `aligner.align_dataset`. `batch` aligns one batch of photos; `journal` divides the photos among processes and
lets a later run continue after one was killed; `face_table` is the table with the result of every photo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.alignment.aligner import Summary as Summary, align_dataset as align_dataset

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "aligner": ["Summary", "align_dataset"],
    },
)
