"""Clustering algorithms: they group embeddings so that each group is one person."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from facespace.clustering.disk_graph import DiskGraph, PairFinder, pairs_of_all_shards, similar_pairs_on_disk
from facespace.clustering.similarity_graph import Embeddings, SimilarityGraph, similar_pairs
from facespace.clustering.whispers import Labels, whispers
from facespace.embedding.calibration import Calibration
from facespace.errors import DatasetError
from facespace.io.files import TEMPORARY
from facespace.io.tensor_file import read_tensor_file, write_tensor_file
from facespace.metrics.disjoint_sets import DisjointSets

Method = Literal["average", "whispers", "dbscan"]
METHODS: tuple[Method, ...] = get_args(Method)

_MANY = 100_000  # above this number of faces similar pairs are found in buckets on disk instead of among all pairs
_BLOCK = 65_536
_DRAWS = 5  # runs of Chinese whispers, each in another random order
# Two groups score better as one if their mean cosine is above this fraction of the threshold of `whispers`, which is about
# the threshold of `average`.
_AGREEMENT_SHARE = 0.8
_JOIN_ROWS, _JOIN_COLUMNS = 4096, 4096
# The expected number of other people's faces that are similar to a face by chance. Methods that join groups by single pairs
# tolerate fewer.
_FALSE_PAIRS: dict[Method, float] = {"average": 0.5, "whispers": 0.03, "dbscan": 0.02}
_FALSE_PAIRS_OF_TWO = 0.01  # for groups of two, which no third face supports


def cluster(
    embeddings: Embeddings,
    *,
    method: Method = "whispers",
    threshold: float,
    pair_threshold: float | None = None,
    photos: npt.ArrayLike | None = None,
    handicaps: npt.ArrayLike | None = None,
    seed: int = 0,
    folder: Path | None = None,
    find_pairs: PairFinder = pairs_of_all_shards,
    progress: Callable[[int, int], None] | None = None,
) -> Labels:
    """Group embeddings (N,D) of length 1. Return labels (N,), where 0 is the largest group.

    Methods:

    - `average`: two groups are joined while their mean cosine is `threshold` or more, the most similar ones first (Sokal
      and Michener 1958, UPGMA).
    - `whispers`: each face repeatedly takes the group with the largest total similarity among its similar faces
      (Biemann 2006, at most 20 rounds, in an order drawn from `seed`). Five runs are made. The result is the run with
      the largest sum of (cosine − 0.8 · threshold) over all pairs within groups, the objective of correlation
      clustering (Bansal, Blum and Chawla 2004).
    - `dbscan`: a face belongs to a group if it is similar to any face of the group (Ester et al. 1996; every face is a
      core point, as in the 2018 program). It can chain different people together.

    A group of two faces is split if their cosine is below `pair_threshold`, if given. Faces with equal numbers in
    `photos` (N,) never share a group. The `handicaps` (N,) of both faces are subtracted from a cosine (`handicaps_of`).

    Above 100,000 faces similar pairs are found in overlapping buckets (`disk_graph`) instead of among all pairs, and
    embeddings may be mapped from a file. Intermediate results are files in `folder`, or in a temporary folder; a stopped
    call resumes if it is repeated with the same faces and `folder`. For `find_pairs` see
    `disk_graph.similar_pairs_on_disk`. Raises `ValueError` if rows do not have length 1, for an unknown method, and for a
    threshold outside (0, 1].

    >>> vectors = np.array([[1, 0], [0, 1], [0.9, 0.435889894]], np.float32)
    >>> cluster(vectors, threshold=0.5).tolist()
    [0, 1, 0]
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    vectors = np.ascontiguousarray(embeddings, np.float32)
    if vectors.ndim != 2 or not _of_length_1(vectors):
        raise ValueError(f"embeddings must be (N,D) with rows of length 1, got {vectors.shape}")
    n = len(vectors)
    photo = np.arange(n) if photos is None else np.asarray(photos, np.int64)
    less = np.zeros(n, np.float32) if handicaps is None else np.asarray(handicaps, np.float32)
    if photo.shape != (n,) or less.shape != (n,):
        raise ValueError(f"photos and handicaps must be of shape ({n},), got {photo.shape} and {less.shape}")
    if n <= _MANY:
        graph = similar_pairs(vectors, threshold, handicaps=less, photos=photo, progress=progress)
        labels = _by_method(method, vectors, graph, threshold, photo, less, seed, None)
    else:
        with tempfile.TemporaryDirectory(prefix=TEMPORARY) as temporary:
            place = Path(temporary) if folder is None else folder
            kept = similar_pairs_on_disk(
                vectors, threshold, place, handicaps=less, photos=photo, find_pairs=find_pairs, progress=progress
            )
            labels = _by_method(method, vectors, kept, threshold, photo, less, seed, place)
    if pair_threshold is not None:
        labels = _split_weak_pairs(labels, vectors, less, pair_threshold)
    return largest_first(labels)


