"""Clustering: faces without names, grouped by person.

Begin with `algorithms.cluster`. `similarity_graph` finds the similar pairs among up to 100,000 faces, `disk_graph` those
among more, with `buckets` and `shards`. `whispers` is the default method. `groups` stores photos and their groups in a
file, `folders` writes them as folders of pictures. To add a method, write it in `algorithms`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.clustering.algorithms import cluster as cluster, threshold_for as threshold_for
    from facespace.clustering.groups import FaceGroups as FaceGroups, read_faces as read_faces

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "algorithms": ["cluster", "threshold_for"],
        "groups": ["FaceGroups", "read_faces"],
    },
)
