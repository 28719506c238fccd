"""Class folders: which folders are identities, and which files are their images."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from facespace.datasets.formats.class_folders import read_class_folders
from facespace.errors import DatasetError
from facespace.io.photo_files import LeftOutWarning


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def test_names_and_files_are_sorted_and_whole(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/10.png", "b/1.webp", "王 小明/a b.jpeg", "A/x.png"):
        touch(tmp_path / name)
    (tmp_path / "empty").mkdir()
    found = read_class_folders(tmp_path)
    assert [name for name, _ in found] == ["A", "b", "empty", "王 小明"]
    assert [[os.path.relpath(path, tmp_path) for path in paths] for _, paths in found] == [
        ["A/x.png"], ["b/1.webp", "b/10.png", "b/2.JPG"], [], ["王 小明/a b.jpeg"],
    ]  # fmt: skip
    assert read_class_folders(str(tmp_path)) == found


def test_what_is_left_out(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/.2.png", ".git/3.png", "4.png", "a/notes.txt", "a/deeper/5.png", "align.json"):
        touch(tmp_path / name)
    (tmp_path / "a" / "folder.png").mkdir()
    (tmp_path / "a" / "IMG_1").write_bytes(b"\xff\xd8\xff\xe0")
    left_out = re.escape(f"{tmp_path}: left out 1 file that is not a photo ({os.path.join('a', 'notes.txt')})")
    with pytest.warns(LeftOutWarning, match=f"^{left_out}$"):
        assert read_class_folders(tmp_path) == [("a", [str(tmp_path / "a" / "1.png"), str(tmp_path / "a" / "IMG_1")])]


def test_links_are_followed_and_broken_ones_are_files(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "1.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "2.png").symlink_to("nowhere.png")
    assert read_class_folders(root) == [("a", [str(root / "a" / "1.png"), str(root / "a" / "2.png")])]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/\xff.png", "wb"):
        pass
    ((name, paths),) = read_class_folders(tmp_path)
    assert os.fsencode(name) == b"caf\xe9"
    assert [os.fsencode(path) for path in paths] == [folder + b"/\xff.png"]


def test_folders_that_are_not_a_dataset(tmp_path: Path) -> None:
    touch(tmp_path / "1.png")
    with pytest.raises(DatasetError, match="contains no folders"):
        read_class_folders(tmp_path)
    for nothing in ("1.png", "missing"):
        with pytest.raises(DatasetError, match=f"{nothing}: not a folder"):
            read_class_folders(tmp_path / nothing)
