"""Class folders with consecutively numbered files."""

from __future__ import annotations

from pathlib import Path

import pytest

from facespace.datasets.formats.class_folders import ImageFolder
from facespace.datasets.formats.class_folders_writer import FolderWriter, NumberedFolder
from facespace.errors import DatasetError

FOLDERS = {0: "Zoë", 1: "Anna", 5: "nobody"}


def written(root: Path, *, resume_at: int = 0) -> None:
    writer = FolderWriter(root, FOLDERS, resume_at=resume_at)
    for k, (encoded, label) in enumerate([(b"\xff\xd8\xff1", 0), (b"\x89PNG\r\n\x1a\n", 1), (b"no image", 0)]):
        if k >= resume_at:
            writer.write(encoded, label)
    assert writer.sync() == 3
    writer.close()


def test_numbers_keep_the_order(tmp_path: Path) -> None:
    written(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == [
        "Anna/00000002.png", "Zoë/00000001.jpg", "Zoë/00000003.jpg",
    ]  # fmt: skip
    images = NumberedFolder(tmp_path, FOLDERS)
    assert images.labels.tolist() == [0, 1, 0]
    assert [images.encoded(index) for index in range(3)] == [b"\xff\xd8\xff1", b"\x89PNG\r\n\x1a\n", b"no image"]
    assert ImageFolder(tmp_path).names == ("Anna", "Zoë", "nobody")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    written(tmp_path, resume_at=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_files_of_others_and_gaps_are_errors(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "Anna" / "00000002.png").rename(tmp_path / "Anna" / "00000004.png")
    with pytest.raises(DatasetError, match="are not consecutive"):
        NumberedFolder(tmp_path, FOLDERS)
    (tmp_path / "Anna" / "00000004.png").rename(tmp_path / "Anna" / "photo.png")
    with pytest.raises(DatasetError, match=r"photo\.png: not a file of this dataset"):
        NumberedFolder(tmp_path, FOLDERS)
    (tmp_path / "Anna").rename(tmp_path / "Ben")
    with pytest.raises(DatasetError, match="Ben: not a folder of this dataset"):
        NumberedFolder(tmp_path, FOLDERS)
