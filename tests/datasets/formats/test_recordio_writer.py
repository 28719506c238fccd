"""Writing RecordIO: the exact bytes, images that cannot be written, and resuming."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from facespace.datasets.formats.recordio import RecordImages
from facespace.datasets.formats.recordio_writer import RecordWriter
from facespace.errors import DatasetError, FacespaceError, ImageError
from support.recordio_files import LABELS, MAGIC, assert_is_the_set, content, insightface, part, parted, picture, write

PAYLOADS = st.lists(st.sampled_from([MAGIC, MAGIC, MAGIC[:2], b"a", b"bcd", b"efgh", b"\0"]), max_size=12).map(b"".join)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payloads=st.lists(PAYLOADS, min_size=1, max_size=4))
def test_magic_numbers_in_images(tmp_path: Path, payloads: list[bytes]) -> None:
    encoded = [picture(0), *(b"P6 1 1 255 " + payload for payload in payloads)]
    with RecordWriter(tmp_path) as writer:
        for label, image in enumerate(encoded):
            writer.write(image, label)
    images = RecordImages(tmp_path)
    assert [images.encoded(k) for k in range(len(encoded))] == encoded
    data = (tmp_path / "train.rec").read_bytes()
    by_hand = b"".join(parted(content(float(label), label + 1, image)) for label, image in enumerate(encoded))
    assert data.startswith(by_hand)
    assert data[len(by_hand) :].startswith(MAGIC)
    (tmp_path / "train.idx").unlink()
    with pytest.warns(UserWarning, match=f"built one of {2 * len(encoded) + 1} records"):
        again = RecordImages(tmp_path)
    assert [again.encoded(k) for k in range(len(encoded))] == encoded


def written(folder: Path, labels: Sequence[int], **options: Any) -> RecordImages:
    with RecordWriter(folder, **options) as writer:
        for number, label in enumerate(labels, 1):
            writer.write(picture(number), label)
    return RecordImages(folder)


def test_what_is_written_byte_by_byte(tmp_path: Path) -> None:
    assert_is_the_set(written(tmp_path / "out", LABELS))
    records = insightface(LABELS)
    for key, label in enumerate(LABELS, 1):
        records[key] = part(content(float(label), key, picture(key)))
    write(tmp_path / "expected", records, stated="4,4,4")
    for name in ("train.rec", "train.idx", "property"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes(), name
    assert len(os.listdir(tmp_path / "out")) == 3


def test_unreadable_images_are_written_too(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as writer:
        for encoded in (b"no image", b"\xff\xd8", picture(1, (3, 5)), picture(2)):
            writer.write(encoded, 0)
    assert (tmp_path / "property").read_text() == "1,5,3"
    images = RecordImages(tmp_path)
    assert images.encoded(0) == b"no image"
    with pytest.raises(ImageError, match="record 1: not an image"):
        images.read(0)


def test_the_size_in_property_is_height_and_width(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as writer:
        writer.write(picture(1, (3, 5)), 0)
    assert (tmp_path / "property").read_text() == "1,5,3"
    assert RecordImages(tmp_path).read(0).shape == (5, 3, 3)


def test_an_old_index_is_never_left_next_to_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, LABELS)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(
            "facespace.datasets.formats.recordio_writer.write_index", lambda *_: (_ for _ in ()).throw(OSError("full"))
        )
        written(tmp_path, [4, 4, 3])
    with pytest.warns(UserWarning, match="built one of 6 records"):
        assert_is_the_set(RecordImages(tmp_path), [4, 4, 3])


def test_labels_in_any_order_make_images_only(tmp_path: Path) -> None:
    labels = [3, 0, 3, 1]
    images = written(tmp_path, labels)
    assert_is_the_set(images, labels)
    assert len(images.names) == 4
    assert [line.split("\t")[0] for line in (tmp_path / "train.idx").read_text().splitlines()] == ["0", "1", "2", "3"]
    assert struct.unpack_from("<I", (tmp_path / "train.rec").read_bytes(), 8) == (0,)


def test_too_many_records_for_float32_make_images_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facespace.datasets.formats.recordio_writer.MAX_LABEL", 10)
    assert_is_the_set(written(tmp_path, LABELS))
    assert (tmp_path / "train.idx").read_text().startswith("0\t0\n")


def test_names_are_written_to_a_text_file(tmp_path: Path) -> None:
    assert list(written(tmp_path, [0, 1], names=["Anna", "王 小明", "Nobody"]).names) == ["Anna", "王 小明", "Nobody"]
    assert (tmp_path / "property").read_text() == "3,4,4"
    assert list(written(tmp_path, [0, 1], names=["0", "1"]).names) == ["0", "1"]
    assert not (tmp_path / "names.txt").exists()


@pytest.mark.parametrize(
    ("image", "label", "expected"),
    [
        (picture(1), -1, "the label must be from 0 to 16,777,215, got -1"),
        (picture(1), 2**24, "the label must be from"),
        (b"", 0, "cannot store an image of 0 bytes"),
        (b"no image", 0, "none of the images written can be read"),
    ],
)
def test_images_and_labels_that_cannot_be_written(tmp_path: Path, image: bytes, label: int, expected: str) -> None:
    written(tmp_path, LABELS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FacespaceError, match=expected), RecordWriter(tmp_path) as writer:
        writer.write(image, label)
    with pytest.raises(DatasetError, match="no image was written"), RecordWriter(tmp_path):
        pass
    with (
        pytest.raises(DatasetError, match="the label must be from 0 to 0, got 1"),
        RecordWriter(tmp_path, names=["A"]) as writer,
    ):
        writer.write(picture(1), 1)
    with pytest.raises(TypeError), RecordWriter(tmp_path) as writer:
        writer.write(picture(1), 0.5)  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("labels", [LABELS, [2, 0, 2, 1, 1, 0, 0]])
@pytest.mark.parametrize("kept", [1, 2, 5])
def test_a_writer_resumes_where_another_was_stopped(tmp_path: Path, labels: list[int], kept: int) -> None:
    written(tmp_path / "expected", labels)
    writer = RecordWriter(tmp_path / "out")
    place = 0
    for number, label in enumerate(labels[: kept + 1], 1):
        writer.write(picture(number), label)
        if number == kept:
            place = writer.sync()
    writer.abandon()
    assert os.listdir(tmp_path / "out") == [".facespace-train.rec"]
    with RecordWriter(tmp_path / "out", resume_at=place) as writer:
        for number, label in enumerate(labels[kept:], kept + 1):
            writer.write(picture(number), label)
    for name in ("train.rec", "train.idx", "property"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes(), name
    with pytest.raises(DatasetError, match="there is no unfinished file to resume"):
        RecordWriter(tmp_path / "out", resume_at=place)


def test_the_position_to_resume_at_is_the_length_on_the_disk(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "new" / "folder")
    places = []
    for number, label in enumerate([0, 0, 1], 1):
        writer.write(picture(number), label)
        places.append(writer.sync())
        assert (tmp_path / "new" / "folder" / ".facespace-train.rec").stat().st_size == places[-1]
    writer.abandon()
    length = len(part(content(0.0, 1, picture(1))))
    assert places == [length, 2 * length, 3 * length]


def test_a_damaged_file_is_not_resumed(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    for number in (1, 2):
        writer.write(picture(number), 0)
    place = writer.sync()
    writer.abandon()
    with pytest.raises(DatasetError):
        RecordWriter(tmp_path, resume_at=place - 4)
    unfinished = tmp_path / ".facespace-train.rec"
    unfinished.write_bytes(b"x" + unfinished.read_bytes()[1:])
    with pytest.raises(DatasetError):
        RecordWriter(tmp_path, resume_at=place)


def test_the_longest_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facespace.datasets.formats.recordio_writer.MAX_LENGTH", 24 + len(picture(1)))
    with RecordWriter(tmp_path) as writer:
        writer.write(picture(1), 0)
        with pytest.raises(DatasetError, match=f"{len(picture(1)) + 1} bytes"):
            writer.write(picture(1) + b"x", 0)
    assert RecordImages(tmp_path).labels.tolist() == [0]


def test_more_identities_than_labels(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="16,777,217"):
        RecordWriter(tmp_path / "out", names=range(2**24 + 1))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_names_of_an_older_dataset_are_removed(tmp_path: Path) -> None:
    written(tmp_path, [0, 1], names=["Anna", "Ben"])
    assert (tmp_path / "names.txt").read_text() == "Anna\nBen\n"
    assert list(written(tmp_path, [0, 1]).names) == ["0", "1"]
    assert not (tmp_path / "names.txt").exists()


@pytest.mark.parametrize("shift", [0, 1, 2, 3, 4])
def test_only_a_magic_number_at_a_multiple_of_four_splits_a_record(tmp_path: Path, shift: int) -> None:
    image = b"P6 1 1 255 " + bytes(1 + shift) + MAGIC + b"bc"  # after a header of 24 bytes: at byte 36, 37, …
    with RecordWriter(tmp_path) as writer:
        writer.write(image, 0)
    data = (tmp_path / "train.rec").read_bytes()
    flag = struct.unpack_from("<I", data, 4)[0] >> 29
    assert flag == (1 if shift in (0, 4) else 0)
    assert data.startswith(parted(content(0.0, 1, image)))
    assert RecordImages(tmp_path).encoded(0) == image
