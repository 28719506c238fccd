"""Tests Chinese whispers against rounds that visit every node each time."""

from __future__ import annotations

import numpy as np
import pytest

from facespace.clustering import whispers as room
from facespace.clustering.similarity_graph import Neighbours, similar_pairs
from facespace.clustering.whispers import whispers
from support.sphere import people


def every_node(neighbours: Neighbours, photos: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    starts, others, weights = neighbours
    labels = np.arange(len(photos))
    held = [{int(one)} for one in photos]
    for _ in range(20):
        before = labels.copy()
        for node in rng.permutation(np.flatnonzero(np.diff(starts) > 0)):
            span = slice(starts[node], starts[node + 1])
            sums: dict[int, float] = {}
            for group, weight in zip(labels[others[span]].tolist(), weights[span].tolist(), strict=True):
                sums[group] = sums.get(group, 0.0) + weight
            for group in sorted(sums, key=lambda one: (-sums[one], one)):
                if group == labels[node]:
                    break
                if photos[node] not in held[group]:
                    held[labels[node]].discard(int(photos[node]))
                    held[group].add(int(photos[node]))
                    labels[node] = group
                    break
        if (labels == before).all():
            break
    return labels


@pytest.mark.parametrize("n_photos", [60, 200, 100_000])
@pytest.mark.parametrize("many", [4, 128])
def test_skipping_nodes_without_changes_gives_the_same_groups(monkeypatch, n_photos, many):
    monkeypatch.setattr(room, "_MANY", many)
    for seed, similarity in enumerate((0.3, 0.4, 0.5)):
        rng = np.random.default_rng(seed)
        vectors, _ = people(30, 6, dimension=24, similarity=similarity, seed=seed)
        vectors = vectors[rng.permutation(len(vectors))]
        photos = rng.integers(0, n_photos, len(vectors))
        neighbours = similar_pairs(vectors, 0.4, photos=photos).neighbours()
        expected = every_node(neighbours, photos, np.random.default_rng(5))
        assert 10 < len(np.unique(expected)) < len(vectors)
        assert whispers(neighbours, photos, np.random.default_rng(5)).tolist() == expected.tolist()


def test_nodes_may_be_stored_in_another_order():
    from scipy.sparse import csr_array

    vectors, _ = people(30, 6, dimension=24, similarity=0.4)
    rng = np.random.default_rng(1)
    photos = rng.integers(0, 80, len(vectors))
    starts, others, weights = similar_pairs(vectors, 0.4, photos=photos).neighbours()
    expected = whispers((starts, others, weights), photos, np.random.default_rng(5))
    ids = rng.permutation(len(vectors))
    matrix = csr_array((weights, others, starts), shape=(len(vectors),) * 2)[ids][:, ids].tocsr()
    stored = (matrix.indptr.astype(np.int64), matrix.indices, matrix.data)
    found = whispers(stored, photos[ids], np.random.default_rng(5), ids=ids)
    assert found.tolist() == expected[ids].tolist()


@pytest.mark.parametrize("n", [0, 1, 3])
def test_without_pairs_every_face_is_alone(n):
    empty = np.zeros(n + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)
    assert whispers(empty, np.zeros(n, np.int64), np.random.default_rng(0)).tolist() == list(range(n))
