"""Overlapping buckets of faces: similar faces share a bucket, so not all pairs have to be compared.

A bucket is the part of the sphere that is nearest to one of K centres. Every face belongs to the bucket of its nearest
centre, and visits the buckets of the next nearest ones. Two faces are compared if one of them visits the other's bucket,
or if both belong to the same bucket.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from facespace.metrics.unit_vectors import to_unit_length

Embeddings = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.uint16]

_SAMPLE = 64  # sampled faces per centre
_ROUNDS = 8
_MOST = 1 << 15


def n_buckets_for(n: int) -> int:
    """Return the number of buckets for n faces: the power of two nearest to √n, from 2 to 32,768.

    This balances two kinds of work: finding the centres nearest to each face, which takes longer with more buckets, and
    comparing the faces within buckets, which takes less time.

    >>> [n_buckets_for(n) for n in (0, 100_000, 1_000_000, 10_000_000)]
    [2, 256, 1024, 4096]
    """
    return min(_MOST, max(2, 1 << round(math.log2(max(n, 1)) / 2)))


def bucket_centres(embeddings: Embeddings, n_buckets: int) -> Embeddings:
    """Compute centres (K,D) of length 1 by spherical k-means (Dhillon and Modha 2001) on a sample of the faces (N,D).

    Which faces are sampled, and which of them are the initial centres, depends on N and K alone. A centre that is not
    the nearest of any face does not move.
    """
    rng = np.random.default_rng(0)
    n_sample = min(len(embeddings), _SAMPLE * n_buckets)
    sample = np.array(embeddings[np.sort(rng.choice(len(embeddings), n_sample, replace=False))])
    centres = sample[rng.choice(n_sample, n_buckets, replace=n_sample < n_buckets)]
    for _ in range(_ROUNDS):
        nearest = nearest_buckets(sample, centres, 1)[:, 0]
        order = np.argsort(nearest, kind="stable")
        held, begins = np.unique(nearest[order], return_index=True)
        centres[held] = np.add.reduceat(sample[order], begins, axis=0)
        centres = to_unit_length(centres)
    return centres


def nearest_buckets(embeddings: Embeddings, centres: Embeddings, n: int) -> Numbers:
    """Return the indices (N,n) of the n nearest centres (K,D) of each face (N,D), nearest first.

    >>> axes = np.eye(3, dtype=np.float32)
    >>> nearest_buckets(np.array([[0.0, 0.6, 0.8]], np.float32), axes, 2).tolist()
    [[2, 1]]
    """
    found = np.empty((len(embeddings), n), np.uint16)
    rows = max(1, (1 << 22) // len(centres))
    for start in range(0, len(embeddings), rows):
        block = embeddings[start : start + rows] @ centres.T
        if n == 1:
            found[start : start + rows, 0] = block.argmax(axis=1)
            continue
        near = np.sort(np.argpartition(-block, n - 1, axis=1)[:, :n], axis=1)
        order = np.argsort(-np.take_along_axis(block, near, axis=1), axis=1, kind="stable")
        found[start : start + rows] = np.take_along_axis(near, order, axis=1)
    return found