def _of_length_1(vectors: Embeddings) -> bool:
    """Return whether all rows have length 1; rows with NaN do not."""
    blocks = (vectors[start : start + _BLOCK] for start in range(0, len(vectors), _BLOCK))
    return all(bool((np.abs(np.linalg.norm(block, axis=1) - 1) < 1e-3).all()) for block in blocks)


def _by_method(
    method: Method,
    vectors: Embeddings,
    graph: SimilarityGraph | DiskGraph,
    threshold: float,
    photo: Labels,
    less: npt.NDArray[np.float32],
    seed: int,
    folder: Path | None,
) -> npt.NDArray[Any]:
    if method == "whispers":
        return _best_draw(vectors, graph, threshold, photo, less, seed, folder)
    held = graph.in_memory() if isinstance(graph, DiskGraph) else graph
    return _average(vectors, held, threshold, photo, less) if method == "average" else _connected(held, photo)


def _best_draw(
    vectors: Embeddings,
    graph: SimilarityGraph | DiskGraph,
    threshold: float,
    photo: Labels,
    handicaps: npt.NDArray[np.float32],
    seed: int,
    folder: Path | None,
) -> Labels:
    """Return the groups of the best of five runs of Chinese whispers; each run is stored in `folder`, if given."""
    rng = np.random.default_rng(seed)
    neighbours = graph.neighbours()
    ids = graph.ids if isinstance(graph, DiskGraph) else None
    best, most = np.arange(len(photo)), -np.inf
    for number in range(_DRAWS):
        path = None if folder is None else folder / f"draw-{seed}-{number}"
        if path is not None and path.exists():
            arrays, record = read_tensor_file(path, "draw", DatasetError, remedy="remove it and start again")
            labels, agreement = arrays["labels"], record["agreement"]
            rng.bit_generator.state = record["random"]
        else:
            labels = whispers(neighbours, photo if ids is None else photo[ids], rng, ids=ids)
            if ids is not None:  # back from the order of nodes to the order of faces
                labels[ids] = labels.copy()
            agreement = _agreement(labels, vectors, handicaps, _AGREEMENT_SHARE * threshold)
            if path is not None:
                record = {"agreement": agreement, "random": rng.bit_generator.state}
                write_tensor_file(path, "draw", {"labels": labels}, record)
        if agreement > most:
            best, most = labels, agreement
    return best


