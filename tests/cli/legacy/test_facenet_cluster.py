"""The tutorials' cluster: the crops of each person in one folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import facespace
from support.commands import Outcome
from support.tutorial_people import write_photos

Cli = Callable[..., Outcome]


@pytest.fixture
def album(
    tmp_path: Path, hopper_file: Path, collins_file: Path, cat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Three photos of one person, two of another, and one without a face, all in one folder."""
    monkeypatch.chdir(tmp_path)
    root = write_photos(tmp_path / "by name", {"b_Grace": hopper_file, "a_Eileen": collins_file}, 3)
    (root / "a_Eileen" / "a_Eileen_0003.jpg").unlink()
    album = tmp_path / "album"
    album.mkdir()
    for path in root.glob("*/*.jpg"):
        path.rename(album / path.name)
    (album / "cat.png").write_bytes(cat_file.read_bytes())
    return album


def test_cluster(cli: Cli, album: Path, embedder: facespace.Embedder) -> None:
    done = cli(
        "facenet", "cluster", "casia-webface", "album", "out", "--image_size", "160", "--gpu_memory_fraction", "1.0"
    )
    assert done.code == 0, done.err
    assert done.lines[:3] == ["Images:", "0: album/a_Eileen_0001.jpg", "1: album/a_Eileen_0002.jpg"]
    assert done.lines[7] == "Distance matrix" and len(done.lines[9:14]) == 5
    assert done.lines[15:] == ["No of clusters: 2", "Cluster 0: [2, 3, 4]", "Cluster 1: [0, 1]", "Saving all clusters"]
    assert sorted(str(path) for path in Path("out").glob("*/*")) == [
        "out/0/1.png", "out/0/2.png", "out/0/3.png", "out/1/1.png", "out/1/2.png",
    ]  # fmt: skip
    crop = facespace.read("out/1/1.png")
    assert crop.shape == (160, 160, 3)
    assert (
        "facespace: equivalent command: facespace cluster album --output out --method dbscan --threshold 0.5"
        in done.err
    )
    again = cli("facenet", "cluster", "casia-webface", "album", "out")
    assert again.code == 1 and "out: must be empty" in again.errors[-1]


def test_only_the_largest_group_and_a_minimum_size(cli: Cli, album: Path) -> None:
    done = cli(
        "facenet", "cluster", "casia-webface", "album", "out", "--largest_cluster_only", "--min_cluster_size", "3"
    )
    assert done.code == 0, done.err
    assert done.lines[-3:] == ["No of clusters: 1", "Cluster 0: [2, 3, 4]", "Saving largest cluster (Cluster: 0)"]
    assert sorted(path.name for path in Path("out").iterdir()) == ["1.png", "2.png", "3.png"]
    none = cli("facenet", "cluster", "casia-webface", "album", "none", "--min_cluster_size", "9")
    assert none.code == 0 and none.lines[-1] == "No of clusters: 0" and not Path("none").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nowhere", "out"], "nowhere: no such folder of photos"),
        (["album", "out", "--cluster_threshold", "1.5"], "--cluster_threshold must be above 0 and below 1.4142"),
    ],
)
def test_a_mistake_is_one_line(cli: Cli, album: Path, words: list[str], complaint: str) -> None:
    done = cli("facenet", "cluster", "casia-webface", *words)
    assert done.code == 1 and complaint in done.errors[-1]
