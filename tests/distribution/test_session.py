"""Ray itself: on this machine's cores, on a cluster that loses a node, and without a cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facespace.defaults import MAX_PIXELS_VARIABLE
from facespace.distribution.plan import variables
from facespace.distribution.session import _compute_row, connect
from facespace.distribution.storage import Folder
from facespace.errors import DatasetError, RuntimeUnavailable
from facespace.io.image import pixel_limit
from facespace.runtime.cores import CORES_VARIABLE
from support.absent import need_packages
from support.commands import Outcome
from support.ray_cluster import TwoNodes, ray_environment, two_nodes as two_nodes
from support.stores import s3_server as s3_server, s3_store as s3_store

Cli = Callable[..., Outcome]

N_PHOTOS = 320  # five parts


def embed(*arguments: str | Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return start("embed", *arguments, environment=environment)


def start(*arguments: str | Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "facespace", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_same_archives(ours: Path, theirs: Path) -> None:
    with np.load(ours) as one, np.load(theirs) as other:
        assert one.files == other.files
        for name in one.files:
            assert (one[name].dtype, one[name].tobytes()) == (other[name].dtype, other[name].tobytes()), name


@pytest.mark.shared
def test_a_lost_node_changes_nothing(two_nodes: TwoNodes, shared: Path, tmp_path: Path) -> None:
    photos = sorted((shared / "data" / "lfw_view1" / "images").rglob("*.jpg"))[:N_PHOTOS]
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in photos:
        (folder / photo.name).symlink_to(photo)
    (folder / "damaged.jpg").write_bytes(b"no photo")
    running = embed(
        folder, "--output", tmp_path / "ray.npz", "--ray", two_nodes.address, environment=two_nodes.environment
    )
    parts = tmp_path / "ray.npz.parts"
    while len(list(parts.glob("part-*.npz"))) < 2:
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    two_nodes.lose_a_node()
    out, err = running.communicate(timeout=300)
    assert running.returncode == 1, err
    assert out.splitlines()[-1].endswith(f"faces of {N_PHOTOS} photos -> {tmp_path / 'ray.npz'}")
    assert len(out.splitlines()) == 1
    assert f"facespace: {folder}/damaged.jpg: not an image" in err
    alone = embed(folder, "--output", tmp_path / "alone.npz", environment=two_nodes.environment)
    alone.communicate(timeout=300)
    assert_same_archives(tmp_path / "ray.npz", tmp_path / "alone.npz")
    assert not parts.exists()


def test_crops_are_those_of_one_process(two_nodes: TwoNodes, hopper_file: Path, tmp_path: Path) -> None:
    for person in ("Ann", "Bea"):
        (tmp_path / "raw" / person).mkdir(parents=True)
        shutil.copy(hopper_file, tmp_path / "raw" / person / "1.jpg")
    found = []
    for out, more in (("ray", ("--ray", two_nodes.address)), ("alone", ())):
        running = start("align", tmp_path / "raw", tmp_path / out, *more, environment=two_nodes.environment)
        text, err = running.communicate(timeout=300)
        assert (running.returncode, text.split(";")[0]) == (0, "2 photos: 2 faces, 0 without a face, 0 unreadable"), err
        files = [path for path in (tmp_path / out).rglob("*") if path.is_file() and path.name != ".align.lock"]
        found.append({path.relative_to(tmp_path / out): path.read_bytes() for path in files})
    assert found[0] == found[1]
    assert len(found[0]) == 4


def on_the_cluster(nodes: TwoNodes, *command: str | Path) -> list[str]:
    """Return the lines that a command on two nodes prints, and check that none is a warning."""
    running = start(*command, "--ray", nodes.address, environment=nodes.environment)
    out, err = running.communicate(timeout=300)
    assert (running.returncode, "deprecated" in err) == (0, False), err
    return out.splitlines()


def contents(folder: Path, *without: str) -> dict[str, bytes]:
    files = {
        path.relative_to(folder): path for path in folder.rglob("*") if path.is_file() and path.name not in without
    }
    return {str(name): path.read_bytes() for name, path in files.items()}


@pytest.fixture
def people(hopper_file: Path, collins_file: Path, tmp_path: Path) -> Path:
    """Class folders of two people, two photos each."""
    for person, file in (("Grace", hopper_file), ("Eileen", collins_file)):
        (tmp_path / "people" / person).mkdir(parents=True)
        for number in (1, 2):
            (tmp_path / "people" / person / f"{number}{file.suffix}").write_bytes(file.read_bytes() + bytes(number))
    return tmp_path / "people"


def test_figures_are_those_of_one_process(two_nodes: TwoNodes, cli: Cli, people: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("a,b,same\nGrace/1.jpg,Grace/2.jpg,1\nEileen/1.png,Eileen/2.png,1\nGrace/1.jpg,Eileen/1.png,0\n")
    command = ("verify", "pairs", pairs, "--root", people, "--output")
    lines = on_the_cluster(two_nodes, *command, tmp_path / "ray")
    alone = cli(*command, tmp_path / "alone")
    assert lines[:-1] == alone.lines[:-1]
    assert contents(tmp_path / "ray") == contents(tmp_path / "alone")
    assert "report.json" in contents(tmp_path / "ray")


def test_groups_are_those_of_one_process(two_nodes: TwoNodes, cli: Cli, people: Path, tmp_path: Path) -> None:
    lines = on_the_cluster(two_nodes, "cluster", people, "--output", tmp_path / "ray")
    alone = cli("cluster", people, "--output", tmp_path / "alone")
    assert lines[:-1] == alone.lines[:-1]
    assert lines[0].startswith("4 faces in 4 photos (0 known before): 2 people")
    own = ("faces.safetensors", ".group.json", ".cluster.lock")  # they contain a random number
    assert contents(tmp_path / "ray", *own) == contents(tmp_path / "alone", *own)
    assert not (tmp_path / "ray" / ".finding").exists()


def test_shards_are_those_of_one_process(two_nodes: TwoNodes, cli: Cli, people: Path, tmp_path: Path) -> None:
    how = ("--to", "webdataset", "--shard-images", "3")
    lines = on_the_cluster(two_nodes, "dataset", "convert", people, tmp_path / "ray", *how)
    assert lines[0].startswith("4 images of 2 people")
    assert cli("dataset", "convert", people, tmp_path / "alone", *how).code == 0
    assert contents(tmp_path / "ray") == contents(tmp_path / "alone")
    assert {"00000.tar", "00001.tar"} < contents(tmp_path / "ray").keys()


def test_photos_and_results_in_s3(s3_store: str, hopper_file: Path, collins_file: Path, tmp_path: Path) -> None:
    need_packages("ray")
    for number in range(3):
        Folder(s3_store).write(f"photos/{number}.jpg", hopper_file.read_bytes())
    Folder(s3_store).write("photos/more/collins.png", collins_file.read_bytes())
    local = tmp_path / "photos"
    (local / "more").mkdir(parents=True)
    for number in range(3):
        shutil.copy(hopper_file, local / f"{number}.jpg")
    shutil.copy(collins_file, local / "more" / "collins.png")
    environment = ray_environment()
    running = embed(f"{s3_store}/photos", "--output", f"{s3_store}/out", "--ray", "local", environment=environment)
    out, err = running.communicate(timeout=300)
    assert (running.returncode, out) == (0, f"4 faces of 4 photos -> {s3_store}/out\n"), err
    assert Folder(f"{s3_store}/out").names() == ["failures.csv", "part-0000000.npz"]
    (tmp_path / "ray.npz").write_bytes(Folder(f"{s3_store}/out").read("part-0000000.npz"))
    embed(local, "--output", tmp_path / "alone.npz", environment=environment).communicate(timeout=300)
    with np.load(tmp_path / "ray.npz") as ours, np.load(tmp_path / "alone.npz") as theirs:
        assert ours["path"].tolist()[0] == f"{s3_store}/photos/0.jpg"
        assert (ours["embedding"] == theirs["embedding"]).all()
        assert (ours["box"] == theirs["box"]).all()


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("127.0.0.1:1", r"no Ray cluster at 127\.0\.0\.1:1: "),
        ("127.0.0.1:99999", r"no Ray cluster at 127\.0\.0\.1:99999: "),
        ("ray://127.0.0.1:1", r"--ray must be local, auto or HOST:PORT, got ray://127\.0\.0\.1:1"),
        ("cluster", r"--ray must be local, auto or HOST:PORT, got cluster"),
    ],
)
def test_an_address_without_a_cluster_is_one_line(address: str, line: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=f"^{line}"), connect(address):
        pass


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for variable in ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED", "RAY_raylet_start_wait_time_s"):
        monkeypatch.setenv(variable, "")
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'facespace\[ray\]'"), connect("local"):
        pass


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DatasetError("out/part: damaged"), "out/part: damaged"),
        (OSError(28, "No space left on device", "out/part"), "out/part: No space left on device"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_errors_for_the_user_come_back_as_values(monkeypatch: pytest.MonkeyPatch, error: Exception, line: str) -> None:
    def fail(number: int) -> None:
        raise error

    monkeypatch.setenv(CORES_VARIABLE, "7")
    assert _compute_row({"number": 3}, fail, 1, {}) == {"number": 3, "error": line}
    assert _compute_row({"number": 3}, print, 1, {}) == {"number": 3, "error": ""}


def test_a_worker_reads_and_computes_as_the_command_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CORES_VARIABLE, "7")
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "1000")
    monkeypatch.setenv("FACESPACE_PRECISION", "")
    given = variables()
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "2000")  # as on a node of a cluster
    monkeypatch.setenv("FACESPACE_PRECISION", "bfloat16")
    seen: list[tuple[int, str | None]] = []
    _compute_row({"number": 3}, lambda _: seen.append((pixel_limit(), os.environ.get("FACESPACE_PRECISION"))), 1, given)
    assert seen == [(1000, "")]