def handicaps_of(calibration: Calibration | None, qualities: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the handicap of each face (N,) from its quality (N,); it is subtracted from the cosines of that face.

    Poor faces resemble each other more than good faces do. The handicaps of two faces add up to `LookAlikes.shift` for
    their mean quality. Handicaps are zero if the calibration has no `look_alikes`.
    """
    q = np.asarray(qualities, np.float64)
    if calibration is None or calibration.look_alikes is None:
        return np.zeros(len(q), np.float32)
    return (calibration.look_alikes.shift(q) / 2).astype(np.float32)


def threshold_for(calibration: Calibration, n: int, method: Method = "whispers") -> float:
    """Return the threshold for `n` faces. It grows with `n`, because among more faces more are similar by chance.

    It is the similarity at the false match rate f with n · f = 0.5 for `average`, 0.03 for `whispers` and 0.02 for
    `dbscan`. These numbers were chosen on people used only for development, from two datasets: one with few photos a
    person, one with many. The threshold applies to faces of quality 1; `handicaps_of` corrects for poorer faces.
    """
    return calibration.random_threshold(min(_FALSE_PAIRS[method] / max(n, 1), 0.5), quality=1.0)


def pair_threshold_for(calibration: Calibration, n: int) -> float:
    """Return the cosine that two of `n` faces must reach to form a group without a third face.

    It is the similarity at the false match rate f with n · f = 0.01. For 543 faces of 17 group photos, `threshold_for`
    joined eight pairs of different people, all of them groups of two; with this threshold, no such groups are left.
    """
    return calibration.random_threshold(min(_FALSE_PAIRS_OF_TWO / max(n, 1), 0.5), quality=1.0)


def join_groups(
    embeddings: Embeddings,
    groups: Labels,
    threshold: float,
    *,
    pair_threshold: float | None = None,
    photos: npt.ArrayLike | None = None,
    handicaps: npt.ArrayLike | None = None,
) -> Labels:
    """Let faces without a group (−1 in `groups` (N,)) join existing groups, and return the new groups (N,).

    A face joins the most similar group that has no face of the same photo. The similarity is the mean cosine to the
    group's faces. It must be at least `threshold`; if the group has only one face, it must be at least
    `pair_threshold`, if given. Otherwise the face stays without a group. `photos` and `handicaps` (N,) have the same
    meaning as in `cluster`.

    >>> vectors = np.array([[1, 0], [0, 1], [0.8, 0.6], [-1, 0]], np.float32)
    >>> join_groups(vectors, np.array([5, 2, -1, -1]), 0.5).tolist()
    [5, 2, 5, -1]
    """
    joined: Labels = groups.copy()
    ids, places = np.unique(groups[groups >= 0], return_inverse=True)
    if not len(ids):
        return joined
    n = len(embeddings)
    photo = np.arange(n) if photos is None else np.asarray(photos, np.int64)
    less = np.zeros(n, np.float32) if handicaps is None else np.asarray(handicaps, np.float32)
    grouped = np.flatnonzero(groups >= 0)
    sums = np.zeros((len(ids), embeddings.shape[1]), np.float32)
    for start in range(0, len(grouped), _BLOCK):
        np.add.at(sums, places[start : start + _BLOCK], embeddings[grouped[start : start + _BLOCK]])
    counts = np.bincount(places)
    sums /= counts[:, None].astype(np.float32)
    of_groups = (np.bincount(places, weights=less[grouped]) / counts).astype(np.float32)
    held: list[set[int]] = [set() for _ in ids]
    for place, one in zip(places.tolist(), photo[grouped].tolist(), strict=True):
        held[place].add(one)
    to_reach = np.full(len(ids), threshold)  # for each group
    if pair_threshold is not None:
        to_reach[counts == 1] = pair_threshold
    new = np.flatnonzero(groups < 0)
    for start in range(0, len(new), _JOIN_ROWS):
        rows = new[start : start + _JOIN_ROWS]
        taken = np.zeros(len(rows), np.bool_)
        for k, place, mean in _candidates(embeddings[rows], sums, less[rows], of_groups, threshold):
            one = int(photo[rows[k]])
            if not taken[k] and mean >= to_reach[place] and one not in held[place]:
                taken[k] = True
                joined[rows[k]] = ids[place]
                held[place].add(one)
                to_reach[place] = threshold  # the group has at least two faces now
    return joined


def _candidates(
    vectors: Embeddings,
    means: Embeddings,
    handicaps: npt.NDArray[np.float32],
    of_groups: npt.NDArray[np.float32],
    threshold: float,
) -> Iterator[tuple[int, int, float]]:
    """Yield (face, group, mean cosine) where the mean cosine reaches the threshold, a face's most similar group first.

    Faces come in the order of their largest mean cosine, so that of two faces of one photo the more similar one joins.
    """
    found: list[tuple[npt.NDArray[Any], ...]] = []
    for begin in range(0, len(means), _JOIN_COLUMNS):
        columns = slice(begin, begin + _JOIN_COLUMNS)
        tile = vectors @ means[columns].T - handicaps[:, None] - of_groups[columns]
        face, group = np.nonzero(tile >= threshold)
        found.append((face, group + begin, tile[face, group]))
    face, group, mean = (np.concatenate(part) for part in zip(*found, strict=True))
    best = np.full(len(vectors), -np.inf)
    np.maximum.at(best, face, mean)
    order = np.lexsort((group, -mean, face, -best[face]))
    yield from zip(face[order].tolist(), group[order].tolist(), mean[order].tolist(), strict=True)


def largest_first(labels: npt.NDArray[Any]) -> Labels:
    """Renumber groups by size, largest first. If sizes are equal, the group with the earlier face comes first.

    >>> largest_first(np.array([7, 3, 3, 9])).tolist()
    [1, 0, 0, 2]
    """
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank: Labels = np.empty(len(counts), np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    numbered: Labels = rank[inverse.reshape(-1)]
    return numbered


def _split_weak_pairs(
    labels: npt.NDArray[Any], vectors: Embeddings, handicaps: npt.NDArray[np.float32], threshold: float
) -> npt.NDArray[Any]:
    """Split groups of two faces whose cosine, less both handicaps, is below `threshold`."""
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    places = places.reshape(-1)
    of_two = np.flatnonzero(counts[places] == 2)
    first, second = of_two[np.argsort(places[of_two], kind="stable")].reshape(-1, 2).T
    alike = np.empty(len(first), np.float32)
    for start in range(0, len(first), _BLOCK):
        block = slice(start, start + _BLOCK)
        alike[block] = (vectors[first[block]] * vectors[second[block]]).sum(axis=1)
    alike -= handicaps[first] + handicaps[second]
    weak = second[alike < threshold]
    places[weak] = len(counts) + np.arange(len(weak))
    return places


def _connected(graph: SimilarityGraph, photo: Labels) -> Labels:
    """Return groups by single linkage: each pair joins the groups of its two faces, the most similar pair first.

    Two groups with faces of the same photo are not joined.
    """
    groups = DisjointSets(graph.n)
    held = [{int(one)} for one in photo]  # the photos of each group, at its smallest face
    for pair in np.argsort(-graph.similarity, kind="stable"):
        one, other = groups.find(int(graph.first[pair])), groups.find(int(graph.second[pair]))
        if one == other or not held[one].isdisjoint(held[other]):
            continue
        fewer, more = sorted((held[one], held[other]), key=len)
        more |= fewer
        held[one] = held[other] = set()
        held[groups.join(one, other)] = more
    return groups.smallest()


def _agreement(
    labels: npt.NDArray[Any], vectors: Embeddings, handicaps: npt.NDArray[np.float32], threshold: float
) -> float:
    """Return the sum over all pairs within groups of cosine − both handicaps − `threshold`."""
    order = np.argsort(labels, kind="stable")
    begins = np.flatnonzero(np.diff(labels[order], prepend=-1))
    counts = np.diff(begins, append=len(order))
    begins, counts = begins[counts > 1], counts[counts > 1]
    ends = begins + counts
    agreement, first = 0.0, 0
    while first < len(begins):  # as many groups at a time as fit into a block
        last = max(first + 1, int(np.searchsorted(ends, begins[first] + _BLOCK, side="right")))
        size = counts[first:last]
        faces = np.concatenate(
            [order[begin:end] for begin, end in zip(begins[first:last], ends[first:last], strict=True)]
        )
        starts = np.cumsum(size) - size
        sums = np.add.reduceat(vectors[faces], starts, axis=0, dtype=np.float64)
        # The squared length of a group's sum counts each pair twice, and each face with itself.
        cosines = ((sums * sums).sum(axis=1) - size) / 2
        of_handicaps = np.add.reduceat(handicaps[faces], starts, dtype=np.float64) * (size - 1)
        agreement += float((cosines - of_handicaps - threshold * size * (size - 1) / 2).sum())
        first = last
    return agreement


def _average(
    vectors: Embeddings, graph: SimilarityGraph, threshold: float, photo: Labels, handicaps: npt.NDArray[np.float32]
) -> Labels:
    """Return groups by average linkage without the N × N matrix, by nearest-neighbour chains (Murtagh 1983).

    The mean cosine between two groups of unit vectors is the dot product of their sums over the product of their sizes,
    less the mean handicaps of both. Groups that share a photo are never joined.

    If the mean cosine between two groups reaches the threshold, at least one pair of their faces reaches it too, and so
    does at least one pair of the smaller groups that they were joined from. So each group only keeps a list of the
    groups with which its mean cosine reaches the threshold.
    """
    starts, others, _ = graph.neighbours()
    n = graph.n
    sums = vectors.astype(np.float32).copy()  # a group's sum is in the row of its root
    sizes = np.ones(n, np.float64)
    less = handicaps.astype(np.float64)  # a group's mean handicap
    held = [{int(one)} for one in photo]
    root = np.arange(n)
    near: list[npt.NDArray[np.int64] | None] = [None] * n

    def roots(rows: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        while True:
            above = root[rows]
            if np.array_equal(above, rows):
                return rows
            rows = above

    def nearest(group: int) -> tuple[int, float]:
        """Return the most similar group (−1: none) and its mean cosine; forget groups that can no longer be joined."""
        known = near[group]
        rows = others[starts[group] : starts[group + 1]].astype(np.int64) if known is None else known
        rows = np.unique(roots(rows))
        rows = rows[rows != group]
        if not len(rows):
            near[group] = rows
            return -1, -1.0
        means = (sums[rows] @ sums[group]) / (sizes[rows] * sizes[group]) - less[rows] - less[group]
        kept = means >= threshold
        kept &= np.array([held[group].isdisjoint(held[row]) for row in rows])
        near[group] = rows = rows[kept]
        if not len(rows):
            return -1, -1.0
        best = int(means[kept].argmax())
        return int(rows[best]), float(means[kept][best])

    for begin in range(n):
        chain = [begin] if root[begin] == begin and starts[begin] < starts[begin + 1] else []
        while chain:
            group = chain[-1]
            other, mean = nearest(group)
            # This group is the nearest one to the previous group of the chain. If the reverse is also true, up to
            # rounding, the two are joined.
            if len(chain) > 1 and (
                other < 0 or other == chain[-2] or _as_near(sums, sizes, less, group, chain[-2], mean)
            ):
                other = chain[-2]
                del chain[-2:]
                near[other] = np.union1d(near[other], near[group])  # type: ignore[arg-type]
                near[group] = None
                root[group] = other
                sums[other] += sums[group]
                less[other] = (less[other] * sizes[other] + less[group] * sizes[group]) / (sizes[other] + sizes[group])
                sizes[other] += sizes[group]
                held[other] |= held[group]
                if not chain:
                    chain.append(other)
            elif other < 0:
                chain.pop()
            else:
                chain.append(other)
    return roots(np.arange(n))


def _as_near(
    sums: Embeddings,
    sizes: npt.NDArray[np.float64],
    less: npt.NDArray[np.float64],
    group: int,
    before: int,
    mean: float,
) -> bool:
    """Return whether `before`, the chain's previous group, is as near to `group` as its nearest group, up to rounding.

    `mean` is the mean cosine to the nearest group. Without this check, ties could make the chain go round in circles.
    """
    there = float(sums[before] @ sums[group]) / float(sizes[before] * sizes[group]) - float(less[before] + less[group])
    return there >= mean - 1e-6 * abs(mean)
