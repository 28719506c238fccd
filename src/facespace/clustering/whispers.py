"""Chinese whispers on a similarity graph (Biemann 2006), in which no two faces of one photo share a group."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facespace.clustering.similarity_graph import Neighbours

Labels = npt.NDArray[np.int64]

_ITERATIONS = 20
_MANY = 128  # above this number of neighbours NumPy sums faster than a loop


def whispers(
    neighbours: Neighbours, photos: Labels, rng: np.random.Generator, *, ids: Labels | None = None
) -> npt.NDArray[np.int64]:
    """Return the group (N,) of every node after at most 20 rounds of Chinese whispers.

    A node is a face. At first each node is a group of its own, which has the node's number. In a round each node takes
    the group with the largest total weight among its neighbours; of groups with equal weights, the one with the
    smallest number. It skips groups that contain another face of its photo; `photos` (N,) gives each node's photo. Each
    round goes through the nodes in a new order drawn from `rng`. If the nodes were reordered, `ids` (N,) gives each
    node's face number; the groups are then the same as without the reordering.

    A node is computed again only if a neighbour has changed its group, or another face of its photo has left a group;
    otherwise the result would be the same.

    >>> from facespace.clustering.similarity_graph import similar_pairs
    >>> graph = similar_pairs(np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32), 0.7)
    >>> groups = whispers(graph.neighbours(), np.arange(3), np.random.default_rng(0))
    >>> groups[0] == groups[2] != groups[1]
    np.True_
    """
    starts, others, weights = neighbours
    n = len(photos)
    labels = np.arange(n) if ids is None else ids.astype(np.int64)
    node_of = np.empty(n, np.int64)
    node_of[labels] = np.arange(n)
    alike = np.sort(labels[np.flatnonzero(np.diff(starts))])
    begins = starts.tolist()
    mates = _photo_mates(photos)
    held = {(int(labels[node]), mate[0]) for node, mate in mates.items()}  # (group, photo) for each photo in a group
    waiting = bytearray(b"\1") * n
    flags = np.frombuffer(waiting, np.uint8)
    for _ in range(_ITERATIONS):
        changed = False
        for node in node_of[rng.permutation(alike)].tolist():
            if not waiting[node]:
                continue
            waiting[node] = 0
            span = slice(begins[node], begins[node + 1])
            near = others[span]
            sums = _sums(labels[near], weights[span])
            mine = int(labels[node])
            mate = mates.get(node)
            if mate is None:
                most = max(sums.values())
                group = min(one for one, weight in sums.items() if weight == most)
            else:
                ranked = sorted(sums, key=lambda one: (-sums[one], one))
                group = next((one for one in ranked if one == mine or (one, mate[0]) not in held), mine)
            if group == mine:
                continue
            labels[node] = group
            changed = True
            flags[near] = 1
            if mate is not None:
                held.discard((mine, mate[0]))
                held.add((group, mate[0]))
                flags[mate[1]] = 1
        if not changed:
            break
    return labels


def _sums(groups: Labels, weights: npt.NDArray[np.float32]) -> dict[int, float]:
    """Return the total weight of each group. float64 adds these float32 weights exactly, whatever their order."""
    if len(groups) > _MANY:
        found, places = np.unique(groups, return_inverse=True)
        return dict(zip(found.tolist(), np.bincount(places, weights=weights).tolist(), strict=True))
    sums: dict[int, float] = {}
    for group, weight in zip(groups.tolist(), weights.tolist(), strict=True):
        sums[group] = sums.get(group, 0.0) + weight
    return sums


def _photo_mates(photos: Labels) -> dict[int, tuple[int, Labels]]:
    """Return, for each node whose photo has several nodes, the photo's number here and all nodes of the photo."""
    order = np.argsort(photos, kind="stable")
    begins = np.flatnonzero(np.diff(photos[order], prepend=photos[order[:1]] - 1)) if len(photos) else np.empty(0, int)
    sizes = np.diff(begins, append=len(photos))
    mates: dict[int, tuple[int, Labels]] = {}
    for photo in np.flatnonzero(sizes > 1).tolist():
        nodes = order[begins[photo] : begins[photo] + sizes[photo]]
        for node in nodes.tolist():
            mates[node] = (photo, nodes)
    return mates
