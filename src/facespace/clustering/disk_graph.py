"""The similarity graph of so many faces that its pairs do not fit in memory: found bucket by bucket, stored in files.

The stages are: the buckets of every face; shards of faces; the pairs between every two shards; the neighbours of every
face. Each stage writes files that appear only when complete. Existing files are not computed again, so a stopped process
can resume.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.clustering.buckets import Embeddings, Numbers, bucket_centres, n_buckets_for, nearest_buckets
from facespace.clustering.shards import (
    Shard,
    pairs_of_shards,
    pairs_path,
    read_pairs,
    shard_bounds,
    shard_path,
    write_shard,
)
from facespace.clustering.similarity_graph import Neighbours, SimilarityGraph
from facespace.errors import DatasetError
from facespace.io.files import TEMPORARY, atomic_path, write_bytes
from facespace.io.prefetch import map_ahead
from facespace.io.text import plain_text
from facespace.runtime.blas_threads import one_blas_thread
from facespace.runtime.cores import usable_cores

_FORMAT = 1
_VISITS = 48  # buckets that each face is compared in, including its own
_SHARD_BYTES = 128 << 20  # of vectors; every thread has two shards in memory
_BLOCK = 8192
_KEY, _BUCKETS, _NEIGHBOURS = "inputs.json", "buckets.npy", "neighbours"

Progress = Callable[[int, int], None]
# (folder, N, threshold): writes the pairs of at least this similarity between every two of the N shards in a folder.
# Yields how many of the N² files are done.
PairFinder = Callable[[Path, int, float], Iterator[int]]


@dataclass(frozen=True, slots=True, eq=False)
class DiskGraph:
    """Represents similar pairs of N faces as pairs of nodes. Node k is face `ids[k]`; nodes are sorted by bucket.

    Node k is similar to the nodes `others[starts[k]:starts[k + 1]]`; `weights` are the similarities to `others`. Both
    arrays are mapped from files.
    """

    ids: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    others: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]

    def neighbours(self) -> Neighbours:
        """Return both directions of each pair, node by node."""
        return self.starts, self.others, self.weights

    def in_memory(self) -> SimilarityGraph:
        """Return the same pairs in memory, as pairs of faces instead of nodes."""
        nodes = np.repeat(np.arange(len(self.ids), dtype=np.int32), np.diff(self.starts))
        once = np.flatnonzero(nodes < self.others)
        ids = self.ids.astype(np.int32)
        one, other = ids[nodes[once]], ids[self.others[once]]
        return SimilarityGraph(
            len(ids), np.minimum(one, other), np.maximum(one, other), self.weights[once], whole=False
        )


def pairs_of_all_shards(folder: Path, n_shards: int, threshold: float) -> Iterator[int]:
    """Write the similar pairs of every two shards with threads; yield how many of the `n_shards`² files are done."""

    def find(task: tuple[int, ...]) -> None:
        own, other = task
        pairs_of_shards(folder, own, other, threshold)

    tasks = itertools.product(range(n_shards), repeat=2)
    n_threads = usable_cores()
    with one_blas_thread():
        for done, _ in enumerate(map_ahead(find, tasks, threads=n_threads, ahead=n_threads), 1):
            yield done


def similar_pairs_on_disk(
    embeddings: Embeddings,
    threshold: float,
    folder: Path,
    *,
    handicaps: npt.NDArray[np.float32],
    photos: npt.NDArray[np.int64],
    find_pairs: PairFinder = pairs_of_all_shards,
    progress: Progress | None = None,
) -> DiskGraph:
    """Find similar pairs like `similar_pairs`, but only among faces that share a bucket (`buckets`).

    The memory does not depend on the number of pairs. Embeddings (N,D) may be mapped from a file. `folder` takes about
    4 · N · (D + 27) bytes plus 28 bytes a pair; it is emptied first if it contains files computed from other inputs.
    `find_pairs` finds the pairs between shards, by default with threads; it may use other machines that see the folder.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    if not len(embeddings):
        return DiskGraph(np.empty(0, int), np.zeros(1, int), np.empty(0, np.int32), np.empty(0, np.float32))
    _begin(folder, _key(embeddings, threshold, handicaps, photos))
    buckets = _buckets(folder, embeddings)
    own = np.array(buckets[:, 0])
    ids = np.argsort(own, kind="stable")
    n_rows = max(1, _SHARD_BYTES // (4 * max(1, embeddings.shape[1])))
    bounds = shard_bounds(np.bincount(own, minlength=n_buckets_for(len(own))), n_rows)
    ends = np.searchsorted(own[ids], [end for _, end in bounds])
    begins = np.concatenate([[0], ends])
    for number, (first, end) in enumerate(bounds):
        if shard_path(folder, number).exists():
            continue
        rows = ids[begins[number] : begins[number + 1]]
        shard = Shard(
            int(begins[number]), first, end, embeddings[rows], np.array(buckets[rows]), photos[rows], handicaps[rows]
        )
        write_shard(shard_path(folder, number), shard)
    for done in find_pairs(folder, len(bounds), threshold):
        if progress:
            progress(done, len(bounds) ** 2)
    return DiskGraph(ids, *_neighbours(folder, begins))


def _key(
    embeddings: Embeddings, threshold: float, handicaps: npt.NDArray[np.float32], photos: npt.NDArray[np.int64]
) -> str:
    """Return a digest of everything that the pairs depend on."""
    facts = [_FORMAT, embeddings.shape, threshold, _VISITS, _SHARD_BYTES]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for array in (handicaps, photos, embeddings):
        for start in range(0, len(array), _BLOCK):
            digest.update(np.ascontiguousarray(array[start : start + _BLOCK]).data)
    return digest.hexdigest()


def _begin(folder: Path, key: str) -> None:
    """Make the folder, or empty it if its files were computed from other inputs; `key` is the digest of the inputs.

    Raises `DatasetError` if the folder contains files that this module did not write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = [entry for entry in folder.iterdir() if entry.name != _KEY]
    if (folder / _KEY).is_file():
        if (folder / _KEY).read_bytes() == key.encode():
            return
    elif not all(entry.name.startswith(TEMPORARY) for entry in held):
        raise DatasetError(
            f"{plain_text(str(folder))}: contains other files; give an empty folder, or one that does not exist"
        )
    for entry in held:
        entry.unlink()
    write_bytes(folder / _KEY, key.encode())


def _buckets(folder: Path, embeddings: Embeddings) -> Numbers:
    """Return the buckets (N,V) of every face, mapped from a file."""
    path = folder / _BUCKETS
    n_buckets = n_buckets_for(len(embeddings))
    n_visits = min(_VISITS, n_buckets)
    if not path.exists():
        centres = bucket_centres(embeddings, n_buckets)

        def nearest(start: int) -> Numbers:
            return nearest_buckets(np.asarray(embeddings[start : start + _BLOCK]), centres, n_visits)

        starts = range(0, len(embeddings), _BLOCK)
        n_threads = usable_cores()
        with atomic_path(path) as unfinished, unfinished.open("wb") as file, one_blas_thread():
            for block in map_ahead(nearest, starts, threads=n_threads, ahead=2 * n_threads):
                file.write(np.ascontiguousarray(block).data)
    buckets = _mapped(path, "uint16")
    if buckets.size != len(embeddings) * n_visits:
        raise _inconsistent(folder)
    return buckets.reshape(len(embeddings), n_visits)


def _neighbours(folder: Path, begins: npt.NDArray[np.int64]) -> Neighbours:
    """Return both directions of all pairs, node by node, from the files of pairs."""
    from scipy.sparse import coo_array

    starts, others, weights = (folder / f"{_NEIGHBOURS}-{name}" for name in ("starts", "others", "weights"))
    n, n_shards = int(begins[-1]), len(begins) - 1
    if not (starts.exists() and others.exists() and weights.exists()):  # `starts` is written last
        held = [0]
        with atomic_path(others) as a, atomic_path(weights) as b, a.open("wb") as to_others, b.open("wb") as to_weights:
            for shard in range(n_shards):
                begin, end = int(begins[shard]), int(begins[shard + 1])
                nodes, near, similarity = [], [], []
                for other in range(n_shards):
                    pairs = read_pairs(pairs_path(folder, shard, other))
                    nodes.append(pairs.first)
                    near.append(pairs.second)
                    similarity.append(pairs.similarity)
                    pairs = read_pairs(pairs_path(folder, other, shard))
                    nodes.append(pairs.second)
                    near.append(pairs.first)
                    similarity.append(pairs.similarity)
                places = (np.concatenate(nodes) - begin, np.concatenate(near))
                rows = coo_array((np.concatenate(similarity), places), shape=(end - begin, n)).tocsr()
                to_others.write(rows.indices.astype(np.int32).data)
                to_weights.write(rows.data.astype(np.float32).data)
                held.extend((rows.indptr[1:].astype(np.int64) + held[-1]).tolist())
        with atomic_path(starts) as path, path.open("wb") as file:
            file.write(np.array(held, np.int64).data)
    found = _mapped(starts, "int64")
    arrays = _mapped(others, "int32"), _mapped(weights, "float32")
    if len(found) != n + 1 or any(len(array) != found[-1] for array in arrays):
        raise _inconsistent(folder)
    return np.array(found), arrays[0], arrays[1]


def _inconsistent(folder: Path) -> DatasetError:
    return DatasetError(
        f"{plain_text(str(folder))}: its files do not fit together; remove it, and start the same command again"
    )


def _mapped(path: Path, kind: str) -> npt.NDArray[Any]:
    """Map a file of numbers of type `kind`; return a plain array, because slicing `numpy.memmap` is slower."""
    return np.asarray(np.memmap(path, np.dtype(kind), "r")) if path.stat().st_size else np.empty(0, kind)
