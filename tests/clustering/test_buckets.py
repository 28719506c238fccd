"""Tests buckets against slow loops: the nearest centres, and centres that lie among the faces."""

from __future__ import annotations

import numpy as np

from facespace.clustering.buckets import bucket_centres, n_buckets_for, nearest_buckets
from support.sphere import people, unit


def test_the_nearest_centres_come_first():
    vectors, _ = people(10, 4, dimension=16)
    centres = unit(np.random.default_rng(1).standard_normal((12, 16)))
    similarity = vectors @ centres.T
    expected = [sorted(range(12), key=lambda k: -row[k])[:5] for row in similarity]
    assert nearest_buckets(vectors, centres, 5).tolist() == expected
    assert nearest_buckets(vectors, centres, 1)[:, 0].tolist() == [row[0] for row in expected]
    assert nearest_buckets(vectors, centres, 12).shape == (40, 12)
    assert nearest_buckets(vectors[:0], centres, 3).shape == (0, 3)


def test_centres_are_the_directions_of_the_faces():
    vectors, owners = people(8, 200, dimension=32, similarity=0.9)
    order = np.random.default_rng(0).permutation(len(owners))
    centres = bucket_centres(vectors[order], 64)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)
    bucket = nearest_buckets(vectors, centres, 1)[:, 0]
    for k in np.unique(bucket):
        assert len(set(owners[bucket == k].tolist())) == 1, "no bucket mixes people who are far apart"
    np.testing.assert_array_equal(centres, bucket_centres(vectors[order], 64))


def test_few_and_equal_faces_have_centres_too():
    for vectors in (np.eye(4, dtype=np.float32)[:1], np.eye(4, dtype=np.float32)[np.zeros(9, int)]):
        centres = bucket_centres(vectors, 4)
        assert centres.shape == (4, 4)
        assert nearest_buckets(vectors, centres, 2)[:, 0].max() == 0


def test_the_number_of_buckets():
    assert [n_buckets_for(n) for n in (1, 16, 10**12)] == [2, 4, 1 << 15]
