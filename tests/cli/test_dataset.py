"""facespace dataset: check, --apply, and conversion between formats."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from support.commands import Outcome

Cli = Callable[..., Outcome]


@pytest.fixture
def data(shared: Path, tmp_path: Path) -> Path:
    """Four people with five crops each; one label is wrong, one file damaged, and one file duplicated."""
    root = tmp_path / "data"
    for folder in sorted((shared / "data" / "train_182").iterdir())[:4]:
        (root / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:5]:
            shutil.copy(file, root / folder.name)
    one, two, three, _ = sorted(root.iterdir())
    sorted(one.iterdir())[0].rename(two / "wrong.jpg")
    shutil.copy(sorted(three.iterdir())[0], three / "zz copy.jpg")
    (three / "bad.jpg").write_bytes(b"")
    return root


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.mark.shared
def test_from_check_to_clean(cli: Cli, data: Path, tmp_path: Path) -> None:
    before = tree(data)
    done = cli("dataset", "check", data)
    assert (done.code, done.err) == (0, "")
    assert tree(data) == before
    assert "     22  images" in done.lines
    assert "      1  unreadable" in done.lines
    assert not any("evaluation" in line for line in done.lines)
    report = tmp_path / "data-check"
    assert done.lines[-2:] == [
        f"report: {report / 'report.html'}", f"to edit, then --apply: {report / 'keep_drop.csv'}",
    ]  # fmt: skip
    counts = json.loads((report / "report.json").read_text())["counts"]
    assert counts["exact copies"] == 1
    assert counts["likely wrong labels"] >= 1

    done = cli("dataset", "check", data, "--apply", report / "keep_drop.csv")
    assert done.code == 0
    dropped = tree(tmp_path / "data-dropped")
    assert {name.split("/")[1] for name in dropped} >= {"wrong.jpg", "zz copy.jpg", "bad.jpg"}
    assert len(dropped) == counts["proposed to drop"]
    assert tree(data) | dropped == before
    assert not tree(data) & dropped
    assert done.lines == [f"{len(dropped)} files moved to {tmp_path / 'data-dropped'}; {22 - len(dropped)} kept"]

    again = cli("dataset", "check", data, "--apply", report / "keep_drop.csv")
    assert again.code == 0
    assert f"{len(dropped)} moved before" in again.out

    done = cli("dataset", "check", data, "--output", tmp_path / "second")
    assert "      0  unreadable" in done.lines
    assert "      0  exact copies" in done.lines


@pytest.mark.shared
def test_people_of_an_evaluation_set(cli: Cli, data: Path, tmp_path: Path) -> None:
    folder = sorted(data.iterdir())[3]
    (tmp_path / "evaluation").mkdir()
    (data / "extra").mkdir()
    folder.rename(tmp_path / "evaluation" / "somebody")
    folder.mkdir()
    for file in sorted((tmp_path / "evaluation" / "somebody").iterdir())[3:]:
        file.rename(folder / file.name)
    done = cli("dataset", "check", data, "--against", tmp_path / "evaluation", "--against-crops")
    assert done.code == 0
    assert "      1  people in evaluation set" in done.lines
    (shared,) = json.loads((tmp_path / "data-check" / "report.json").read_text())["shared_people"]
    assert (shared["name"], shared["other"], shared["match"]) == (folder.name, "somebody", True)
    done = cli(
        "dataset", "check", data, "--against", tmp_path / "evaluation", "--against-crops", "--threshold", "0.999"
    )
    assert "      0  people in evaluation set" in done.lines


def test_moved_to_and_failures(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "1.png").write_text("1")
    (tmp_path / "list.csv").write_text("action,file\ndrop,a/1.png\ndrop,a/2.png\n")
    done = cli("dataset", "check", tmp_path / "data", "--apply", tmp_path / "list.csv", "--moved-to", tmp_path / "x")
    assert done.code == 1
    assert done.errors == ["facespace: a/2.png: listed, but neither in the dataset nor among the moved files"]
    assert (tmp_path / "x" / "a" / "1.png").read_text() == "1"


def test_wrong_options_are_refused_before_any_work(cli: Cli, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "a").mkdir(parents=True)
    for options, message in (
        (["--output", data / "report"], "must not be inside DIR"),
        (["--threshold", "0.5"], "can only be used with --against"),
        (["--against-crops"], "can only be used with --against"),
        (["--moved-to", tmp_path / "x"], "can only be used with --apply"),
    ):
        done = cli("dataset", "check", data, *options)
        assert done.code == 2
        assert message in done.err
    assert cli("dataset", "check", tmp_path / "missing").errors == [f"facespace: {tmp_path / 'missing'}: not a folder"]
    assert cli("dataset", "check", data).errors == [f"facespace: {data}: none of its images could be read"]
    assert cli("dataset", "check", data, "--apply", tmp_path / "no.csv").code == 1
    assert tree(tmp_path) == set()


# Converting


@pytest.mark.shared
def test_a_dataset_in_every_format(cli: Cli, data: Path, tmp_path: Path) -> None:
    checksums, source = set(), data
    (data / sorted(tree(data))[0]).with_name("bad.jpg").write_bytes(b"<html>")
    for path in data.rglob("bad.jpg"):
        if not path.stat().st_size:
            path.unlink()
    for to in ("tfrecord", "recordio", "webdataset", "parquet", "folder"):
        done = cli("dataset", "convert", source, tmp_path / to, "--to", to, "--shard-images", "8")
        assert done.code == 0
        assert done.errors == ["facespace: files in no known image format, copied unchanged: 1"]
        (line,) = done.lines
        assert re.fullmatch(
            rf"22 images of 4 people, [0-9.]+ images/s -> {tmp_path / to}; checksum [0-9a-f]{{64}}", line
        )
        checksums.add(line.split()[-1])
        source = tmp_path / to
    assert len(checksums) == 1
    assert len(list((tmp_path / "webdataset").glob("*.tar"))) == 3

    again = cli("dataset", "convert", data, tmp_path / "tfrecord", "--to", "tfrecord")
    assert again.lines == [
        f"22 images of 4 people, already complete -> {tmp_path / 'tfrecord'}; checksum {checksums.pop()}"
    ]
    other = cli("dataset", "convert", data, tmp_path / "tfrecord", "--to", "parquet")
    assert (other.code, other.out) == (1, "")
    assert other.errors == [
        f"facespace: {tmp_path / 'tfrecord'}: already exists and is left unchanged; give another output"
    ]


@pytest.mark.shared
def test_joined_datasets_as_json_and_names_that_cannot_be_folders(
    cli: Cli, data: Path, shared: Path, tmp_path: Path
) -> None:
    for path in data.rglob("bad.jpg"):
        path.unlink()
    sorted(data.iterdir())[0].rename(data / "who: him?")
    records = shared / "data" / "records"
    done = cli("dataset", "convert", f"{data}:{records}", tmp_path / "out", "--to", "folder", "--json")
    (entry,) = done.json
    assert (entry["n_images"], entry["n_identities"], entry["n_renamed"], entry["n_here"]) == (1314, 134, 1, 1314)
    assert done.errors == [f"facespace: 1 names were changed; see `renamed` in {tmp_path / 'out' / 'convert.json'}"]
    assert (tmp_path / "out" / "who_ him_").is_dir()
    again = cli("dataset", "convert", data, records, tmp_path / "out", "--to", "folder", "--json")
    assert (again.json[0]["checksum"], again.json[0]["n_here"]) == (entry["checksum"], 0)


@pytest.mark.shared
def test_a_conversion_stopped_or_out_of_space(
    cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facespace.datasets import convert as dataset_convert

    for error, code, message in (
        (KeyboardInterrupt(), 130, "stopped; run the same command again to resume"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            f"{tmp_path / 'out'}: No space left on device; make room and start the same command again; finished work is kept",
        ),
        (
            OSError(errno.EACCES, "Permission denied"),
            1,
            f"{tmp_path / 'out'}: Permission denied; change its permissions, or give another place; finished work is kept",
        ),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(dataset_convert, "open_written", mock.Mock(side_effect=error))
            done = cli("dataset", "convert", data, tmp_path / "out", "--to", "webdataset")
        assert (done.code, done.out) == (code, "")
        assert done.errors == [f"facespace: {message}"]
    assert cli("dataset", "convert", data, tmp_path / "out", "--to", "webdataset").code == 0


def test_what_cannot_be_converted(cli: Cli, tmp_path: Path) -> None:
    done = cli("dataset", "convert", tmp_path / "missing", tmp_path / "out", "--to", "folder")
    assert (done.code, done.errors) == (1, [f"facespace: {tmp_path / 'missing'}: no such file or folder"])
    assert cli("dataset", "convert", tmp_path, tmp_path / "out", "--to", "zip").code == 2
