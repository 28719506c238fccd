"""Opening a dataset by its path: the content decides."""

from __future__ import annotations

import gzip
import io
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from facespace.datasets.formats.class_folders import ImageFolder
from facespace.datasets.formats.recordio import RecordImages
from facespace.datasets.formats.recordio_writer import RecordWriter
from facespace.datasets.opening import open_dataset
from facespace.datasets.union import UnionImages
from facespace.errors import DatasetError


def png(gray: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8), gray).save(stream, "PNG")
    return stream.getvalue()


def folders(root: Path, *names: str) -> Path:
    for gray, name in enumerate(names):
        (root / name).mkdir(parents=True)
        (root / name / "1.png").write_bytes(png(gray))
    return root


def records(root: Path) -> Path:
    with RecordWriter(root) as writer:
        writer.write(png(5), 0)
    return root


def tfrecords(root: Path) -> Path:
    from facespace.datasets.formats.tfrecord import TFRecordWriter

    root.mkdir()
    writer = TFRecordWriter(root / "tran.tfrecords")
    writer.write(png(5), 0)
    writer.close()
    return root


def tars(root: Path) -> Path:
    from facespace.datasets.formats.webdataset import TarWriter

    root.mkdir()
    writer = TarWriter(root)
    writer.write(png(5), 0)
    writer.close()
    return root


def parquets(root: Path) -> Path:
    from facespace.datasets.formats.parquet import ParquetWriter

    root.mkdir()
    writer = ParquetWriter(root)
    writer.write(png(5), 0)
    writer.close()
    return root


def tables(root: Path) -> Path:
    import base64

    root.mkdir()
    image = base64.b64encode(png(5)).decode()
    (root / "FaceImageCroppedWithAlignment.tsv").write_text(
        f"m.0107_f\t1\thttp://a\thttp://b\tFaceId-0\tAAAA\t{image}\n"
    )
    return root


FORMATS: dict[str, Callable[[Path], Path]] = {
    "RecordImages": records,
    "TFRecordImages": tfrecords,
    "TarImages": tars,
    "ParquetImages": parquets,
    "MSCelebImages": tables,
}


def refusal(source: str | os.PathLike[str] | list[str]) -> str:
    with pytest.raises(DatasetError) as caught:
        open_dataset(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("reader", FORMATS)
def test_a_folder_and_its_file_under_any_name(tmp_path: Path, reader: str) -> None:
    folder = FORMATS[reader](tmp_path / "data")
    images = open_dataset(folder)
    assert type(images).__name__ == reader
    assert images.encoded(0) == png(5)
    (file,) = (path for path in folder.iterdir() if path.suffix not in (".idx", ".txt") and path.name != "property")
    assert type(open_dataset(str(file))).__name__ == reader
    if reader == "RecordImages":
        (folder / "train.idx").rename(folder / "anything.idx")
    renamed = file.rename(folder / "anything")
    images = open_dataset(renamed)
    assert type(images).__name__ == reader
    assert images.encoded(0) == png(5)


def test_class_folders(tmp_path: Path) -> None:
    images = open_dataset(folders(tmp_path, "Anna", "Ben"))
    assert isinstance(images, ImageFolder)
    assert images.names == ("Anna", "Ben")


def test_other_files_next_to_class_folders(tmp_path: Path) -> None:
    folders(tmp_path, "Anna")
    (tmp_path / "faces.parquet").write_bytes(b"PAR1 and so on")
    (tmp_path / "faces.csv").write_text("a,b\n")
    (tmp_path / "identities.tsv").write_text("id\tname\tsex\tage\tborn\tsource\nm.1\tAnna\tf\t30\t1980\twww\n")
    (tmp_path / "notes.tar").write_text("about tar files")
    assert isinstance(open_dataset(tmp_path), ImageFolder)


def test_other_files_next_to_a_training_set_of_insightface(tmp_path: Path) -> None:
    folders(records(tmp_path), "preview")
    (tmp_path / "lfw.bin").write_bytes(b"\x80\x02")
    assert isinstance(open_dataset(tmp_path), RecordImages)


@pytest.mark.parametrize("reader", [name for name in FORMATS if name != "RecordImages"])
def test_a_folder_of_two_kinds_is_refused(tmp_path: Path, reader: str) -> None:
    folder = folders(FORMATS[reader](tmp_path / "data"), "Anna")
    message = refusal(folder)
    assert "a folder must contain one kind of dataset, got class folders (folders such as Anna) and " in message


def test_the_reader_for_the_ending_reports_damage(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "part.tfrecord").write_bytes(b"damaged from the first byte on")
    assert "not a TFRecord file" in refusal(tmp_path / "a")
    (tmp_path / "x.rec").write_bytes(b"damaged")
    assert "not an MXNet RecordIO file" in refusal(tmp_path / "x.rec")


def test_an_old_tar(tmp_path: Path) -> None:
    old = bytearray(512)
    old[:6], old[100:108], old[124:136] = b"0.webp", b"0000644\0", b"00000000000\0"
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old)
    (tmp_path / "old").write_bytes(bytes(old) + bytes(1024))
    with tarfile.open(tmp_path / "old") as tar:
        assert tar.getnames() == ["0.webp"]
    assert "not a dataset" not in refusal(tmp_path / "old")
    (tmp_path / "old").write_bytes(bytes(old).replace(b"644", b"645") + bytes(1024))
    assert "not a dataset" in refusal(tmp_path / "old")


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 600, b"text\n", png(), b"a\tb\tc\n", b"\t" * 6, b"1\t2\t3\t4\t5\t6\n", b"\x80\x02]."]
)
def test_paths_that_are_not_a_dataset(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    for path in (tmp_path, tmp_path / "file"):
        message = refusal(path)
        assert (
            "not a dataset; expected class folders, an MXNet .rec, TFRecord files, tar shards, Parquet files" in message
        )


def test_the_hint_for_a_folder_around_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "README.md").touch()
    tars(tmp_path / "hub" / "data")
    assert f"{tmp_path}/hub: not a dataset; but {tmp_path}/hub/data is one" in refusal(tmp_path / "hub")
    folders(tmp_path / "lfw" / "images", "Anna")
    assert f"{tmp_path}/lfw: not a dataset; but {tmp_path}/lfw/images is one" in refusal(tmp_path / "lfw")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "00000.tar.gz").touch()
    assert "not a dataset; single images cannot be read from compressed files such as 00000.tar.gz" in refusal(
        tmp_path / "shards"
    )


