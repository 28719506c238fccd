"""The files of a dataset: finding them in order, and reading pieces from any thread."""

from __future__ import annotations

import os
import pickle
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from facespace.datasets import shards
from facespace.datasets.shards import Piece, Pieces, ShardFiles, find_shards
from facespace.errors import DatasetError


def test_shards_are_in_natural_order(tmp_path: Path) -> None:
    for name in ("s-10.tar", "s-9.TAR", "s-09.tar", "a.tar", "b.tar.gz", ".c.tar", "1.tar", "²-3.tar"):
        (tmp_path / name).touch()
    found = find_shards(tmp_path, r"\.tar", "tar files")
    expected = ["1.tar", "a.tar", "s-9.TAR", "s-09.tar", "s-10.tar", "²-3.tar"]
    assert [os.path.basename(path) for path in found] == expected
    assert find_shards(tmp_path / "x", r"\.tar", "tar files") == (str(tmp_path / "x"),)


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (["train-0.tar", "val-0.tar"], "train*"),
        (["Training_1.tar", "validation_1.tar"], "Train*"),
        (["test.tar", "val.tar"], "test*"),
        (["eval00.tar", "train00.tar", "train01.tar"], "train*"),
    ],
)
def test_shards_of_several_splits_are_refused(tmp_path: Path, names: list[str], one: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(
        DatasetError, match=f"shards of several splits .*; choose one split: '{tmp_path}/{re.escape(one)}'$"
    ):
        find_shards(tmp_path, r"\.tar", "tar files")
    some = find_shards(tmp_path / f"{names[0][:4]}*", r"\.tar", "tar files")
    assert {os.path.basename(path)[:4] for path in some} == {names[0][:4]}


@pytest.mark.parametrize(
    "names", [["test-0.tar", "test-1.tar"], ["trainer.tar", "valid.tar"], ["a-train.tar", "a-val.tar"]]
)
def test_names_without_a_split(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert len(find_shards(tmp_path, r"\.tar", "tar files")) == 2


def test_a_pattern_selects_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("s-10", "s-9", "s-[0-9]x", ".s-7", "t-1"):
        (tmp_path / name).touch()
    (tmp_path / "s-8").mkdir()

    def found(pattern: str) -> list[str]:
        return [os.path.basename(path) for path in find_shards(tmp_path / pattern, r"\.tar", "tar files")]

    assert found("s-[0-9]*") == ["s-9", "s-10"]
    assert found("?-1*") == ["s-10", "t-1"]
    assert found("*") == ["s-9", "s-10", "s-[0-9]x", "t-1"]
    assert found("s-[0-9]x") == ["s-[0-9]x"]  # because it exists
    with pytest.raises(DatasetError, match="no file matches this pattern"):
        found("u*")
    with pytest.raises(DatasetError, match="the folder cannot be listed"):
        found("nowhere/s*")
    monkeypatch.chdir(tmp_path)
    assert find_shards("t*", r"\.tar", "tar files") == ("t-1",)


def test_pieces_are_found_by_their_index() -> None:
    pieces = Pieces()
    pieces.end_shard()
    for offset in (5, 6):
        pieces.add(offset, 1)
    pieces.end_shard()
    pieces.end_shard()
    pieces.add(2**40, 2**30)
    pieces.end_shard()
    pieces = pickle.loads(pickle.dumps(pieces))
    assert len(pieces) == 3
    assert [pieces.find(k) for k in range(3)] == [Piece(1, 0, 5, 1), Piece(1, 1, 6, 1), Piece(3, 0, 2**40, 2**30)]
    for index in (-1, 3):
        with pytest.raises(IndexError):
            pieces.find(index)


def test_many_threads_read_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_MAX_OPEN", 3)
    paths = [str(tmp_path / str(k)) for k in range(10)]
    for k, path in enumerate(paths):
        Path(path).write_bytes(bytes([k]) * 1000)
    files = ShardFiles(paths)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: files.read(k % 10, 100, 500), range(3000)))
    assert found == [bytes([k % 10]) * 500 for k in range(3000)]
    if sys.platform == "linux":
        del found
        here = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
        assert len([path for path in here if path.startswith(str(tmp_path))]) <= 8
        del files
        here = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
        assert not [path for path in here if path.startswith(str(tmp_path))]


def test_without_pread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pread", raising=False)
    (tmp_path / "a").write_bytes(bytes(range(200)))
    files = ShardFiles([str(tmp_path / "a")])
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda k: files.read(0, k, 2), range(198))) == [bytes([k, k + 1]) for k in range(198)]


def test_invalid_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="missing: no such file"):
        ShardFiles([str(tmp_path / "missing")])
    with pytest.raises(DatasetError, match="not a regular file"):
        ShardFiles([str(tmp_path)])
    with pytest.raises(DatasetError, match="cannot be read"):
        ShardFiles(["a\0b"])
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(DatasetError, match="not a regular file"):
            ShardFiles([str(tmp_path / "fifo")])


def test_a_file_that_changed_is_not_read_on(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    files = ShardFiles([str(path)])
    path.write_bytes(bytes(50))
    with pytest.raises(DatasetError, match="a: the file has changed since it was opened"):
        files.read(0, 0, 10)
    with pytest.raises(DatasetError, match="has changed"):
        files.check(0)
    path.write_bytes(bytes(100))
    assert files.read(0, 90, 10) == bytes(10)
    path.write_bytes(bytes(95))
    with pytest.raises(DatasetError, match="has changed"):
        files.read(0, 90, 10)
    path.unlink()
    with pytest.raises(DatasetError, match="no such file"):
        pickle.loads(pickle.dumps(files)).read(0, 0, 1)
