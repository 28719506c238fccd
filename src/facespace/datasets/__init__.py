"""Labelled images in every format behind one protocol, and pairs of photos.

Begin with `protocol.LabelledImages` and `opening.open_dataset`, which recognises a dataset by its content. `formats`
contains a reader (and a writer) for each format; to add one, write it there, register it in `opening` and `writing`, and
add it to tests/datasets/test_protocol.py. `pairs` reads lists of pairs: LFW, CSV and insightface's `.bin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.datasets.checksum import dataset_checksum as dataset_checksum
    from facespace.datasets.convert import convert_dataset as convert_dataset
    from facespace.datasets.opening import open_dataset as open_dataset
    from facespace.datasets.pairs.insightface_bin import read_bin as read_bin
    from facespace.datasets.pairs.lists import (
        PairList as PairList,
        read_csv_pairs as read_csv_pairs,
        read_lfw_pairs as read_lfw_pairs,
    )
    from facespace.datasets.protocol import LabelledImages as LabelledImages

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "checksum": ["dataset_checksum"],
        "convert": ["convert_dataset"],
        "opening": ["open_dataset"],
        "pairs.insightface_bin": ["read_bin"],
        "pairs.lists": ["PairList", "read_csv_pairs", "read_lfw_pairs"],
        "protocol": ["LabelledImages"],
    },
)