@pytest.mark.parametrize(
    "name", ["a.tfrecord", "a.tfrecords", "a.tfrecords-00003", "a.tfrec", "A.TFR", "a-00001-of-00002"]
)
def test_endings_of_tfrecords_in_a_folder(tmp_path: Path, name: str) -> None:
    (tfrecords(tmp_path / "set") / "tran.tfrecords").rename(tmp_path / "set" / name)
    assert len(open_dataset(tmp_path / "set")) == 1


def test_a_pattern_of_shards(tmp_path: Path) -> None:
    for name in ("train-0.tar", "train-1.tar", "val-0.tar"):
        (tars(tmp_path / name[:-4]) / "00000.tar").rename(tmp_path / name)
    assert "train*" in refusal(tmp_path)
    assert len(open_dataset(tmp_path / "train-*")) == 2
    assert len(open_dataset(f"{tmp_path}/train-1*{os.pathsep}{tmp_path}/val-*")) == 2
    assert "no file matches this pattern" in refusal(tmp_path / "test-*")
    folders(tmp_path / "x", "Anna")
    assert "a pattern must match TFRecord, tar, Parquet, MS-Celeb-1M files" in refusal(
        tmp_path / "x" / "Anna" / "*.png"
    )


def test_empty_sources(tmp_path: Path) -> None:
    assert f"{tmp_path}/missing: no such file or folder" in refusal(tmp_path / "missing")
    assert "``: no such file or folder" in refusal("")
    assert "no dataset was given; expected" in refusal([])
    assert "no such file" in refusal("a\0b")
    os.mkfifo(tmp_path / "fifo")
    assert "not a dataset" in refusal(tmp_path / "fifo")
    (tmp_path / "x.tfrecord.gz").write_bytes(gzip.compress(b"records"))
    assert "single images cannot be read from a compressed file; unpack it" in refusal(tmp_path / "x.tfrecord.gz")
    (tmp_path / "empty" / "Anna").mkdir(parents=True)
    assert "not a dataset" in refusal(tmp_path / "empty")


# Several


def test_two_separated_by_a_colon(tmp_path: Path) -> None:
    a, b = folders(tmp_path / "a", "Anna", "Ben"), folders(tmp_path / "b", "Ben", "Cleo")
    for source in (f"{a}{os.pathsep}{b}", Path(f"{a}{os.pathsep}{b}"), [a, b], (str(a), b)):
        images = open_dataset(source)
        assert isinstance(images, UnionImages)
        assert images.names == ("Anna", "Ben", "Cleo")
        assert images.labels.tolist() == [0, 1, 1, 2]
    three = open_dataset([f"{a}{os.pathsep}{b}", records(tmp_path / "c")])
    assert list(three.names) == ["Anna", "Ben", "Cleo", "0 (dataset 3)"]
    assert three.encoded(4) == png(5)
    assert isinstance(open_dataset([a]), ImageFolder)


@pytest.mark.skipif(sys.platform == "win32", reason="no colon in names there")
def test_an_existing_path_with_a_colon_is_one_path(tmp_path: Path) -> None:
    folders(tmp_path / "a", "Anna")
    folders(tmp_path / "a:b", "Ben")
    assert open_dataset(f"{tmp_path}/a:b").names == ("Ben",)
    assert open_dataset(f"{tmp_path}/a:{tmp_path}/a").names == ("Anna",)


def test_every_tilde_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(tmp_path / "a", "Anna")
    folders(tmp_path / "b", "Ben")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert list(open_dataset(f"{tmp_path}/a{os.pathsep}~/b").names) == ["Anna", "Ben"]
    assert list(open_dataset("~/b").names) == ["Ben"]


@pytest.mark.parametrize("form", ["{a}:", ":{a}", "{a}::{a}", ":"])
def test_empty_parts(tmp_path: Path, form: str) -> None:
    source = form.format(a=folders(tmp_path / "a", "Anna")).replace(":", os.pathsep)
    assert f"expected paths separated by single `{os.pathsep}`, got an empty path" in refusal(source)
    assert "x: no such file or folder" in refusal(f"{tmp_path / 'a'}{os.pathsep}x")
