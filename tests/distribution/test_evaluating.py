"""`verify` in parts against `verify` by one process: the same figures and the same report."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.cli.shared import distributed
from facespace.datasets.pairs.pair_sets import PairSource
from facespace.distribution.evaluating import EvaluatingWork, begin, finish
from facespace.distribution.parts import compute_parts
from facespace.distribution.storage import Folder
from facespace.embedding.embedder import Embedder
from facespace.errors import DatasetError, ModelError
from support.commands import Outcome

Cli = Callable[..., Outcome]


@pytest.fixture
def album(tmp_path: Path, hopper_file: Path, collins_file: Path, cat_file: Path) -> Path:
    """Two people, a photo without a face, and one that cannot be read."""
    folder = tmp_path / "images"
    for name, file in (
        ("Grace/Grace_0001.jpg", hopper_file), ("Grace/Grace_0002.jpg", hopper_file),
        ("Eileen/Eileen_0001.png", collins_file), ("Cat/Cat_0001.png", cat_file),
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / name)
    (folder / "Grace" / "Grace_0003.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text(
        "a,b,same\nGrace/Grace_0001.jpg,Grace/Grace_0002.jpg,1\nGrace/Grace_0001.jpg,Eileen/Eileen_0001.png,0\n"
        "Grace/Grace_0002.jpg,Cat/Cat_0001.png,0\nGrace/Grace_0001.jpg,Grace/Grace_0003.jpg,1\n"
    )
    return path


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --ray this process computes the parts, one photo in each; batches have one photo too."""
    monkeypatch.setattr(distributed, "connected", lambda ray: contextlib.nullcontext())
    for name in ("distribution.evaluating.PER_PART", "evaluation.pairs.BATCH", "pipeline.face_batches.IMAGES_IN_PART"):
        monkeypatch.setattr(f"facespace.{name}", 1)


def work(folder: Path, source: PairSource, **changes: Any) -> EvaluatingWork:
    settings: dict[str, Any] = {
        "model": "sface", "fingerprint": Embedder.load("sface").fingerprint, "device": "auto", "flip": "none", "thumbnails": False,
    }  # fmt: skip
    return EvaluatingWork(Folder(str(folder)), source, **{**settings, **changes})


@pytest.mark.usefixtures("in_this_process")
def test_figures_and_report_are_those_of_one_process(cli: Cli, album: Path, pairs: Path, tmp_path: Path) -> None:
    lists = ("pairs", pairs, "--root", album, "--threshold-from", pairs, "--flip", "add")
    alone = cli("verify", *lists, "--output", tmp_path / "alone")
    parts = cli("verify", *lists, "--output", tmp_path / "parts", "--ray", "local")
    assert (alone.code, parts.code) == (0, 0), parts.err
    assert parts.lines[:-1] == alone.lines[:-1]
    assert "  no face     Cat/Cat_0001.png: no face found" in parts.lines
    for report in ("report.json", "report.html"):
        ours, theirs = ((tmp_path / out / report).read_bytes() for out in ("parts", "alone"))
        assert ours == theirs
    assert not list((tmp_path / "parts").glob(".*"))


@pytest.mark.usefixtures("in_this_process")
def test_binary_pairs_in_parts(cli: Cli, album: Path, tmp_path: Path) -> None:
    assert cli("align", album, tmp_path / "crops", "--model", "sface").code == 1  # of the photo that cannot be read
    crops = [(tmp_path / "crops" / name).read_bytes() for name in ("Grace/Grace_0001.png", "Eileen/Eileen_0001.png")]
    (tmp_path / "a.bin").write_bytes(pickle.dumps(([*crops, crops[0], crops[0]], [False, True]), protocol=2))
    alone = cli("verify", "bin", tmp_path / "a.bin", "--json", "--allow-missing")
    parts = cli("verify", "bin", tmp_path / "a.bin", "--json", "--allow-missing", "--ray", "local")
    assert (alone.code, parts.code) == (0, 0), parts.err
    assert json.loads(parts.out) == json.loads(alone.out)


def test_a_cluster_needs_a_folder(cli: Cli, album: Path, pairs: Path) -> None:
    refused = cli("verify", "pairs", pairs, "--root", album, "--ray", "auto")
    assert (refused.code, "needs --output DIR, a folder that every node can access" in refused.err) == (2, True)


@pytest.mark.usefixtures("in_this_process")
def test_a_stopped_run_computes_what_is_missing(
    album: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PairSource(pairs, "csv", album)
    evaluating = work(tmp_path / "parts", source)
    embedder = Embedder.load("sface")
    photos = source.read(embedder.spec)
    plan = begin(evaluating, photos)
    first = compute_parts(evaluating, plan)
    assert [next(first), next(first), next(first)] == [0, 1, 2]
    again = begin(evaluating, photos)
    assert again == plan
    assert list(compute_parts(evaluating, again)) == [2, 3, 4, 5]
    seen = finish(evaluating, plan, photos, embedder.dimension)
    np.testing.assert_array_equal(np.linalg.norm(seen.embeddings, axis=1) > 0.5, [True, True, True, False, False])
    assert sorted(seen.failed) == [3, 4]
    assert seen.thumbnails == {}


@pytest.mark.usefixtures("in_this_process")
def test_workers_must_see_the_same(album: Path, pairs: Path, tmp_path: Path) -> None:
    source = PairSource(pairs, "csv", album)
    photos = source.read(Embedder.load("sface").spec)
    other_model = work(tmp_path / "a", source, fingerprint="other")
    with pytest.raises(ModelError, match="a worker has a different model"):
        list(compute_parts(other_model, begin(other_model, photos)))
    copy = tmp_path / "copy"
    shutil.copytree(album, copy)
    elsewhere = work(tmp_path / "b", PairSource(pairs, "csv", copy))
    plan = begin(elsewhere, photos)
    (copy / "Grace" / "Grace_0001.jpg").unlink()
    with pytest.raises(DatasetError, match="a worker does not see the same photos"):
        list(compute_parts(elsewhere, plan))


def test_a_damaged_part_is_one_error(album: Path, pairs: Path, tmp_path: Path) -> None:
    source = PairSource(pairs, "csv", album)
    evaluating = work(tmp_path / "parts", source)
    photos = source.read(Embedder.load("sface").spec)
    plan = begin(evaluating, photos)
    evaluating.folder.write("part-0000000.npz", b"PK\3\4 cut off")
    with pytest.raises(DatasetError, match=r"part-0000000\.npz: damaged; remove it and run again$"):
        finish(evaluating, plan, photos, 128)
