"""The bytes that are sent for a photo, and files that are never sent."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facespace.client.pictures import picture_of
from facespace.errors import ImageError


@pytest.mark.parametrize(
    ("ending", "media_type"),
    [("jpg", "image/jpeg"), ("png", "image/png"), ("webp", "image/webp"), ("gif", "image/gif"), ("tiff", "image/tiff"),
     ("bmp", "image/bmp"), ("ppm", "application/octet-stream")],
)  # fmt: skip
def test_a_file_is_sent_as_it_is(tmp_path: Path, ending: str, media_type: str) -> None:
    path = tmp_path / f"Ada's photo.{ending}"
    Image.new("RGB", (9, 7), "teal").save(path)
    for source in (path, str(path)):
        picture = picture_of(source)
        assert picture.data == path.read_bytes()
        assert (picture.filename, picture.media_type) == (path.name, media_type)
        assert str(tmp_path) not in picture.filename


def test_a_file_name_that_is_not_text_is_escaped(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9\n.png")
    with open(path, "wb") as file:
        Image.new("RGB", (9, 7)).save(file, "PNG")
    assert picture_of(os.fsdecode(path)).filename == "caf\\xe9\\n.png"


def test_pixels_become_a_png_of_the_same_pixels() -> None:
    pixels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    for source in (pixels, Image.fromarray(pixels)):
        picture = picture_of(source)
        assert picture.media_type == "image/png"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture.data))), pixels)


def test_bytes_and_files(hopper_file: Path) -> None:
    data = hopper_file.read_bytes()
    for source in (data, bytearray(data), memoryview(data), io.BytesIO(data)):
        assert picture_of(source).data == data


def test_other_files_do_not_leave_the_machine(tmp_path: Path) -> None:
    secret = tmp_path / "id_rsa"
    secret.write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    for source in (secret, secret.read_bytes(), io.BytesIO(secret.read_bytes())):
        with pytest.raises(ImageError, match="it was not sent"):
            picture_of(source)


def test_paths_that_are_not_files(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in (
        ("empty.jpg", "the file is empty"), ("pipe.jpg", "not a regular file"), ("", "a folder, not an image"), ("no.jpg", "no such file"),
        ("empty.jpg/a", "no such file"), ("a\0b", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(ImageError, match=reason):
            picture_of(tmp_path / name)


def test_a_photo_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facespace.client.pictures.MAX_PHOTO", 2**21)
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(2**40)  # a sparse file

    class Endless(io.RawIOBase):
        n_read = 0

        def read(self, size: int = -1) -> bytes:
            self.n_read += size
            return b"\xff\xd8\xff" + b"\0" * (size - 3)

    endless = Endless()
    for source in (path, endless):
        with pytest.raises(ImageError, match="a photo to send must have at most 2,097,152 bytes, got "):
            picture_of(source)  # type: ignore[arg-type]
    assert endless.n_read < 2**23


@pytest.mark.parametrize("source", [None, 7, ["a.jpg"], {"a": 1}])
def test_values_of_other_types(source: object) -> None:
    with pytest.raises(TypeError, match="a photo must be a path, bytes"):
        picture_of(source)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a file object must be binary"):
        picture_of(io.StringIO("text"))  # type: ignore[arg-type]
