"""Tests the graph on disk: the groups are those of comparing all pairs, even if it was stopped at any point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from facespace.clustering import algorithms, disk_graph
from facespace.clustering.algorithms import METHODS, cluster
from facespace.clustering.disk_graph import similar_pairs_on_disk
from facespace.clustering.similarity_graph import similar_pairs
from facespace.errors import DatasetError
from support.sphere import people, unit

Options = dict[str, Any]


def crowd(dimension: int = 32) -> tuple[np.ndarray, Options]:
    """300 faces of 50 people, several in each photo, with handicaps."""
    vectors, _ = people(50, 6, dimension=dimension, similarity=0.55, seed=1)
    rng = np.random.default_rng(0)
    options = {"photos": rng.integers(0, 200, 300), "handicaps": rng.uniform(0, 0.04, 300).astype(np.float32)}
    return vectors[rng.permutation(300)], options


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every face visits all buckets, so that no pair is missed; a shard has about forty faces."""
    monkeypatch.setattr(disk_graph, "_VISITS", 1 << 15)
    monkeypatch.setattr(disk_graph, "_SHARD_BYTES", 40 * 4 * 32)


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch, everywhere: None) -> Callable[..., list[int]]:
    def grouped(vectors: np.ndarray, **options: Any) -> list[int]:
        with monkeypatch.context() as patched:
            patched.setattr(algorithms, "_MANY", -1)
            return cluster(vectors, **options).tolist()

    return grouped


def test_the_pairs_are_those_of_comparing_all_with_all(tmp_path, everywhere):
    vectors, options = crowd()
    steps: list[tuple[int, int]] = []
    graph = similar_pairs_on_disk(vectors, 0.35, tmp_path, progress=lambda *step: steps.append(step), **options)
    expected = similar_pairs(vectors, 0.35, **options)
    assert len(steps) == steps[-1][0] == steps[-1][1] > 9
    found = graph.in_memory()
    pairs = dict(zip(zip(found.first.tolist(), found.second.tolist(), strict=True), found.similarity, strict=True))
    slow = dict(
        zip(zip(expected.first.tolist(), expected.second.tolist(), strict=True), expected.similarity, strict=True)
    )
    assert len(pairs) == len(found.first) > 300
    assert pairs == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dimension", [128, 512])
def test_the_groups_are_those_of_comparing_all_with_all(on_disk, method, dimension):
    vectors, options = crowd(dimension)
    options |= {"method": method, "threshold": 0.4, "pair_threshold": 0.5}
    expected = cluster(vectors, **options).tolist()
    assert 20 < len(set(expected)) < 300
    assert on_disk(vectors, **options) == expected


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        (np.empty((0, 8)), []),
        (np.eye(8)[:1], [0]),
        (np.eye(8)[np.zeros(50, int)], [0] * 50),
        (np.eye(8)[:3], [0, 1, 2]),
    ],
)
def test_few_and_equal_faces(on_disk, vectors, expected):
    assert on_disk(vectors.astype(np.float32), threshold=0.5) == expected


def test_what_does_not_fit_is_refused(on_disk, tmp_path):
    with pytest.raises(ValueError, match="rows of length 1"):
        on_disk(np.full((3, 8), np.nan, np.float32), threshold=0.5)
    with pytest.raises(ValueError, match=r"above 0 and at most 1, got 1\.5"):
        on_disk(np.eye(3, dtype=np.float32), threshold=1.5)
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(DatasetError, match="contains other files"):
        on_disk(np.eye(3, dtype=np.float32), threshold=0.5, folder=tmp_path)
    assert (tmp_path / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize(
    "place", ["bucket_centres", "write_shard", "pairs_of_shards", "read_pairs", "whispers", "_agreement"]
)
def test_stopped_at_any_point_it_resumes(tmp_path, monkeypatch, on_disk, place):
    vectors, options = crowd()
    expected = cluster(vectors, threshold=0.4, **options).tolist()
    room: Any = disk_graph if hasattr(disk_graph, place) else algorithms
    whole = getattr(room, place)
    calls: list[int] = []

    def stops_at_second(*arguments: Any, **named: Any) -> Any:
        calls.append(0)
        if len(calls) == 2 or place == "bucket_centres":
            raise KeyboardInterrupt
        return whole(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(room, place, stops_at_second)
        with pytest.raises(KeyboardInterrupt):
            on_disk(vectors, threshold=0.4, folder=tmp_path, **options)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert on_disk(vectors, threshold=0.4, folder=tmp_path, **options) == expected
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert before.items() <= after.items(), "existing files are not written again"
    assert len(after) > len(before)


def test_other_faces_begin_from_the_start(tmp_path, on_disk):
    vectors, options = crowd()
    on_disk(vectors, threshold=0.4, folder=tmp_path, **options)
    other = unit(vectors + np.float32(0.05))
    assert (
        on_disk(other, threshold=0.4, folder=tmp_path, **options) == cluster(other, threshold=0.4, **options).tolist()
    )


def test_missing_stages_are_made_again_and_damaged_ones_are_one_error(tmp_path, everywhere):
    vectors, options = crowd()
    expected = similar_pairs_on_disk(vectors, 0.35, tmp_path, **options)
    for gone in ("starts", "others", "weights"):  # as left by a process that was killed while emptying the folder
        (tmp_path / f"neighbours-{gone}").unlink()
        again = similar_pairs_on_disk(vectors, 0.35, tmp_path, **options)
        assert (again.others == expected.others).all()
    (tmp_path / "buckets.npy").write_bytes(b"xx")
    with pytest.raises(DatasetError, match="its files do not fit together; remove it"):
        similar_pairs_on_disk(vectors, 0.35, tmp_path, **options)


def test_few_buckets_find_nearly_all_people():
    """With 64 buckets, of which a face visits 16, only few faces are in other groups than by comparing all pairs."""
    vectors, owners = people(800, 5, dimension=64, similarity=0.65, seed=3)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(algorithms, "_MANY", -1)
        patched.setattr(disk_graph, "_VISITS", 16)
        labels = cluster(vectors, threshold=0.45)
    pairs = labels.reshape(-1, 5)
    assert (pairs == pairs[:, :1]).all(axis=1).mean() > 0.98
    assert len(set(pairs[:, 0].tolist())) > 790
    assert owners[0] == owners[4]
