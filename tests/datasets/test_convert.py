"""Conversion of every format to every other: order, names and bytes are kept, also after an interruption."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from facespace.datasets import convert as dataset_convert
from facespace.datasets.checksum import dataset_checksum
from facespace.datasets.convert import Conversion, convert_dataset
from facespace.datasets.names import Names
from facespace.datasets.opening import open_dataset
from facespace.datasets.protocol import LabelledImages
from facespace.datasets.writing import FORMATS
from facespace.errors import DatasetError
from facespace.faces.crops import CropRecord, read_record

pytest.importorskip("pyarrow")

NAMES = ["Anna", "Ben", "Zoë", "王 小明"]


def picture(number: int, size: int = 8) -> bytes:
    """Return a PPM, whose pixels are its bytes."""
    return b"P6 %d %d 255\n" % (size, size) + random.Random(number).randbytes(3 * size * size)


class InMemory:
    """A dataset in memory."""

    def __init__(self, names: Sequence[str], labels: Sequence[int], encoded: Sequence[bytes] | None = None) -> None:
        self.names = names
        self.labels: npt.NDArray[np.int64] = np.array(labels, np.int64)
        self._encoded = encoded or [picture(k) for k in range(len(labels))]

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        return self._encoded[index]

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        raise AssertionError("nothing is decoded")


def in_order(n: int = 40) -> InMemory:
    """Return a dataset in the order of sorted class folders."""
    return InMemory(NAMES, sorted(k % 4 for k in range(n)))


def slow_checksum(images: LabelledImages) -> str:
    chain = bytes(32)
    for k in range(len(images)):
        name = images.names[images.labels[k]].encode()
        image = hashlib.sha256(images.encoded(k)).digest()
        chain = hashlib.sha256(chain + len(name).to_bytes(4, "little") + name + image).digest()
    return chain.hex()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def as_lists(images: LabelledImages) -> tuple[list[str], list[int], list[bytes]]:
    return list(images.names), images.labels.tolist(), [images.encoded(k) for k in range(len(images))]


# Round trips


@pytest.mark.parametrize("to", FORMATS)
def test_a_round_trip_changes_nothing(tmp_path: Path, to: str) -> None:
    source = in_order()
    shown: list[tuple[int, int]] = []
    made = convert_dataset(
        source, tmp_path / "out", to=to, shard_images=15, progress=lambda done, total: shown.append((done, total))
    )
    assert made.checksum == slow_checksum(source) == dataset_checksum(source)
    assert (made.n_images, made.n_identities, made.n_here, made.n_unrecognised, made.renamed) == (40, 4, 40, 0, {})
    assert as_lists(open_dataset(tmp_path / "out")) == as_lists(source)
    assert os.listdir(tmp_path) == ["out"]
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]
    assert shown[-1] == (80, 80)
    record = json.loads((tmp_path / "out" / "convert.json").read_text("utf-8"))
    assert (record["format"], record["n_images"], record["checksum"]) == (to, 40, made.checksum)


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(FORMATS, 2)))
def test_from_every_format_to_every_other(tmp_path: Path, first: str, second: str) -> None:
    source = in_order(12)
    one = convert_dataset(source, tmp_path / "one", to=first)
    two = convert_dataset(tmp_path / "one", tmp_path / "two", to=second)
    assert one.checksum == two.checksum == slow_checksum(source)
    assert as_lists(open_dataset(tmp_path / "two")) == as_lists(source)


@pytest.mark.parametrize("to", FORMATS)
def test_identities_without_names_or_images(tmp_path: Path, to: str) -> None:
    labels = [11, 2, 2, 11, 5, 11]
    made = convert_dataset(InMemory(Names(13, {}), labels), tmp_path / "out", to=to)
    images = open_dataset(tmp_path / "out")
    assert (made.n_images, made.n_identities) == (6, 3)
    if to == "folder":  # sorted by class; numbers get leading zeros, so that they are sorted as numbers
        assert list(images.names) == ["02", "05", "11"]
        assert images.labels.tolist() == [0, 0, 1, 2, 2, 2]
        files = [path.name for path in sorted((tmp_path / "out").glob("*/*"))]
        assert files == [f"0000000{k}.ppm" for k in (2, 3, 5, 1, 4, 6)]
    else:
        assert as_lists(images)[1:] == (labels, [picture(k) for k in range(6)])
        assert list(images.names)[:12] == [str(k) for k in range(12)]

    made = convert_dataset(InMemory(Names(6, {1: "nobody", 3: "Cleo"}), [3, 4, 3]), tmp_path / "named", to=to)
    images = open_dataset(tmp_path / "named")
    assert made.n_identities == 3
    expected = ["4", "Cleo", "nobody"] if to == "folder" else ["0", "nobody", "2", "Cleo", "4", "5"]
    assert list(images.names) == expected
    if to != "folder":
        assert images.labels.tolist() == [3, 4, 3]


def test_images_in_any_order_keep_it(tmp_path: Path) -> None:
    source = InMemory(NAMES, [3, 0, 3, 1, 0, 2, 3, 1])
    checksums = {to: convert_dataset(source, tmp_path / to, to=to).checksum for to in FORMATS}
    assert set(checksums.values()) == {slow_checksum(source)}
    for to in FORMATS[1:]:
        assert as_lists(open_dataset(tmp_path / to)) == as_lists(source)


def test_unsafe_names(tmp_path: Path) -> None:
    names = ["../../evil", "/etc/passwd", "a\nb", "A", "a", "", ".hid", "caf\udce9", "con", "é" * 200, "x" * 3000]
    source = InMemory(names, list(range(len(names))))
    made = convert_dataset(source, tmp_path / "folder", to="folder")
    assert sorted(os.listdir(tmp_path)) == ["folder"]
    folders = {path.parent.relative_to(tmp_path / "folder").as_posix() for path in (tmp_path / "folder").rglob("*.ppm")}
    assert len(folders) == len(names)
    assert made.renamed["_._.._evil"] == "../../evil"
    assert made.renamed["a-2"] == "a"
    record = json.loads((tmp_path / "folder" / "convert.json").read_text("utf-8"))
    assert record["renamed"] == made.renamed
    for to in FORMATS[1:]:
        made = convert_dataset(source, tmp_path / to, to=to)
        found = list(open_dataset(tmp_path / to).names)
        assert found[:7] == ["../../evil", "/etc/passwd", "a\\nb", "A", "a", "_", ".hid"]
        assert (found[7], found[10]) == ("caf\\xe9", "x" * 1000)
        assert sorted(made.renamed) == ["_", "x" * 1000]


def test_files_that_are_not_images_are_copied_too(tmp_path: Path) -> None:
    source = InMemory(["a"], [0, 0, 0], [picture(0), b"<html>", b"\xff\xd8\xff cut"])
    for to in FORMATS:
        made = convert_dataset(source, tmp_path / to, to=to)
        assert made.n_unrecognised == 1
        assert as_lists(open_dataset(tmp_path / to))[2] == [picture(0), b"<html>", b"\xff\xd8\xff cut"]


def test_an_image_that_a_format_cannot_store_is_named(tmp_path: Path) -> None:
    source = InMemory(["Anna", "Ben"], [0, 1], [picture(0), b""])
    with pytest.raises(
        DatasetError, match=r"image 1 of the dataset \(Ben\): .*RecordIO cannot store an image of 0 bytes"
    ):
        convert_dataset(source, tmp_path / "a", to="recordio")
    assert not (tmp_path / "a").exists()
    convert_dataset(source, tmp_path / "b", to="parquet")
    assert as_lists(open_dataset(tmp_path / "b"))[2] == [picture(0), b""]


def test_several_datasets_become_one(tmp_path: Path) -> None:
    convert_dataset(InMemory(["Anna", "Ben"], [0, 1]), tmp_path / "a", to="folder")
    convert_dataset(InMemory(["Ben", "Cleo"], [0, 1]), tmp_path / "b", to="tfrecord")
    source = f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}"
    convert_dataset(source, tmp_path / "c", to="recordio")
    images = open_dataset(tmp_path / "c")
    assert (list(images.names), images.labels.tolist()) == (["Anna", "Ben", "Cleo"], [0, 1, 1, 2])
    again = convert_dataset([tmp_path / "a", str(tmp_path / "b")], tmp_path / "d", to="recordio")
    assert again.checksum == dataset_checksum(images)


def test_the_record_of_crops_is_copied(tmp_path: Path) -> None:
    convert_dataset(in_order(8), tmp_path / "a", to="folder")
    CropRecord(160, 32, "box").write(tmp_path / "a")
    convert_dataset(tmp_path / "a", tmp_path / "b", to="webdataset")
    convert_dataset(tmp_path / "b", tmp_path / "c", to="folder")
    assert read_record(tmp_path / "c") == CropRecord(160, 32, "box")


# Existing outputs


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    source = in_order(8)
    for name in ("file", "folder", "made"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").rmdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder" / "mine").write_text("mine")
    convert_dataset(source, tmp_path / "made", to="folder")  # an empty folder is accepted
    (tmp_path / "link").symlink_to("nowhere")
    before = contents(tmp_path)
    for name in ("file", "folder", "made", "link"):
        with pytest.raises(DatasetError, match=f"{name}: already exists and is left unchanged"):
            convert_dataset(source, tmp_path / name, to="tfrecord")
    with pytest.raises(DatasetError, match="already exists"):
        convert_dataset(in_order(9), tmp_path / "made", to="folder")
    again = convert_dataset(source, tmp_path / "made", to="folder")
    assert (again.n_here, again.checksum) == (0, slow_checksum(source))
    assert contents(tmp_path) == before


def test_the_output_must_not_be_inside_the_dataset(tmp_path: Path) -> None:
    convert_dataset(in_order(8), tmp_path / "a", to="folder")
    for out in (tmp_path / "a", tmp_path / "a" / "rec", tmp_path / "a" / "Anna" / "rec"):
        with pytest.raises(DatasetError, match="the output must not be inside the dataset"):
            convert_dataset(f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'a'}", out, to="recordio")
    convert_dataset(tmp_path / "a", tmp_path / "ab", to="recordio")


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images to convert"):
        convert_dataset(InMemory(["a"], []), tmp_path / "out", to="folder")
    (tmp_path / "empty" / "Anna").mkdir(parents=True)
    with pytest.raises(DatasetError, match="empty: "):
        convert_dataset(tmp_path / "empty", tmp_path / "out", to="tfrecord")
    with pytest.raises(DatasetError, match="no such file or folder"):
        convert_dataset(tmp_path / "missing", tmp_path / "out", to="tfrecord")
    with pytest.raises(ValueError, match="must be one of folder, recordio, tfrecord, webdataset, parquet, got 'zip'"):
        convert_dataset(in_order(8), tmp_path / "out", to="zip")
    with pytest.raises(ValueError, match="at least 1 image"):
        convert_dataset(in_order(8), tmp_path / "out", to="parquet", shard_images=0)
    assert os.listdir(tmp_path) == ["empty"]


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError):
        convert_dataset(in_order(8), tmp_path / "file" / "out", to="tfrecord")


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Waiting(InMemory):
        def encoded(self, index: int) -> bytes:
            if threading.current_thread().name.startswith("facespace-read"):
                begun.set()
                assert go_on.wait(30)
            return super().encoded(index)

    source = Waiting(NAMES, [0, 1, 2, 3])
    results: list[Conversion] = []
    thread = threading.Thread(target=lambda: results.append(convert_dataset(source, tmp_path / "out", to="tfrecord")))
    thread.start()
    assert begun.wait(30)
    with pytest.raises(DatasetError, match="out: another process is converting to it"):
        convert_dataset(InMemory(NAMES, [0, 1, 2, 3]), tmp_path / "out", to="tfrecord")
    go_on.set()
    thread.join()
    assert results[0].n_here == 4
    assert os.listdir(tmp_path) == ["out"]


# Stopped and resumed


class StopError(Exception):
    pass


class Stopping(InMemory):
    """Fails at one image, as a disk might."""

    at: int | None = None

    def encoded(self, index: int) -> bytes:
        if index == self.at and threading.current_thread().name.startswith("facespace-read"):
            raise StopError
        return super().encoded(index)


@pytest.fixture
def always_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Update the journal after every image."""
    monkeypatch.setattr(dataset_convert, "_SAFE_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.usefixtures("always_safe")
def test_a_stopped_run_is_resumed(tmp_path: Path, to: str) -> None:
    convert_dataset(in_order(), tmp_path / "once", to=to, shard_images=12)
    source = Stopping(NAMES, sorted(k % 4 for k in range(40)))
    for source.at in (9, 17, 33, 39, 0):
        with pytest.raises(StopError):
            convert_dataset(source, tmp_path / "out", to=to, shard_images=12)
            if source.at == 0:  # already written, if the run is resumed
                raise StopError
    made = convert_dataset(source, tmp_path / "out", to=to, shard_images=12)
    assert made.n_here == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "once")
    assert sorted(os.listdir(tmp_path)) == ["once", "out"]


