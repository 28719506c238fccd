"""`cluster` in parts against `cluster` by one process: the same groups, pictures and table, also after an interruption."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from facespace.clustering import algorithms, disk_graph
from facespace.clustering.disk_graph import pairs_of_all_shards
from facespace.clustering.groups import FINDING, STATE
from facespace.distribution.clustering import FindingWork, PairsWork, begin, read_photos
from facespace.distribution.parts import compute_parts
from facespace.distribution.plan import Plan
from facespace.distribution.storage import Folder
from facespace.errors import DatasetError, ModelError
from facespace.io.tensor_file import read_tensor_file
from support.commands import Outcome
from support.sphere import people
from support.tutorial_people import write_photos

Cli = Callable[..., Outcome]


@pytest.fixture
def photos(tmp_path: Path, hopper_file: Path, collins_file: Path, cat_file: Path) -> Path:
    """Two people, a copy of one photo, a photo without a face, one that cannot be read."""
    folder = tmp_path / "photos"
    write_photos(folder, {"Grace": hopper_file, "Eileen": collins_file}, 2)
    shutil.copy(next(folder.rglob("*.jpg")), folder / "z-copy.jpg")
    shutil.copy(cat_file, folder / "cat.png")
    (folder / "damaged.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --ray this process computes the parts, one photo in each; batches have one photo too."""
    for module in ("cli.shared.distributed", "cli.cluster"):
        monkeypatch.setattr(f"facespace.{module}.connected", lambda ray: contextlib.nullcontext())
    for name in ("distribution.clustering.PER_PART", "pipeline.face_batches.IMAGES_IN_PART"):
        monkeypatch.setattr(f"facespace.{name}", 1)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, without the marks that identify a grouping."""
    ours = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in ours.items()
        if path.name not in (STATE, ".group.json", ".cluster.lock")
    }


def state(folder: Path) -> tuple[dict[str, list[object]], object]:
    arrays, record = read_tensor_file(folder / STATE, "grouping", DatasetError, remedy="")
    return {name: array.tolist() for name, array in arrays.items()}, record["photos"]


def test_groups_are_those_of_one_process(
    cli: Cli, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    alone = cli("cluster", photos.name, "--output", "alone")
    parts = cli("cluster", photos.name, "--output", "parts", "--ray", "local")
    assert (alone.code, parts.code) == (1, 1)
    assert parts.err == alone.err
    assert parts.lines[:-1] == alone.lines[:-1]
    expected = contents(tmp_path / "alone")
    assert len([name for name in expected if name.startswith("faces/")]) == 4
    assert contents(tmp_path / "parts") == expected
    assert state(tmp_path / "parts") == state(tmp_path / "alone")
    again = cli("cluster", photos.name, "--output", "parts", "--ray", "local")
    assert (again.code, again.lines[0].startswith("4 faces in 6 photos (6 known before)")) == (0, True), again.err


def test_a_stopped_run_resumes(cli: Cli, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compute, computed = FindingWork.compute, []

    def stop(work: FindingWork, number: int) -> None:
        if number == 3 and len(computed) == 3:
            raise KeyboardInterrupt
        computed.append(number)
        compute(work, number)

    monkeypatch.setattr(FindingWork, "compute", stop)
    stopped = cli("cluster", photos.name, "--output", "parts", "--ray", "local")
    assert (stopped.code, "run the same command again to resume" in stopped.err) == (130, True)
    computed.append(-1)
    assert cli("cluster", photos.name, "--output", "parts", "--ray", "local").code == 1
    assert computed == [0, 1, 2, -1, 3, 4, 5]
    cli("cluster", photos.name, "--output", "alone")
    assert contents(tmp_path / "parts") == contents(tmp_path / "alone")


def test_parts_of_other_photos_are_removed(tmp_path: Path) -> None:
    work = finding(tmp_path)
    first, _ = begin(work, {"a.jpg": "a" * 64})
    second, plan = begin(work, {"a.jpg": "a" * 64, "b.jpg": "b" * 64})
    assert [path.name for path in (tmp_path / FINDING).iterdir()] == [second.run]
    assert first.run != second.run
    assert begin(work, {"a.jpg": "a" * 64, "b.jpg": "b" * 64}) == (second, plan)


def finding(output: Path) -> FindingWork:
    return FindingWork(
        output=str(output), base="", model="sface", fingerprint="other", device="auto", min_size=20, try_rotations=False,
    )  # fmt: skip


def test_a_different_model_on_a_worker_is_refused(tmp_path: Path) -> None:
    work, plan = begin(finding(tmp_path), {"a.jpg": "a" * 64})
    with pytest.raises(ModelError, match="a worker has a different model"):
        list(compute_parts(work, plan))


def test_a_damaged_part_is_one_error(tmp_path: Path) -> None:
    work, plan = begin(finding(tmp_path), {"a.jpg": "a" * 64})
    work.folder.write("part-0000000.npz", b"PK\3\4 cut off")
    with pytest.raises(DatasetError, match=r"part-0000000\.npz: damaged; remove it and run again$"):
        list(read_photos(work, plan))


@pytest.mark.parametrize("method", ["whispers", "average"])
def test_pairs_of_shards_in_parts_give_the_same_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: algorithms.Method
) -> None:
    monkeypatch.setattr(algorithms, "_MANY", -1)
    monkeypatch.setattr(disk_graph, "_SHARD_BYTES", 40 * 4 * 32)
    vectors, _ = people(30, 6, dimension=32, similarity=0.6, seed=1)
    found: list[list[int]] = []

    def in_parts(folder: Path, n_shards: int, threshold: float) -> object:
        work = PairsWork(Folder(str(folder)), n_shards, threshold)
        for done in compute_parts(work, Plan(n_shards**2, per_part=1)):
            found.append([done, n_shards**2])
            yield done

    once, parts = (
        algorithms.cluster(vectors, method=method, threshold=0.4, folder=tmp_path / name, find_pairs=find).tolist()  # type: ignore[arg-type]
        for name, find in (("once", pairs_of_all_shards), ("parts", in_parts))
    )
    assert parts == once
    assert 20 < len(set(once)) < 60
    assert found[-1][0] == found[-1][1] >= 9
    assert len(found) == found[-1][1] + 1
    files = sorted(path.name for path in (tmp_path / "parts").glob("pairs-*"))
    assert len(files) == found[-1][1]
    assert all((tmp_path / "parts" / name).read_bytes() == (tmp_path / "once" / name).read_bytes() for name in files)


def test_many_faces_have_their_pairs_found_by_workers(
    cli: Cli, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(algorithms, "_MANY", 2)
    computed: list[int] = []
    compute = PairsWork.compute
    monkeypatch.setattr(PairsWork, "compute", lambda work, k: (computed.append(k), compute(work, k)))
    for out, more in (("alone", ()), ("parts", ("--ray", "local"))):
        assert cli("cluster", photos, "--output", tmp_path / out, *more, "--json").code == 1
        assert computed == ([] if out == "alone" else [0])
    assert state(tmp_path / "parts")[0] == state(tmp_path / "alone")[0]
    assert not (tmp_path / "parts" / ".grouping").exists()
