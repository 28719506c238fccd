from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from facespace.io.files import atomic_path


def test_the_target_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "result.npz"
    with atomic_path(target) as path:
        path.write_bytes(b"half")
        assert path.parent == tmp_path
        assert path.suffix == ".npz"
        assert not target.exists()
    assert target.read_bytes() == b"half"
    assert os.listdir(tmp_path) == ["result.npz"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(failure), atomic_path(target) as path:
        path.write_text("new, but not who")
        raise failure
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.txt"]


def test_a_target_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(OSError), atomic_path(target) as path:
        path.write_text("new")
    assert os.listdir(tmp_path) == ["folder"]


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "nowhere" / "a.txt"):
        pytest.fail("the block must not run")


@pytest.mark.skipif(sys.platform == "win32", reason="no permission bits")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_result_is_as_readable_as_any_other_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a") as path:
            path.write_text("a")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask
