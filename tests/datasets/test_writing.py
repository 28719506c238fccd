"""The writers of every format: reading back what was written, and resuming."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.datasets.names import MAX_NAME, Names, folder_names
from facespace.datasets.opening import open_dataset
from facespace.datasets.writing import FORMATS, SHARDED, Writer, names_in, open_writer, open_written
from facespace.errors import DatasetError

pytest.importorskip("pyarrow")

LABELS = [2, 0, 2, 2, 1, 0, 1]
NAMED = Names(3, {0: "Anna", 1: "Ben", 2: "Zoë"})
NUMBERS = Names(3, {})
# Class folders need a name for each label.
FOLDERS = Names(3, {0: "0", 1: "1", 2: "2"})


def picture(number: int) -> bytes:
    """Return a PPM of random pixels."""
    return b"P6 8 8 255\n" + np.random.default_rng(number).bytes(3 * 64)


def opened(to: str, folder: Path, names: Names = NAMED, *, shard_images: int = 2, **options: Any) -> Writer:
    return open_writer(to, folder, names, shard_images=shard_images, shard_bytes=10**9, **options)


def write(writer: Writer, numbers: Sequence[int]) -> None:
    for number in numbers:
        writer.write(picture(number), LABELS[number])


def written(to: str, folder: Path, names: Names = NAMED, **options: Any) -> Path:
    folder.mkdir()
    writer = opened(to, folder, names, **options)
    write(writer, range(len(LABELS)))
    writer.close()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Names


@pytest.mark.parametrize("to", sorted(set(FORMATS) - {"folder"}))
def test_all_formats_except_folders_keep_names_as_text(to: str) -> None:
    names = {0: "a/b", 3: "", 4: " \t", 5: "x" * (MAX_NAME + 1), 7: "line\nbreak", 9: "caf\udce9", 10: "7"}
    assert names_in(to, names, 20) == {
        0: "a/b", 3: "_", 4: "_", 5: "x" * MAX_NAME, 7: "line\\nbreak", 9: "caf\\xe9", 10: "7",
    }  # fmt: skip


def test_folders_get_safe_names() -> None:
    names = {1: "../up", 4: "Anna", 6: "anna", 9: ""}
    assert names_in("folder", names, 10) == dict(zip(names, folder_names(list(names.values())), strict=True))
    assert names_in("folder", names, 10)[4] == "Anna"


def test_numbered_folders_are_sorted_as_numbers() -> None:
    for n_labels in (1, 10, 11, 100, 101, 1000):
        names = names_in("folder", {label: str(label) for label in range(n_labels)}, n_labels)
        assert sorted(names.values()) == list(names.values())
        assert [int(name) for name in names.values()] == list(range(n_labels))
        assert {len(name) for name in names.values()} == {len(str(n_labels - 1))}


def test_numbers_that_are_names_are_not_changed() -> None:
    assert names_in("folder", {0: "7", 1: "11"}, 12) == {0: "7", 1: "11"}
    assert names_in("folder", {0: "0", 1: "Ben"}, 12) == {0: "0", 1: "Ben"}
    # The width is that of the largest label, also if it has no images.
    assert names_in("folder", {3: "3"}, 101) == {3: "003"}
    assert names_in("folder", {}, 5) == {}


# Writing and reading back


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("names", [NAMED, NUMBERS], ids=["named", "numbers"])
def test_what_is_written_is_read_back_in_its_order(tmp_path: Path, to: str, names: Names) -> None:
    if to == "folder" and not names.known:
        names = FOLDERS
    images = open_written(to, written(to, tmp_path / "out", names), names)
    assert images.labels.tolist() == LABELS
    assert [images.encoded(k) for k in range(len(LABELS))] == [picture(k) for k in range(len(LABELS))]
    assert list(images.names) == list(names)


@pytest.mark.parametrize("to", FORMATS)
def test_a_format_is_recognised_by_its_files(tmp_path: Path, to: str) -> None:
    """`open_dataset` recognises what a writer wrote as a dataset of the same people."""
    images = open_dataset(written(to, tmp_path / "out"))
    assert sorted(zip(images.labels.tolist(), map(images.encoded, range(len(images))), strict=True)) == sorted(
        (label, picture(k)) for k, label in enumerate(LABELS)
    )
    assert list(images.names) == ["Anna", "Ben", "Zoë"]


@pytest.mark.parametrize(
    ("to", "files"),
    [
        (
            "folder",
            [f"{NAMED[label]}/{k:08d}.ppm" for k, label in enumerate(LABELS, 1)],
        ),
        ("recordio", ["names.txt", "property", "train.idx", "train.rec"]),
        ("tfrecord", ["names.txt", "tran.tfrecords"]),
        ("webdataset", ["names.txt", *(f"{k:05d}.tar" for k in range(4))]),
        ("parquet", ["names.txt", *(f"{k:05d}.parquet" for k in range(4))]),
    ],
)
def test_the_files_of_a_format(tmp_path: Path, to: str, files: list[str]) -> None:
    assert set(contents(written(to, tmp_path / "out"))) == set(files)
    n_files = len(os.listdir(written(to, tmp_path / "one shard", shard_images=100)))
    assert (n_files < len(os.listdir(tmp_path / "out"))) == (to in SHARDED)


@pytest.mark.parametrize("to", sorted(set(FORMATS) - {"folder"}))
def test_people_without_names_have_no_list_of_names(tmp_path: Path, to: str) -> None:
    assert "names.txt" not in contents(written(to, tmp_path / "out", NUMBERS))
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize("to", SHARDED)
def test_a_shard_ends_when_it_has_enough_bytes(tmp_path: Path, to: str) -> None:
    writer = open_writer(to, tmp_path, NUMBERS, shard_images=100, shard_bytes=1)
    write(writer, range(3))
    writer.close()
    assert len(os.listdir(tmp_path)) == 3


# Resuming


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("kept", [2, 4, 6])
def test_a_writer_resumes_where_another_was_stopped(tmp_path: Path, to: str, kept: int) -> None:
    """After complete shards, where every format has a position to resume at. One more image is written and lost."""
    expected = contents(written(to, tmp_path / "expected"))
    (tmp_path / "out").mkdir()
    writer = opened(to, tmp_path / "out")
    write(writer, range(kept))
    place = json.loads(json.dumps(writer.sync()))  # as a journal stores it
    assert place is not None
    write(writer, [kept])
    writer.abandon()
    writer = opened(to, tmp_path / "out", resume_at=place)
    write(writer, range(kept, len(LABELS)))
    writer.close()
    assert contents(tmp_path / "out") == expected


def test_renamed_records_are_resumed(tmp_path: Path) -> None:
    """A writer stopped between its last steps leaves a finished `train.rec`, with or without the other files."""
    expected = contents(written("recordio", tmp_path / "expected"))
    for n_others in (0, 1, 2):
        folder = tmp_path / f"out {n_others}"
        folder.mkdir()
        writer = opened("recordio", folder)
        write(writer, range(4))
        place = writer.sync()
        write(writer, range(4, len(LABELS)))
        writer.close()
        for name in ("train.idx", "property")[: 2 - n_others]:
            (folder / name).unlink()
        writer = opened("recordio", folder, resume_at=place)
        assert "train.rec" not in os.listdir(folder)
        write(writer, range(4, len(LABELS)))
        writer.close()
        assert contents(folder) == expected


@pytest.mark.parametrize(
    ("to", "place"), [("recordio", 500), ("tfrecord", 500), ("webdataset", [2, 0, 2, 4096]), ("parquet", [1, 2])]
)
def test_missing_files_cannot_be_resumed(tmp_path: Path, to: str, place: Any) -> None:
    with pytest.raises(DatasetError) as caught:
        opened(to, tmp_path, resume_at=place)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("to", "place"),
    [*((to, place) for to in ("recordio", "webdataset") for place in ("x", [1, "x"], {"a": 1})), ("parquet", [1, "x"])],
)
def test_invalid_positions(tmp_path: Path, to: str, place: Any) -> None:
    """A journal that was edited."""
    writer = opened(to, tmp_path, NUMBERS)
    write(writer, range(3))
    writer.close()
    with pytest.raises(DatasetError):
        opened(to, tmp_path, NUMBERS, resume_at=place)


def test_other_errors_are_raised_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        opened("tfrecord", tmp_path / "nowhere", NUMBERS)
