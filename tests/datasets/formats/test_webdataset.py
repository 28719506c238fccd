"""Tar shards: samples by key as in webdataset, and errors for damaged shards."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from facespace.datasets.formats import webdataset
from facespace.datasets.formats.webdataset import TarImages, TarWriter
from facespace.errors import DatasetError, FacespaceError, ImageError

Files = Iterable[tuple[str, bytes]]


def picture(number: int) -> bytes:
    """Return a PPM, whose pixels are its bytes."""
    return b"P6 2 2 255\n" + bytes([number % 256]) * 12


def write(path: Path, files: Files) -> Path:
    with tarfile.open(path, mode="w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "00000.tar"


def test_samples_are_files_with_equal_names_up_to_the_first_dot(file: Path) -> None:
    write(file, [
        ("README", b"no kind"), ("notes.txt", b"neither"), (".hidden.cls", b"1"),
        ("a/1.CLS", b" 2\n"), ("a/1.JPG", picture(0)), ("a/1.json", b'{"name": "Cleo", "label": 9}'),
        ("b/1.cls", b"0"), ("b/1.mask.png", b"mask"), ("b/1.png", picture(1)),
        ("../../etc/2.json", b'{"label": 1, "name": "Ben"}'), ("../../etc/2.face.webp", picture(2)),
        ("/abs/3.cls", b"0"), ("/abs/3.ppm", picture(3)), ("/abs/3.txt", b"a caption"),
    ])  # fmt: skip
    images = TarImages(file)
    assert images.labels.tolist() == [2, 0, 1, 0]
    assert list(images.names) == ["0", "Ben", "Cleo"]
    assert [images.encoded(index) for index in range(4)] == [picture(k) for k in range(4)]
    assert images.read(2)[0, 0].tolist() == [2, 2, 2]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_shards_in_natural_order(tmp_path: Path) -> None:
    for name, label in (("s-10.tar", 1), ("s-9.tar", 0)):
        write(tmp_path / name, [("k.cls", b"%d" % label), ("k.jpg", name.encode())])
    images = TarImages(tmp_path)
    assert images.labels.tolist() == [0, 1]
    assert pickle.loads(pickle.dumps(images)).encoded(1) == b"s-10.tar"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("1.jpg", b"")], r"sample 1: expected a label \(.cls, or `label` in .json\), got jpg"),
        ([("1.cls", b"0"), ("1.txt", b"")], "sample 1: expected an image, got cls, txt"),
        ([("1.cls", b"Anna"), ("1.jpg", b"")], "its .cls must contain a number, got 'Anna'"),
        ([("1.cls", b"-1"), ("1.jpg", b"")], "must contain a number, got '-1'"),
        ([("1.cls", b"9" * 60), ("1.jpg", b"")], "a number of more than 64 bits"),
        ([("1.cls", b"1" * 65), ("1.jpg", b"")], "1.cls must have at most 64 bytes, got 65"),
        ([("1.json", b"{"), ("1.jpg", b"")], "its .json is not valid JSON"),
        ([("1.json", b"[" * 100_000), ("1.jpg", b"")], "its .json is not valid JSON"),
        ([("1.json", b'{"label": 1.5}'), ("1.jpg", b"")], "`label` in its .json must be a whole number"),
        ([("1.json", b'{"label": true}'), ("1.jpg", b"")], "`label` in its .json must be a whole number"),
        ([("1.json", b'{"label": 1, "name": 2}'), ("1.jpg", b"")], "`name` in its .json must be text"),
        ([("1.json", b"[1]"), ("1.jpg", b"")], "expected a label"),
        ([("1.json", b" " * (2**20 + 1)), ("1.jpg", b"")], "at most 1,048,576 bytes, got 1,048,577"),
        ([("1.cls", b"0"), ("1.jpg", b""), ("1.png", b"")], "expected one image, got jpg, png"),
        ([("1.cls", b"0"), ("1.jpg", b""), ("1.JPG", b"")], "the sample contains 1.JPG twice"),
        ([("1.cls", b"0"), *((f"1.{k}", b"") for k in range(100))], "more than 100 files in the sample 1"),
        (
            [("1.json", b'{"label": 0, "name": "a"}'), ("1.jpg", b""),
             ("2.json", b'{"label": 0, "name": "b"}'), ("2.jpg", b"")],
            "sample 2: label 0 is named 'b' here and 'a' before",
        ),
    ],
)  # fmt: skip
def test_damaged_samples(file: Path, files: Files, message: str) -> None:
    write(file, files)
    with pytest.raises(DatasetError, match=rf"00000\.tar[,:].* {message}") as caught:
        TarImages(file)
    assert "\n" not in str(caught.value)


def test_a_link_is_not_an_image(file: Path) -> None:
    with tarfile.open(file, mode="w") as tar:
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        label = tarfile.TarInfo("1.cls")
        label.size = 1
        tar.addfile(label, io.BytesIO(b"1"))
    with pytest.raises(DatasetError, match="sample 1: expected an image, got cls"):
        TarImages(file)


def test_errors_name_the_file_and_the_sample(tmp_path: Path, file: Path) -> None:
    write(file, [("1.cls", b"0"), ("1.jpg", b"no image")])
    with pytest.raises(ImageError, match=r"00000\.tar, image 0: not an image"):
        TarImages(file).read(0)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DatasetError, match="no such file"):
        TarImages(tmp_path / "missing.tar")
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match="no tar files in this folder"):
        TarImages(tmp_path / "none")


def test_a_file_that_changed_is_not_read_on(file: Path) -> None:
    write(file, [("1.cls", b"0"), ("1.jpg", picture(0))])
    images = TarImages(file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DatasetError, match="has changed since it was opened"):
        pickle.loads(pickle.dumps(images)).encoded(0)


def test_an_empty_tar_has_no_images(file: Path) -> None:
    write(file, [])
    assert len(TarImages(file)) == 0


# The writer


def test_headers_are_those_of_the_standard_library() -> None:
    for name, content in (("00000001.jpg", picture(1)), ("123456789.cls", b""), ("00000000.json", bytes(513))):
        info = tarfile.TarInfo(name)
        info.size = len(content)
        expected = info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)
        assert webdataset._packed(name, content) == expected


def test_the_standard_library_reads_what_was_written(tmp_path: Path) -> None:
    writer = TarWriter(tmp_path, names=["Zoë", "王 小明\n"], shard_images=2)
    for k, label in enumerate([1, 0, 1]):
        writer.write(picture(k) if k else b"\xff\xd8\xff and more", label)
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.tar", "00001.tar"]
    with tarfile.open(tmp_path / "00000.tar") as tar:
        assert tar.getnames() == [
            f"{key}.{kind}"
            for key, image in (("00000000", "jpg"), ("00000001", "ppm"))
            for kind in (image, "cls", "json")
        ]
        assert json.load(tar.extractfile("00000000.json")) == {"name": "王 小明\\n"}  # type: ignore[arg-type]
    assert (tmp_path / "00000.tar").stat().st_size == tarfile.RECORDSIZE
    images = TarImages(tmp_path)
    assert images.labels.tolist() == [1, 0, 1]
    assert list(images.names) == ["Zoë", "王 小明\\n"]
    assert images.encoded(2) == picture(2)


def test_a_shard_is_finished_when_it_is_large_enough(tmp_path: Path) -> None:
    writer = TarWriter(tmp_path, shard_bytes=5000)
    for _ in range(5):
        writer.write(bytes(1500), 0)  # 3,072 bytes per sample
    writer.close()
    assert [len(TarImages(path)) for path in sorted(tmp_path.iterdir())] == [2, 2, 1]


@pytest.mark.parametrize("n_before", [0, 1, 2, 3, 5])
def test_a_writer_resumes(tmp_path: Path, n_before: int) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    for folder in (once, twice):
        folder.mkdir()
        writer = TarWriter(folder, names=["a"], shard_images=2)
        for k in range(5):
            if folder == twice and k == n_before:
                place = json.loads(json.dumps(writer.sync()))
                writer.write(b"lost" * 50_000, 0)
                writer.abandon()
                writer = TarWriter(folder, names=["a"], shard_images=2, resume_at=place)
            writer.write(picture(k), 0)
        if (
            folder == twice and n_before == 5
        ):  # killed while the shard was being finished, after all images were written
            place = writer.sync()
            writer.close()
            writer = TarWriter(folder, names=["a"], shard_images=2, resume_at=place)
        writer.close()
    files = sorted(path.name for path in once.iterdir())
    assert files == sorted(path.name for path in twice.iterdir()) == ["00000.tar", "00001.tar", "00002.tar"]
    for name in files:
        assert (once / name).read_bytes() == (twice / name).read_bytes()


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_read_or_refused(file: Path, data: st.DataObject) -> None:
    kinds = st.sampled_from(["cls", "json", "jpg", "png", "x.jpg", "txt", ""])
    contents = st.sampled_from([picture(1), b"7", b'{"label": 3, "name": "A"}', b'{"name": 1}', b"{", b"", b"\xff"])
    names = st.tuples(st.sampled_from(["1", "a/1", "..", "2"]), kinds).map(".".join)
    write(file, data.draw(st.lists(st.tuples(names, contents), max_size=8)))
    try:
        images = TarImages(file)
        for index in range(len(images)):
            images.encoded(index)
            images.read(index)
    except FacespaceError as error:
        assert "\n" not in str(error)
