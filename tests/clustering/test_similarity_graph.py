"""Tests the pairs of similar faces against a slow loop over all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from facespace.clustering import similarity_graph
from facespace.clustering.algorithms import METHODS, cluster
from facespace.clustering.similarity_graph import SimilarityGraph, similar_pairs
from support.sphere import people, unit


def tiles_of(monkeypatch: pytest.MonkeyPatch, rows: int, columns: int) -> None:
    monkeypatch.setattr(similarity_graph, "_ROWS", rows)
    monkeypatch.setattr(similarity_graph, "_COLUMNS", columns)


def crowded_above(monkeypatch: pytest.MonkeyPatch, dense: int, most: int) -> None:
    monkeypatch.setattr(similarity_graph, "_DENSE", dense)
    monkeypatch.setattr(similarity_graph, "_MOST", most)


def slow_pairs(vectors: np.ndarray, threshold: float) -> dict[tuple[int, int], float]:
    found = {}
    for i in range(len(vectors)):
        for j in range(i + 1, len(vectors)):
            cosine = sum(float(a) * float(b) for a, b in zip(vectors[i], vectors[j], strict=True))
            if cosine >= threshold:
                found[i, j] = cosine
    return found


def pairs_of(graph: SimilarityGraph) -> dict[tuple[int, int], float]:
    pairs = list(zip(graph.first.tolist(), graph.second.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs), "a pair is listed once"
    return dict(zip(pairs, graph.similarity.tolist(), strict=True))


@pytest.mark.parametrize(("rows", "columns"), [(7, 16), (16, 16), (5, 5), (1, 3), (48, 48), (64, 100), (10, 64)])
def test_pairs_against_all_of_them(monkeypatch, rows, columns):
    tiles_of(monkeypatch, rows, columns)
    vectors, _ = people(8, 6, dimension=16, similarity=0.5)
    graph = similar_pairs(vectors, 0.4)
    expected = slow_pairs(vectors, 0.4)
    assert len(expected) > 50
    found = pairs_of(graph)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-6)
    assert graph.n == 48
    assert graph.whole
    assert (graph.first.dtype, graph.second.dtype, graph.similarity.dtype) == (np.int32, np.int32, np.float32)


def test_a_similarity_of_the_threshold_is_enough():
    vectors = np.array([[1, 0, 0], [0.5, 0.5, np.sqrt(0.5)], [0, 0, -1]], np.float32)
    assert pairs_of(similar_pairs(vectors, 0.5)) == {(0, 1): 0.5}
    assert pairs_of(similar_pairs(vectors, 0.500001)) == {}


def test_equal_faces_are_alike_at_one():
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 0, 0]]
    assert pairs_of(similar_pairs(vectors, 1.0)) == {(0, 2): 1.0, (0, 3): 1.0, (2, 3): 1.0}


@pytest.mark.parametrize("n", [0, 1])
def test_no_pairs_without_two_faces(n):
    graph = similar_pairs(np.eye(8, dtype=np.float32)[:n], 0.5)
    assert (graph.n, len(graph.first), len(graph.second), len(graph.similarity), graph.whole) == (n, 0, 0, 0, True)
    starts, others, similarity = graph.neighbours()
    assert (starts.tolist(), len(others), len(similarity)) == ([0] * (n + 1), 0, 0)


def test_progress_counts_every_tile(monkeypatch):
    tiles_of(monkeypatch, 7, 16)
    steps = []
    similar_pairs(people(8, 6)[0], 0.4, progress=lambda done, total: steps.append((done, total)))
    # Rows 0, 7 and 14 cross all three columns of tiles, 21 and 28 the last two, 35 and 42 the last one.
    assert steps == [(k, 15) for k in range(1, 16)]


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01, float("nan")])
def test_a_threshold_outside_its_range_is_refused(threshold):
    with pytest.raises(ValueError, match=str(threshold)):
        similar_pairs(np.eye(2, dtype=np.float32), threshold)


@pytest.mark.parametrize(("rows", "columns"), [(120, 120), (32, 64), (30, 30)])
def test_crowded_faces_keep_their_most_similar(monkeypatch, rows, columns):
    """If a tile has more than 10 pairs a row, each of its rows keeps the 6 most similar later faces."""
    tiles_of(monkeypatch, rows, columns)
    crowded_above(monkeypatch, 10, 6)
    vectors, _ = people(3, 40, dimension=64, similarity=0.8)
    graph = similar_pairs(vectors, 0.5)
    everything = slow_pairs(vectors, 0.5)
    expected = {}
    n_crowded = 0
    for row in range(0, 120, rows):
        for column in range(0, 120, columns):
            tile = {
                (i, j): cosine
                for (i, j), cosine in everything.items()
                if row <= i < row + rows and column <= j < column + columns
            }
            if len(tile) > 10 * len(range(row, min(row + rows, 120))):
                n_crowded += 1
                tile = {
                    pair: tile[pair]
                    for i in range(row, row + rows)
                    for pair in sorted((pair for pair in tile if pair[0] == i), key=lambda pair: -tile[pair])[:6]
                }
            expected |= tile
    assert n_crowded
    assert len(expected) < len(everything)
    assert not graph.whole
    found = pairs_of(graph)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [11, 12])
def test_the_limit_of_pairs_a_row(monkeypatch, n):
    """n equal faces have (n − 1) / 2 pairs a row: 5 of 11 faces are not more than 5, 5.5 of 12 are."""
    crowded_above(monkeypatch, 5, 3)
    graph = similar_pairs(np.eye(4, dtype=np.float32)[np.zeros(n, int)], 0.5)
    assert graph.whole == (n == 11)
    # The last three faces have 2, 1 and 0 later ones; the others keep 3 of theirs.
    assert len(graph.first) == (55 if n == 11 else 3 * 9 + 2 + 1)


def test_neighbours_are_both_directions():
    vectors = unit(np.random.default_rng(1).standard_normal((30, 4)))
    graph = similar_pairs(vectors, 0.7)
    expected = slow_pairs(vectors, 0.7)
    starts, others, similarity = graph.neighbours()
    assert starts.shape == (31,)
    assert len(others) == 2 * len(expected)
    for k in range(30):
        span = slice(starts[k], starts[k + 1])
        slow = {i + j - k: cosine for (i, j), cosine in expected.items() if k in (i, j)}
        assert dict(zip(others[span].tolist(), similarity[span].tolist(), strict=True)) == pytest.approx(slow, abs=1e-6)


def test_crowded_faces_stay_one_group(monkeypatch):
    crowded_above(monkeypatch, 13, 12)
    vectors, owners = people(3, 40, dimension=64, similarity=0.8)
    graph = similar_pairs(vectors, 0.5)
    assert not graph.whole
    assert len(graph.first) <= 12 * len(vectors)
    for method in METHODS:
        labels = cluster(vectors, method=method, threshold=0.5)
        assert ((labels[:, None] == labels) == (owners[:, None] == owners)).all()
