"""Class folders as a dataset."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facespace.datasets.formats.class_folders import ImageFolder
from facespace.errors import DatasetError, ImageError
from facespace.io.photo_files import LeftOutWarning


def save(path: Path, gray: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (3, 2), gray).save(path)


def test_images_and_labels(tmp_path: Path) -> None:
    for k, name in enumerate(["b/2.JPG", "b/10.png", "A/x.png", "王 小明/a b.jpeg", "A/.hidden.png", "A/deeper/1.png"]):
        save(tmp_path / name, 10 * k)
    (tmp_path / "b" / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.warns(LeftOutWarning, match=r"1 file that is not a photo \(b/notes.txt\)"):
        images = ImageFolder(tmp_path)
    assert images.names == ("A", "b", "empty", "王 小明")
    assert images.labels.tolist() == [0, 1, 1, 3]
    assert images.labels.dtype == np.int64
    assert [os.path.relpath(path, tmp_path) for path in images.paths] == [
        "A/x.png", "b/10.png", "b/2.JPG", "王 小明/a b.jpeg",
    ]  # fmt: skip
    assert images.read(0).tolist() == [[[20] * 3] * 3] * 2
    assert [images.encoded(k) for k in range(4)] == [Path(path).read_bytes() for path in images.paths]
    assert Image.open(io.BytesIO(images.encoded(2))).format == "JPEG"


def test_an_image_that_is_missing_or_invalid(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", 0)
    (tmp_path / "a" / "2.png").write_bytes(b"no image")
    (tmp_path / "a" / "3.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "a" / "4.png")
    images = ImageFolder(tmp_path)
    assert images.encoded(1) == b"no image"
    for index, expected in ((1, "2.png: not an image"), (2, "3.png: no such file"), (3, "4.png: not a regular file")):
        with pytest.raises(ImageError, match=expected):
            images.read(index)
        if index > 1:
            with pytest.raises(ImageError, match=expected):
                images.encoded(index)


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", 0)
    os.truncate(tmp_path / "a" / "1.png", 2**40)
    with pytest.raises(ImageError, match="1,099,511,627,776 bytes; an image must have at most"):
        ImageFolder(tmp_path).encoded(0)


def test_folders_that_are_not_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a folder"):
        ImageFolder(tmp_path / "missing")
    with pytest.raises(DatasetError, match="contains no folders"):
        ImageFolder(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(DatasetError, match="its 1 folders contain no images"):
        ImageFolder(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_names_that_are_not_utf8_can_be_stored(tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    save(tmp_path / "caf\udce9" / "1.png", 7)
    images = ImageFolder(tmp_path)
    assert images.names == ("caf\\xe9",)
    assert images.read(0).max() == 7
    assert images.encoded(0)