@pytest.mark.parametrize("to", FORMATS)
def test_what_was_done_is_kept_when_a_run_is_stopped_in_order(tmp_path: Path, to: str) -> None:
    """Stopped by an error or Ctrl-C, not killed: nothing is done twice, except a shard that cannot be resumed."""
    source = Stopping(NAMES, sorted(k % 4 for k in range(40)))
    source.at = 33
    with pytest.raises(StopError):
        convert_dataset(source, tmp_path / "out", to=to, shard_images=12)
    source.at = None
    (tmp_path / ".facespace-out" / ".facespace-0123.json").write_text("of a write that was killed")
    made = convert_dataset(source, tmp_path / "out", to=to, shard_images=12)
    assert made.n_here == (16 if to == "parquet" else 8)
    convert_dataset(source, tmp_path / "once", to=to, shard_images=12)
    assert contents(tmp_path / "out") == contents(tmp_path / "once")


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.usefixtures("always_safe")
def test_stopped_while_the_end_is_made(tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the last image, before each call that finishes the files."""
    convert_dataset(in_order(), tmp_path / "once", to=to, shard_images=12)

    def stop(*_: Any, **__: Any) -> None:
        raise StopError

    ends = ("open_written", "_write_record", "_copy_crop_record", "_put_in_place", "dataset_checksum")
    for name in ends:
        with monkeypatch.context() as patch, pytest.raises(StopError):
            patch.setattr(dataset_convert, name, stop)
            convert_dataset(in_order(), tmp_path / "out", to=to, shard_images=12)
    with monkeypatch.context() as patch, pytest.raises(StopError):
        put = dataset_convert._put_in_place
        patch.setattr(dataset_convert, "_put_in_place", lambda *places: (put(*places), stop()))
        convert_dataset(in_order(), tmp_path / "out", to=to, shard_images=12)
    convert_dataset(in_order(), tmp_path / "out", to=to, shard_images=12)
    assert contents(tmp_path / "out") == contents(tmp_path / "once")
    assert sorted(os.listdir(tmp_path)) == ["once", "out"]


@pytest.mark.usefixtures("always_safe")
def test_records_stopped_while_they_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from facespace.datasets.formats import recordio_writer as record_writer

    convert_dataset(in_order(), tmp_path / "once", to="recordio")

    def stop(*_: Any) -> None:
        raise StopError

    for name in ("write_index", "write_names"):
        with monkeypatch.context() as patch, pytest.raises(StopError):
            patch.setattr(record_writer, name, stop)
            convert_dataset(in_order(), tmp_path / "out", to="recordio")
    with monkeypatch.context() as patch, pytest.raises(StopError):  # after the first record that is not an image
        append = record_writer.RecordWriter._append_range
        patch.setattr(record_writer.RecordWriter, "_append_range", lambda *where: (append(*where), stop()))
        convert_dataset(in_order(), tmp_path / "out", to="recordio")
    assert convert_dataset(in_order(), tmp_path / "out", to="recordio").n_here == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "once")


@pytest.mark.usefixtures("always_safe")
def test_only_the_same_run_is_resumed(tmp_path: Path) -> None:
    source = Stopping(NAMES, [0] * 20)
    source.at = 17
    with pytest.raises(StopError):
        convert_dataset(source, tmp_path / "out", to="webdataset")
    other = InMemory(NAMES, [0] * 20, [picture(k + 1) for k in range(20)])
    renamed = InMemory(["Ada", *NAMES[1:]], [0] * 20)
    for images, settings in (
        (other, {}),
        (renamed, {}),
        (InMemory(NAMES, [1] * 20), {}),
        (source, {"shard_images": 7}),
    ):
        with pytest.raises(
            DatasetError, match=r"\.facespace-out: contains an unfinished conversion of another dataset"
        ):
            convert_dataset(images, tmp_path / "out", to="webdataset", **settings)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="unfinished conversion"):
        convert_dataset(source, tmp_path / "out", to="tfrecord")


@pytest.mark.parametrize(
    "journal", ["", "{}", "[]", '{"settings": 1, "safe": 2}', "[" * 9999, '{"settings": {}, "safe": {"n_images": "x"}}']
)
def test_a_damaged_journal(tmp_path: Path, journal: str) -> None:
    (tmp_path / ".facespace-out").mkdir()
    (tmp_path / ".facespace-out" / ".facespace-journal.json").write_text(journal)
    with pytest.raises(DatasetError, match="the journal of an unfinished run is damaged; remove this folder"):
        convert_dataset(in_order(8), tmp_path / "out", to="tfrecord")


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.usefixtures("always_safe")
def test_what_was_written_is_checked_when_it_is_done(tmp_path: Path, to: str) -> None:
    """A byte that was safely on the disk changes before the run is resumed."""
    source = Stopping(NAMES, sorted(k % 4 for k in range(40)))
    source.at = 35
    with pytest.raises(StopError):
        convert_dataset(source, tmp_path / "out", to=to, shard_images=12)
    names = "00000001.ppm" if to == "folder" else "*"
    file = max((tmp_path / ".facespace-out").rglob(names), key=lambda path: path.stat().st_size)
    data = file.read_bytes()
    at = data.index(picture(0)) + 50
    file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    source.at = None
    with pytest.raises(DatasetError) as caught:
        convert_dataset(source, tmp_path / "out", to=to, shard_images=12)
    assert "damaged" in str(
        caught.value
    ) or "reading the written dataset back gave other images; remove this folder" in str(caught.value)
    assert not (tmp_path / "out").exists()


# Processes killed from outside


CHILD = """
import os, sys
from facespace.datasets import convert as dataset_convert
dataset_convert._SAFE_SECONDS = 0.0
os.fsync = os.sync = lambda *_: None
dataset_convert.convert_dataset(sys.argv[1], sys.argv[2], to=sys.argv[3], shard_images=50, progress=lambda *_: print(flush=True))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return enough images for a process to be killed while it writes them."""
    folder = tmp_path_factory.mktemp("many") / "source"
    source = InMemory(NAMES, sorted(k % 4 for k in range(600)), [picture(k, 30) for k in range(600)])
    convert_dataset(source, folder, to="tfrecord")
    return folder


@pytest.mark.parametrize("to", FORMATS)
def test_killed_at_any_moment(tmp_path: Path, many: Path, to: str) -> None:
    convert_dataset(many, tmp_path / "once", to=to, shard_images=50)
    chance = random.Random(to)
    n_killed = 0
    for n_lines in (2, chance.randrange(3, 20)):
        command = [sys.executable, "-c", CHILD, str(many), str(tmp_path / "out"), to]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(n_lines):
                process.stdout.readline()
            process.kill()
        n_killed += process.returncode != 0
    made = convert_dataset(many, tmp_path / "out", to=to, shard_images=50)
    assert n_killed
    assert made.n_here < 600
    assert contents(tmp_path / "out") == contents(tmp_path / "once")
    assert sorted(os.listdir(tmp_path)) == ["once", "out"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on a file's size")
@pytest.mark.parametrize("to", ["recordio", "parquet"])
def test_a_full_disk(tmp_path: Path, many: Path, to: str) -> None:
    """A limit on the size of files has the same effect: the system refuses to write more."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n{CHILD}"
    code = code.replace("shard_images=50", "shard_images=10_000")
    command = [sys.executable, "-c", code, str(many), str(tmp_path / "out"), to]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("OSError: [Errno 27]")
    assert not (tmp_path / "out").exists()
    made = convert_dataset(many, tmp_path / "out", to=to)
    assert as_lists(open_dataset(tmp_path / "out")) == as_lists(open_dataset(many))
    assert made.n_here < 600 or to == "parquet"


# Real data


@pytest.fixture(scope="module")
def real(shared: Path) -> Iterator[Path]:
    yield shared / "data"


@pytest.mark.shared
@pytest.mark.parametrize("to", FORMATS)
def test_real_records(real: Path, tmp_path: Path, to: str) -> None:
    made = convert_dataset(real / "records", tmp_path / "out", to=to)
    assert (made.n_images, made.n_identities, made.n_unrecognised) == (1293, 130, 0)
    images = open_dataset(tmp_path / "out")
    lines = [line.split("\t") for line in (real / "records" / "list.tsv").read_text().splitlines()[1:]]
    assert images.labels.tolist() == [int(label) for _, label, _, _ in lines]
    assert [hashlib.sha256(images.encoded(k)).hexdigest() for k in range(1293)] == [line[2] for line in lines]


@pytest.mark.shared
def test_real_folders_and_back(real: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for folder in sorted((real / "train_182").iterdir())[:12]:
        shutil.copytree(folder, tmp_path / "source" / folder.name)
    checksum = dataset_checksum(open_dataset(tmp_path / "source"))
    source = tmp_path / "source"
    for number, to in enumerate(("recordio", "tfrecord", "webdataset", "parquet", "folder")):
        made = convert_dataset(source, tmp_path / str(number), to=to)
        assert made.checksum == checksum
        source = tmp_path / str(number)
    assert {path.parent.name for path in source.rglob("*.jpg")} == {
        path.name for path in (tmp_path / "source").iterdir()
    }
