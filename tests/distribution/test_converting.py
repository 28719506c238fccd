"""`dataset convert` in parts against `dataset convert` by one process: the same files, also after an interruption."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from facespace.datasets.convert import PARTS, convert_dataset
from facespace.datasets.writing import IN_PARTS
from facespace.distribution.converting import ReadingWork, WritingWork
from facespace.distribution.parts import compute_parts
from facespace.distribution.plan import make_plan
from facespace.distribution.storage import Folder
from facespace.errors import DatasetError
from support.commands import Outcome

pytest.importorskip("pyarrow")

Cli = Callable[..., Outcome]


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Class folders with 23 images of four people, with names in several scripts, and a file of an unknown format."""
    folder = tmp_path / "crops"
    for number in range(23):
        person = folder / ("Anna", "Ben", "Zoë", "王 小明")[number % 4]
        person.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").resize((8 + number, 9)).save(person / f"{number:03d}.png")
    (folder / "Ben" / "odd.jpg").write_bytes(b"of no known kind")
    return folder


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --ray this process computes the parts, five images in each."""
    monkeypatch.setattr("facespace.cli.dataset.connected", lambda ray: contextlib.nullcontext())
    monkeypatch.setattr("facespace.distribution.converting.PER_PART", 5)


def contents(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items()}


@pytest.mark.parametrize("to", IN_PARTS)
def test_files_are_those_of_one_process(cli: Cli, crops: Path, tmp_path: Path, to: str) -> None:
    options = ("dataset", "convert", crops, "--to", to, "--shard-images", "7")
    (crops / "Nobody").mkdir()
    alone = cli(*options[:3], tmp_path / "alone", *options[3:])
    parts = cli(*options[:3], tmp_path / "parts", *options[3:], "--ray", "local")
    assert (alone.code, parts.code) == (0, 0), parts.err
    assert parts.err == alone.err != ""
    assert contents(tmp_path / "parts") == contents(tmp_path / "alone")
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {
        path.name for path in (tmp_path / "alone").iterdir()
    }
    assert {path.name for path in tmp_path.iterdir()} == {"crops", "alone", "parts"}
    again = cli(*options[:3], tmp_path / "parts", *options[3:], "--ray", "local")
    assert (again.code, "already complete" in again.out) == (0, True)


@pytest.mark.parametrize(
    ("to", "shard_bytes"), [("webdataset", 1), ("webdataset", 7000), ("parquet", 1), ("parquet", 300)]
)
def test_shards_end_with_a_number_of_bytes(
    cli: Cli, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, shard_bytes: int
) -> None:
    def resized(*arguments: object, **options: object) -> object:
        return convert_dataset(*arguments, **{**options, "shard_bytes": shard_bytes})  # type: ignore[arg-type]

    monkeypatch.setattr("facespace.datasets.convert.convert_dataset", resized)
    for out, more in (("alone", ()), ("parts", ("--ray", "local"))):
        assert cli("dataset", "convert", crops, tmp_path / out, "--to", to, *more).code == 0
    found = contents(tmp_path / "parts")
    assert found == contents(tmp_path / "alone")
    n_shards = sum(name != "names.txt" and name != "convert.json" for name in found)
    assert n_shards == 24 if shard_bytes == 1 else 5 < n_shards < 15


def test_other_formats_are_one_file(cli: Cli, crops: Path, tmp_path: Path) -> None:
    for to in ("recordio", "tfrecord"):
        refused = cli("dataset", "convert", crops, tmp_path / "out", "--to", to, "--ray", "local")
        assert (refused.code, f"cannot write {to}, which is one file written by one process" in refused.err) == (
            2,
            True,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", IN_PARTS)
def test_a_stopped_run_resumes(cli: Cli, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    command = ("dataset", "convert", crops, tmp_path / "parts", "--to", to, "--shard-images", "6", "--json")
    create, done = Folder.create, []

    def stop(folder: Folder, name: str, data: bytes) -> bool:
        if len(done) == 7:  # of the five parts of reading, and four shards; its files are in their places
            done.append("stopped")
            raise KeyboardInterrupt
        done.append(name)
        return create(folder, name, data)

    monkeypatch.setattr(Folder, "create", stop)
    stopped = cli(*command, "--ray", "local")
    assert stopped.code == 130
    assert not (tmp_path / "parts").exists()
    before = len(done)
    finished = cli(*command, "--ray", "local")
    assert finished.code == 0, finished.err
    assert len(done) - before == (2 if to != "folder" else 3)
    assert finished.json[0]["n_here"] == (12 if to != "folder" else 14)
    assert cli(*command[:3], tmp_path / "alone", *command[4:]).json[0]["checksum"] == finished.json[0]["checksum"]
    assert contents(tmp_path / "parts") == contents(tmp_path / "alone")


def test_a_conversion_of_one_process_is_not_changed(cli: Cli, crops: Path, tmp_path: Path) -> None:
    (tmp_path / ".facespace-out").mkdir()
    refused = cli("dataset", "convert", crops, tmp_path / "out", "--to", "parquet", "--ray", "local")
    assert (refused.code, "contains a conversion started without --ray" in refused.err) == (1, True)


def test_a_conversion_in_parts_is_not_changed(cli: Cli, crops: Path, tmp_path: Path) -> None:
    (tmp_path / ".facespace-out" / PARTS).mkdir(parents=True)
    refused = cli("dataset", "convert", crops, tmp_path / "out", "--to", "parquet")
    assert (refused.code, "contains a conversion started with --ray" in refused.err) == (1, True)
    assert (tmp_path / ".facespace-out" / PARTS).is_dir()


def test_a_damaged_shard_is_noticed(cli: Cli, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from facespace.datasets.formats.webdataset import TarWriter

    write = TarWriter.write
    monkeypatch.setattr(TarWriter, "write", lambda writer, encoded, label: write(writer, encoded[:-1] + b"\0", label))
    refused = cli("dataset", "convert", crops, tmp_path / "out", "--to", "webdataset", "--ray", "local")
    assert (refused.code, "reading the written dataset back gave other images" in refused.err) == (1, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [ReadingWork, WritingWork])
def test_workers_must_see_the_same(crops: Path, tmp_path: Path, kind: type[ReadingWork] | type[WritingWork]) -> None:
    work = kind((str(crops),), str(tmp_path / "out"), "parquet", 6, 1000, "other")
    plan = make_plan(work.folder, [json.dumps([0, 5])], work.settings(), per_part=1)
    with pytest.raises(DatasetError, match="a worker does not see the same images"):
        list(compute_parts(work, plan))
    assert not list(work.folder.names())
    assert PARTS in work.folder.place
