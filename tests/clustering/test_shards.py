"""Tests the pairs between shards against a slow loop over the same buckets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facespace.clustering import shards as room
from facespace.clustering.buckets import bucket_centres, nearest_buckets
from facespace.clustering.shards import (
    Shard,
    pairs_of_shards,
    pairs_path,
    read_pairs,
    read_shard,
    shard_bounds,
    shard_path,
    write_shard,
)
from facespace.errors import DatasetError
from facespace.io.tensor_file import write_tensor_file
from support.sphere import people


def written(folder: Path, n_visits: int) -> Shard:
    """Write three shards of 240 faces in 16 buckets, and return all faces as one shard."""
    vectors, _ = people(40, 6, dimension=16, similarity=0.5)
    buckets = nearest_buckets(vectors, bucket_centres(vectors, 16), n_visits)
    order = np.argsort(buckets[:, 0], kind="stable")
    rng = np.random.default_rng(2)
    photos, handicaps = rng.integers(0, 150, 240), rng.uniform(0, 0.1, 240).astype(np.float32)
    whole = Shard(0, 0, 16, vectors[order], buckets[order], photos, handicaps)
    own = whole.buckets[:, 0]
    for number, (first, end) in enumerate([(0, 5), (5, 6), (6, 16)]):
        rows = (own >= first) & (own < end)
        parts = (whole.vectors[rows], whole.buckets[rows], photos[rows], handicaps[rows])
        write_shard(shard_path(folder, number), Shard(int(np.argmax(rows)), first, end, *parts))
    return whole


@pytest.mark.parametrize("n_visits", [1, 3, 16])
@pytest.mark.parametrize(("rows", "columns"), [(1024, 8192), (7, 5)])
def test_pairs_that_share_a_bucket_are_found_once(tmp_path, monkeypatch, n_visits, rows, columns):
    monkeypatch.setattr(room, "_ROWS", rows)
    monkeypatch.setattr(room, "_COLUMNS", columns)
    whole = written(tmp_path, n_visits)
    expected = {}
    for i in range(240):
        for j in range(i + 1, 240):
            meet = whole.buckets[i, 0] in whole.buckets[j] or whole.buckets[j, 0] in whole.buckets[i]
            similarity = float(whole.vectors[i] @ whole.vectors[j] - whole.handicaps[i] - whole.handicaps[j])
            if meet and similarity >= 0.3 and whole.photos[i] != whole.photos[j]:
                expected[i, j] = similarity
    found = []
    for own in range(3):
        for other in range(3):
            pairs_of_shards(tmp_path, own, other, 0.3)
            pairs = read_pairs(pairs_path(tmp_path, own, other))
            found += zip(pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), strict=True)
    assert len(found) == len(expected) > 100
    assert {tuple(sorted((i, j))): s for i, j, s in found} == pytest.approx(expected, abs=1e-5)


def test_existing_files_are_not_computed_again(tmp_path):
    written(tmp_path, 3)
    pairs_path(tmp_path, 0, 1).write_bytes(b"")
    pairs_of_shards(tmp_path, 0, 1, 0.3)
    assert pairs_path(tmp_path, 0, 1).read_bytes() == b""
    with pytest.raises(DatasetError, match="cut short; remove the folder it is in"):
        read_pairs(pairs_path(tmp_path, 0, 1))
    whole = read_shard(shard_path(tmp_path, 1))
    assert (whole.first_bucket, whole.end_bucket) == (5, 6)


@pytest.mark.parametrize(("columns", "kept"), [(8192, 5), (20, 2 * 2)])
def test_a_face_of_a_crowded_bucket_keeps_its_most_similar(tmp_path, monkeypatch, columns, kept):
    """40 faces of one person: each keeps 5 pairs in its bucket, or 2 in each of two parts of the bucket."""
    monkeypatch.setattr(room, "_MOST", 5)
    monkeypatch.setattr(room, "_COLUMNS", columns)
    vectors, _ = people(1, 40, dimension=16, similarity=0.8)
    one = Shard(0, 0, 1, vectors, np.zeros((40, 1), np.uint16), np.arange(40), np.zeros(40, np.float32))
    write_shard(shard_path(tmp_path, 0), one)
    pairs_of_shards(tmp_path, 0, 0, 0.3)
    pairs = read_pairs(pairs_path(tmp_path, 0, 0))
    for face in range(40):
        held = sorted(pairs.first[pairs.second == face].tolist())
        similarity = vectors @ vectors[face]
        if columns > 40:
            later = sorted(range(face + 1, 40), key=lambda k: -similarity[k])
            assert held == sorted(later[:kept])
        assert len(held) <= kept


def test_shards_are_whole_buckets():
    assert shard_bounds(np.array([2, 0, 0]), 1) == [(0, 1), (1, 3)]
    assert shard_bounds(np.array([0, 0]), 5) == [(0, 2)]


@pytest.mark.parametrize("kind", ["cluster shard", "list of pairs"])
@pytest.mark.parametrize("arrays", [{}, {"other": np.zeros(3)}])
def test_a_file_with_other_arrays_is_one_error(tmp_path, kind, arrays):
    write_tensor_file(tmp_path / "file", kind, arrays, {})
    with pytest.raises(DatasetError, match=f"file: a damaged {kind} .*remove the folder it is in"):
        (read_shard if kind == "cluster shard" else read_pairs)(tmp_path / "file")


def test_pairs_of_several_lengths_are_one_error(tmp_path):
    arrays = {"first": np.zeros(3, np.int32), "second": np.zeros(2, np.int32), "similarity": np.zeros(3, np.float32)}
    write_tensor_file(tmp_path / "file", "list of pairs", arrays, {})
    with pytest.raises(DatasetError, match=r"damaged list of pairs \(its arrays have different lengths\)"):
        read_pairs(tmp_path / "file")
