"""Clustering: against SciPy's dense average linkage and slow loops, and the properties of each method."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from facespace.clustering.algorithms import (
    METHODS,
    cluster,
    join_groups,
    largest_first,
    pair_threshold_for,
    threshold_for,
)
from support.calibrations import CALIBRATION
from support.sphere import people, unit


def same_partition(first: np.ndarray, second: np.ndarray) -> bool:
    together = first[:, None] == first[None]
    return bool((together == (second[:, None] == second[None])).all())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.2, 0.4, 0.6])
def test_average_linkage_is_scipys(seed, threshold):
    vectors, _ = people(12, 8, dimension=24, similarity=0.45, seed=seed)
    dense = fcluster(linkage(vectors.astype(np.float64), "average", metric="cosine"), 1 - threshold, "distance")
    assert same_partition(cluster(vectors, method="average", threshold=threshold), dense)


def test_average_linkage_with_ties():
    """All similarities are equal: any order is correct, but the chain must not run in a cycle."""
    axes = np.eye(6, dtype=np.float32)
    ring = unit(axes + np.roll(axes, 1, axis=0))
    labels = cluster(np.concatenate([ring, ring, ring]), method="average", threshold=0.45)
    assert np.bincount(labels).sum() == 18
    assert same_partition(labels, np.tile(labels[:6], 3))


@pytest.mark.parametrize("method", METHODS)
def test_people_far_apart_get_different_groups(method):
    vectors, owners = people(30, 6, dimension=128, similarity=0.75)
    order = np.random.default_rng(0).permutation(len(owners))
    labels = cluster(vectors[order], method=method, threshold=0.55)
    assert same_partition(labels, owners[order])


@pytest.mark.parametrize("method", METHODS)
def test_a_hundred_times_the_same_face(method):
    vectors = np.repeat(unit(np.ones((1, 32))), 100, axis=0)
    assert (cluster(vectors, method=method, threshold=0.5) == 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [0, 1])
def test_nothing_and_one(method, n):
    assert cluster(np.eye(8, dtype=np.float32)[:n], method=method, threshold=0.5).tolist() == [0] * n


def test_dbscan_chains_and_average_does_not():
    angles = np.deg2rad(np.arange(0, 91, 15))
    fan = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert cluster(fan, method="dbscan", threshold=0.9).max() == 0
    assert cluster(fan, method="average", threshold=0.9).max() > 0


def test_whispers_against_a_loop():
    """Five runs by loops, of which the one with the largest sum of cosine - handicaps - 0.4 within groups is kept."""
    vectors, _ = people(12, 5, dimension=16, similarity=0.4)
    handicaps = np.random.default_rng(1).uniform(0, 0.05, len(vectors)).astype(np.float32)
    similarity = vectors @ vectors.T - handicaps - handicaps[:, None]
    np.fill_diagonal(similarity, 0)
    rng = np.random.default_rng(3)
    alike = [k for k in range(len(vectors)) if (similarity[k] >= 0.5).any()]
    drawn = []
    for _ in range(5):
        labels = list(range(len(vectors)))
        for _ in range(20):
            before = labels.copy()
            for node in rng.permutation(alike):
                weights: dict[int, float] = {}
                for other in range(len(vectors)):
                    if similarity[node, other] >= 0.5:
                        weights[labels[other]] = weights.get(labels[other], 0.0) + similarity[node, other]
                best = max(weights, key=lambda group: weights[group])
                labels[node] = best if weights[best] > weights.get(labels[node], 0.0) else labels[node]
            if labels == before:
                break
        agreement = sum(similarity[k, j] - 0.4 for k in range(len(labels)) for j in range(k) if labels[k] == labels[j])
        drawn.append((agreement, labels))
    best_draw = max(range(5), key=lambda draw: drawn[draw][0])
    assert 0 < best_draw < 4 and drawn[best_draw][0] > max(drawn[0][0], drawn[-1][0]) + 0.05, drawn
    found = cluster(vectors, method="whispers", threshold=0.5, seed=3, handicaps=handicaps)
    assert same_partition(found, np.array(max(drawn)[1]))


def test_groups_are_numbered_by_size():
    assert largest_first(np.array([5, 2, 2, 9, 9, 9])).tolist() == [2, 1, 1, 0, 0, 0]
    assert largest_first(np.array([4, 1])).tolist() == [0, 1], "of equal sizes the first"
    assert largest_first(np.empty(0, np.int64)).tolist() == []


def test_more_faces_need_a_higher_threshold():
    found = [threshold_for(CALIBRATION, n, "average") for n in (1, 10, 1000, 100_000)]
    assert found == sorted(found)
    assert found[0] < found[-1]
    assert CALIBRATION.match_threshold(0.5 / 1000) == found[2]
    assert (
        threshold_for(CALIBRATION, 1000, "average")
        < threshold_for(CALIBRATION, 1000)
        < threshold_for(CALIBRATION, 1000, "dbscan")
    )


@pytest.mark.parametrize(
    ("vectors", "options", "words"),
    [
        (
            np.eye(3, dtype=np.float32),
            {"method": "magic", "threshold": 0.5},
            "method must be one of average, whispers, dbscan",
        ),
        (np.eye(3, dtype=np.float32), {"threshold": 0.0}, "above 0 and at most 1, got 0.0"),
        (np.eye(3, dtype=np.float32), {"threshold": 1.5}, "above 0 and at most 1, got 1.5"),
        (np.ones((2, 3), np.float32), {"threshold": 0.5}, "rows of length 1"),
        (np.full((2, 3), np.nan, np.float32), {"threshold": 0.5}, "rows of length 1"),
    ],
)
def test_invalid_arguments_are_refused(vectors, options, words):
    with pytest.raises(ValueError, match=words):
        cluster(vectors, **options)


def test_new_faces_join_old_groups_and_old_ones_stay():
    vectors, owners = people(4, 6, dimension=64, similarity=0.7)
    groups = np.where(np.arange(24) % 6 < 3, owners * 10, -1)
    groups[owners == 3] = -1  # a person never seen before
    joined = join_groups(vectors, groups, 0.5)
    assert (joined[owners < 3] == owners[owners < 3] * 10).all()
    assert (joined[owners == 3] == -1).all()
    assert (join_groups(vectors, np.full(24, -1), 0.5) == -1).all()


def on_circle(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_two_faces_alone_must_be_more_similar_than_three(method: str) -> None:
    """Pairs 25 degrees apart (cosine 0.906): one alone, and one with a third face in between."""
    vectors = on_circle(0, 25, 100, 112.5, 125, 200, 210)
    loose = cluster(vectors, method=method, threshold=0.9).tolist()
    assert loose == [1, 1, 0, 0, 0, 2, 2]
    strict = cluster(vectors, method=method, threshold=0.9, pair_threshold=0.95).tolist()
    assert strict == [2, 3, 0, 0, 0, 1, 1], "10 degrees are near enough"


def test_handicaps_count_for_two_faces_alone() -> None:
    vectors = on_circle(0, 10)
    for handicap, groups in ((0.0, [0, 0]), (0.02, [0, 1])):  # cosine 0.985
        found = cluster(vectors, threshold=0.9, pair_threshold=0.95, handicaps=[handicap] * 2)
        assert found.tolist() == groups


def test_a_face_joins_a_single_one_only_as_a_pair() -> None:
    vectors = on_circle(0, 25, 100, 112, 125, 24)
    groups = np.array([7, -1, 5, 5, -1, -1])
    assert join_groups(vectors, groups, 0.9).tolist() == [7, 7, 5, 5, 5, 7]
    assert join_groups(vectors, groups, 0.9, pair_threshold=0.95).tolist() == [7, -1, 5, 5, 5, -1]
    near = on_circle(0, 25, 100, 112, 125, 10)  # with two faces in the group the third needs less
    assert join_groups(near, groups, 0.9, pair_threshold=0.95).tolist() == [7, 7, 5, 5, 5, 7]


def test_the_threshold_of_two_faces_alone_is_the_higher_one() -> None:
    for n in (2, 500, 100_000):
        assert pair_threshold_for(CALIBRATION, n) > threshold_for(CALIBRATION, n)


def test_joining_does_not_depend_on_how_groups_are_put_into_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, owners = people(40, 6, dimension=24, similarity=0.5, seed=2)
    rng = np.random.default_rng(0)
    groups = np.where(rng.random(240) < 0.5, owners, -1)
    options = {"pair_threshold": 0.5, "photos": rng.integers(0, 90, 240), "handicaps": rng.uniform(0, 0.1, 240)}
    expected = join_groups(vectors, groups, 0.3, **options)
    assert 20 < (expected != groups).sum() < (groups < 0).sum()
    monkeypatch.setattr("facespace.clustering.algorithms._JOIN_COLUMNS", 7)
    monkeypatch.setattr("facespace.clustering.algorithms._BLOCK", 11)
    assert join_groups(vectors, groups, 0.3, **options).tolist() == expected.tolist()
