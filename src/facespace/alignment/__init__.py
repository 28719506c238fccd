"""Class folders of photos made into the same folders of crops, shared by any number of processes.

Begin with `aligner.align_dataset`. `batch` does the work of a batch of photos; `journal` says who does which photos and what a killed process left; `face_table` is
the table of what became of every photo.
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
