"""MXNet RecordIO: what MXNet wrote comes out, what was written comes out again, and what is wrong is told."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import shutil
import struct
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from facespace.datasets.formats import recordio, recordio_index as record_index
from facespace.datasets.formats.recordio import RecordImages, read_property
from facespace.datasets.formats.recordio_file import RecordFile
from facespace.datasets.formats.recordio_writer import RecordWriter
from facespace.errors import DatasetError, FacespaceError, ImageError

MAGIC = b"\x0a\x23\xd7\xce"


def picture(number: int, size: tuple[int, int] = (4, 4)) -> bytes:
    """A PPM, which is its bytes: any may be in it."""
    return b"P6 %d %d 255\n" % size + bytes(number % 256 for _ in range(3 * size[0] * size[1]))


# Files by hand, from the layout alone


def part(payload: bytes, flag: int = 0) -> bytes:
    return MAGIC + struct.pack("<I", flag << 29 | len(payload)) + payload + bytes(-len(payload) % 4)


def content(labels: float | Sequence[float], key: int, image: bytes) -> bytes:
    if isinstance(labels, (int, float)):
        return struct.pack("<IfQQ", 0, labels, key, 0) + image
    return struct.pack("<IfQQ", len(labels), 0, key, 0) + struct.pack(f"<{len(labels)}f", *labels) + image


Records = dict[int, bytes]  # key to record, in the order of the file


def write(folder: Path, records: Records, *, index: bool | str = True, stated: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines, data = "", b""
    for key, record in records.items():
        lines += f"{key}\t{len(data)}\n"
        data += record
    (folder / "train.rec").write_bytes(data)
    if index:
        (folder / "train.idx").write_text(lines if index is True else index)
    if stated is not None:
        (folder / "property").write_text(stated)
    return folder


def insightface(labels: Sequence[int], ranges: Sequence[tuple[float, float]] | None = None) -> Records:
    """Images with these labels, in runs; the identities' records; record 0 last."""
    records = {key: part(content([label, key], key, picture(key))) for key, label in enumerate(labels, 1)}
    n0 = len(labels) + 1
    if ranges is None:
        starts = [key for key in range(1, n0) if key == 1 or labels[key - 1] != labels[key - 2]]
        ranges = list(zip(starts, [*starts[1:], n0], strict=True))
    for key, bounds in enumerate(ranges, n0):
        records[key] = part(content(bounds, key, b""))
    records[0] = part(content([n0, n0 + len(ranges)], 0, b""))
    return records


LABELS = [0, 0, 0, 1, 2, 2, 3]


def assert_is_the_set(images: RecordImages, labels: Sequence[int] = LABELS) -> None:
    assert len(images) == len(labels)
    assert images.labels.tolist() == list(labels)
    assert images.labels.dtype == np.int64
    assert [images.encoded(k) for k in range(len(labels))] == [picture(k) for k in range(1, len(labels) + 1)]


def refusal(folder: Path | str, *, index: int | None = None) -> str:
    with pytest.raises(DatasetError) as caught:
        images = RecordImages(folder)
        if index is not None:
            images.encoded(index)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 400 + len(str(folder))
    return said


# What is read


@pytest.mark.shared
def test_every_image_that_mxnet_wrote(shared: Path) -> None:
    images = RecordImages(shared / "data" / "records")
    rows = [line.split("\t") for line in (shared / "data" / "records" / "list.tsv").read_text().splitlines()[1:]]
    assert len(images) == len(rows) == 1293
    assert list(images.names) == [str(number) for number in range(130)]
    for index, (key, label, digest, n_bytes) in enumerate(rows):
        encoded = images.encoded(index)
        assert key == str(index + 1)
        assert images.labels[index] == int(label)
        assert len(encoded) == int(n_bytes)
        assert hashlib.sha256(encoded).hexdigest() == digest
    pixels = images.read(7)
    assert pixels.shape == (112, 112, 3)
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(images.encoded(7)))))


@pytest.mark.shared
def test_the_index_mxnet_wrote_comes_out_of_the_file_alone(shared: Path, tmp_path: Path) -> None:
    shutil.copyfile(shared / "data" / "records" / "train.rec", tmp_path / "train.rec")
    with pytest.warns(UserWarning, match="no index beside it; made one of 1,424 records, saved as train.idx"):
        images = RecordImages(tmp_path)
    assert (tmp_path / "train.idx").read_bytes() == (shared / "data" / "records" / "train.idx").read_bytes()
    assert np.array_equal(images.labels, RecordImages(shared / "data" / "records").labels)


@pytest.mark.parametrize("stated", [None, "4,4,4", "9,4,4\n"])
def test_insightface_layout(tmp_path: Path, stated: str | None) -> None:
    images = RecordImages(write(tmp_path, insightface(LABELS), stated=stated))
    assert_is_the_set(images)
    assert list(images.names) == [str(k) for k in range(9 if stated and stated[0] == "9" else 4)]
    assert images.read(3).tolist() == [[[4, 4, 4]] * 4] * 4
    assert_is_the_set(RecordImages(str(tmp_path / "train.rec")))


@pytest.mark.parametrize(
    ("counts", "picture_0"),
    [*(((8, n), b"") for n in (4, 3, 0, 8)), ((7, 4), b""), ((8, 4, 1), b""), ((8, 4), picture(0))],
)
def test_packers_that_write_no_identities(tmp_path: Path, counts: tuple[float, ...], picture_0: bytes) -> None:
    """What record 0 says behind the number of records, of images, or of something else is each packer's own."""
    records = {key: part(content([label, key], key, picture(key))) for key, label in enumerate(LABELS, 1)}
    header = {0: part(content(counts, 0, picture_0))}
    assert_is_the_set(RecordImages(write(tmp_path / "last", records | header, stated="4,4,4")))
    images = RecordImages(write(tmp_path / "first", header | records))
    assert_is_the_set(images)
    with pytest.warns(UserWarning, match="made one of 8 records"):
        assert_is_the_set(RecordImages(write(tmp_path / "no index", header | records, index=False)))


def test_keys_left_out_that_record_0_counts(tmp_path: Path) -> None:
    """A packer that passed over photos it could not read."""
    records = insightface([0, 0, 0, 0, 1, 1, 2, 2, 2, 3])
    for key in (3, 7, 8):
        del records[key]
    images = RecordImages(write(tmp_path, records))
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 2, 3]
    assert [images.encoded(k) for k in range(7)] == [picture(k) for k in (1, 2, 4, 5, 6, 9, 10)]
    del records[12]
    assert RecordImages(write(tmp_path, records)).labels.tolist() == [0, 0, 0, 1, 1, 2, 3]


def test_images_of_two_labels_without_record_0(tmp_path: Path) -> None:
    records = {key: part(content([label, 7.0], key, picture(key + 1))) for key, label in enumerate(LABELS)}
    assert_is_the_set(RecordImages(write(tmp_path, records)))


@pytest.mark.parametrize("stated", ["4,4,4\n7\n", "4, 4, 4", "\ufeff4,4,4\r\n", " 4 ,4,4\n"])
def test_how_properties_are_written(tmp_path: Path, stated: str) -> None:
    assert_is_the_set(RecordImages(write(tmp_path, insightface(LABELS), stated=stated)))


def test_images_only(tmp_path: Path) -> None:
    records = {key: part(content(float(label), key, picture(key + 1))) for key, label in enumerate(LABELS)}
    assert_is_the_set(RecordImages(write(tmp_path / "a", records)))
    # Several labels, of which the first counts, as keys any numbers, record 0 an image among the others.
    keys = [17, 3, 0, 5, 10**12, 9, 8]
    records = {
        key: part(content([label, 0.5, -1], 0, picture(k)))
        for k, (key, label) in enumerate(zip(keys, LABELS, strict=True), 1)
    }
    assert_is_the_set(RecordImages(write(tmp_path / "b", records)))
    # One label in the list is one, too.
    records = {k: part(content([label], k, picture(k))) for k, label in enumerate(LABELS, 1)}
    assert_is_the_set(RecordImages(write(tmp_path / "c", records)))


def test_labels_are_those_of_the_images_in_whatever_order_the_identities_lie(tmp_path: Path) -> None:
    labels = [5, 5, 2, 0, 0, 0, 9]
    records = insightface(labels, [(3, 4), (4, 7), (2, 2), (7, 8), (1, 3)])  # one of them without images
    assert_is_the_set(RecordImages(write(tmp_path / "a", records, stated="10,4,4")), labels)
    # Image 3 and the last belong to no identity's record.
    assert_is_the_set(RecordImages(write(tmp_path / "b", insightface(labels, [(4, 7), (1, 3)]))), labels)
    # No identities, but record 0.
    assert_is_the_set(RecordImages(write(tmp_path / "c", insightface(labels, []))), labels)


def test_counts_that_float32_rounds_are_found_in_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordio, "_ROUNDED", 10)  # in truth 2**24
    records = insightface(LABELS)
    for rounded in (7, 8, 9, 10):
        records[0] = part(content([rounded, 12], 0, b""))
        assert_is_the_set(RecordImages(write(tmp_path, records)))
    rounded_ranges = [(1, 5), (5, 5), (5, 7), (7, 9)]
    assert_is_the_set(RecordImages(write(tmp_path, insightface(LABELS, rounded_ranges))))


def test_names_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path, insightface(LABELS))
    (tmp_path / "names.txt").write_text("Anna\nBen\n王 小明\nZoë\nNobody\n", encoding="utf-8")
    assert list(RecordImages(tmp_path).names) == ["Anna", "Ben", "王 小明", "Zoë", "Nobody"]
    (tmp_path / "names.txt").write_text("Anna\n", encoding="utf-8")
    assert list(RecordImages(tmp_path).names) == ["Anna", "1", "2", "3"]


def test_a_folder_with_one_other_file(tmp_path: Path) -> None:
    write(tmp_path, insightface(LABELS))
    for ending in ("rec", "idx"):
        (tmp_path / f"train.{ending}").rename(tmp_path / f"val.1.{ending}")
    assert_is_the_set(RecordImages(tmp_path))
    (tmp_path / "other.rec").write_bytes(b"")
    assert "2 .rec files in this folder; name one of them" in refusal(tmp_path)
    assert_is_the_set(RecordImages(tmp_path / "val.1.rec"))


# The index


def test_an_index_is_made_and_saved_once(tmp_path: Path) -> None:
    records = insightface(LABELS)
    with pytest.warns(UserWarning, match=r"train\.rec: no index beside it; made one of 12 records, saved"):
        assert_is_the_set(RecordImages(write(tmp_path, records, index=False)))
    made = (tmp_path / "train.idx").read_bytes()
    write(tmp_path / "wanted", records)
    assert made == (tmp_path / "wanted" / "train.idx").read_bytes()
    assert_is_the_set(RecordImages(tmp_path))  # without a warning, which would be an error


def test_an_index_that_cannot_be_saved_is_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(recordio, "write_index", forbidden)
    write(tmp_path, insightface(LABELS), index=False)
    with pytest.warns(UserWarning, match=r"kept in memory, as train.idx cannot be written \(Permission denied\)"):
        images = RecordImages(tmp_path)
    assert os.listdir(tmp_path) == ["train.rec"]
    assert_is_the_set(pickle.loads(pickle.dumps(images)))  # without making it again


def test_keys_count_the_records_where_these_do_not_tell_them(tmp_path: Path) -> None:
    records = {key: part(content(float(label), 7, picture(key + 1))) for key, label in enumerate(LABELS)}
    with pytest.warns(UserWarning, match="made one of 7 records"):
        assert_is_the_set(RecordImages(write(tmp_path, records, index=False)))
    assert (tmp_path / "train.idx").read_text().startswith("0\t0\n1\t")
    records = {7 - key: part(content(0.0, 2**40 + 7 - key, picture(key))) for key in range(1, 8)}
    with pytest.warns(UserWarning, match="made one of 7 records"):
        assert_is_the_set(RecordImages(write(tmp_path / "b", records, index=False)), [0] * 7)
    assert (tmp_path / "b" / "train.idx").read_text().startswith("0\t0\n1\t")
    # Insightface's record 0 lies last and is told from the others by its counts.
    records = {key: record[:16] + bytes(8) + record[24:] for key, record in insightface(LABELS).items()}
    with pytest.warns(UserWarning, match="made one of 12 records"):
        assert_is_the_set(RecordImages(write(tmp_path / "c", records, index=False)))
    assert (tmp_path / "c" / "train.idx").read_text().startswith("1\t0\n2\t")


def test_no_index_is_left_beside_what_does_not_open(tmp_path: Path) -> None:
    records = insightface(LABELS) | {4: part(content([1.5, 4], 4, picture(4)))}
    assert "wanted a label" in refusal(write(tmp_path, records, index=False))
    assert os.listdir(tmp_path) == ["train.rec"]


@pytest.mark.parametrize("chunk", [1, 2, 5, 7, 50, 10_000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "", "\n\n\n", "\r\n\r\n"])
def test_lines_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, end: str) -> None:
    monkeypatch.setattr(record_index, "_CHUNK", chunk)
    rows = [(key * 37 % 1009, key * 7476) for key in range(40)]
    path = tmp_path / "train.idx"
    between = "\r\n" if "\r" in end else "\n"
    path.write_bytes(between.join(f"{key}\t{offset}" for key, offset in rows).encode() + end.encode())
    keys, offsets = record_index.read_index(str(path), 10**6)
    assert list(zip(keys.tolist(), offsets.tolist(), strict=True)) == rows


GOOD = "1\t0\n2\t96\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "the index is empty"),
        ("\n" + GOOD, r"line 1: wanted a key, a tab and an offset; got ``"),
        (GOOD + "\n3\t192\n", "line 3: wanted .* got ``"),
        ("\n\n", "the index is empty"),
        (GOOD + "3\n", r"line 3: wanted .* got `3`"),
        (GOOD + "3\t-96\n", r"line 3: wanted .* got `3\\t-96`"),
        (GOOD + "3 192\n", r"line 3: wanted .* got `3 192`"),
        (GOOD + "3\t192\t1\n", "line 3"),
        (GOOD + "3\t1.5\n", "line 3"),
        (GOOD + "3\t٣\n", "line 3"),
        (GOOD + "3\t\n", "line 3"),
        ("1\t0\t2\n96\n", "line 1"),
        (GOOD + "3\t9999999999999999999\n", "line 3: wanted"),
        (GOOD + "x" * 100, "line 3"),
        (GOOD + "3\t98\n", r"line 3: no record begins at byte 98 of a \.rec"),
        (GOOD + "3\t96000\n", r"line 3: no record begins at byte 96,000 of a \.rec"),
        (GOOD + "2\t192\n", "key 2 is there twice"),
        (GOOD + "3\t96\n", "offset 96 is there twice"),
        ("".join(f"{key}\t0\n" for key in range(100)), "more lines than its .rec has room for records|offset 0 is"),
        ("1\t0\n" * 1000, "room for 20 records, far fewer than this index has lines"),
    ],
)
def test_what_is_no_index(tmp_path: Path, text: str, wanted: str) -> None:
    records = {key: part(content(0.0, key, picture(key))) for key in range(1, 8)}
    write(tmp_path, records)
    (tmp_path / "train.idx").write_text(text, encoding="utf-8")
    assert re.search(wanted, refusal(tmp_path))


# What does not fit together


@pytest.mark.parametrize(
    ("stated", "wanted"),
    [
        ("3,4,4", r"record 7: label 3, but the property beside it says 3 identities, labels 0 to 2"),
        ("4,4,5", r"record 1: an image of 4x4 px, but the property beside it says 5x4"),
        ("4,4", r"property: wanted `identities,height,width`; got `4,4`"),
        ("", "property: the file is empty"),
        ("0,4,4", "property: wanted"),
        ("-4,4,4", "property: wanted"),
        ("4,4.0,4", "property: wanted"),
        ("٤,4,4", "property: wanted"),
        ("99999999,4,4", "property: wanted"),
        ("1" * 2000, "property: .* no file of its kind is longer"),
    ],
)
def test_what_is_no_property_of_this_file(tmp_path: Path, stated: str, wanted: str) -> None:
    write(tmp_path, insightface(LABELS))
    (tmp_path / "property").write_text(stated, encoding="utf-8")
    assert re.search(wanted, refusal(tmp_path))


def test_a_property() -> None:
    assert read_property("/nowhere/property") is None


@pytest.mark.parametrize("label", [0.5, -1.0, -0.25, float("nan"), float("inf"), 2.0**24, 1e30])
@pytest.mark.parametrize("kind", ["plain", "list", "insightface"])
def test_labels_that_are_none(tmp_path: Path, label: float, kind: str) -> None:
    if kind == "insightface":
        records = insightface([0, 0, 1, 1])
        records[3] = part(content([label, 3], 3, picture(3)))
    else:
        records = {key: part(content(float(key), key, picture(key))) for key in range(5)}
        records[3] = part(content(label if kind == "plain" else [label, 1], 3, picture(3)))
    said = refusal(write(tmp_path, records))
    assert "wanted a label, a whole number from 0 to 16,777,215; got " in said
    assert f"byte {len(b''.join(records[key] for key in list(records)[: list(records).index(3)])):,}" in said


@pytest.mark.parametrize(
    ("ranges", "wanted"),
    [
        ([(1, 4), (3, 6), (6, 8)], "the ranges of identities overlap: record 3 belongs to two of them"),
        ([(1, 8), (4, 5)], "the ranges of identities overlap: record 4 belongs"),
        ([(0, 4)], r"record 8: wanted the range of an identity's images within 1 to 8 .* got 0 to 4"),
        ([(1, 4), (4, 9)], "record 9: wanted the range .* got 4 to 9"),
        ([(4, 1)], "record 8: wanted the range .* got 4 to 1"),
        ([(1, 3.5)], "record 8: wanted the range .* got 1 to 3.5"),
        ([(1.5, 3)], "record 8: wanted the range .* got 1.5 to 3"),
        ([(float("nan"), 3)], "record 8: wanted the range .* got nan to 3"),
    ],
)
def test_ranges_that_are_none(tmp_path: Path, ranges: list[tuple[float, float]], wanted: str) -> None:
    assert re.search(wanted, refusal(write(tmp_path, insightface(LABELS, ranges))))


@pytest.mark.parametrize("header", [(8, 13), (13, 12), (0, 12), (8.5, 12), (-3, 12), (float("nan"), 12), (8, 11)])
def test_record_0_counts_other_records(tmp_path: Path, header: tuple[float, float]) -> None:
    records = insightface(LABELS)
    records[0] = part(content(header, 0, b""))
    said = refusal(write(tmp_path, records))
    assert "record 0: it counts" in said
    assert "the index has 12, up to key 11, 7 of them images; they do not belong together" in said


@pytest.mark.parametrize("labels", [[4], 4.0])
def test_an_identity_s_record_without_a_range(tmp_path: Path, labels: float | list[float]) -> None:
    records = insightface(LABELS)
    records[9] = part(content(labels, 9, b"\0" * 8))
    assert "record 9: wanted the range of an identity's images" in refusal(write(tmp_path, records))


def test_keys_with_a_gap(tmp_path: Path) -> None:
    records = insightface(LABELS)
    records = {key if key != 11 else 12: record for key, record in records.items()}
    assert "the index has 12, up to key 12, 7 of them images; they do not belong together" in refusal(
        write(tmp_path, records)
    )


def test_a_record_0_that_is_neither_an_image_nor_a_count(tmp_path: Path) -> None:
    for labels in ([8], 8.0):
        records = insightface(LABELS) | {0: part(content(labels, 0, b""))}
        assert "no image in it" in refusal(write(tmp_path, records))


def test_record_0_counts_an_identity_s_record_as_image(tmp_path: Path) -> None:
    records = insightface(LABELS)
    records[0] = part(content((9, 12), 0, b""))
    assert "no image in it" in refusal(write(tmp_path, records))


def test_a_label_that_is_not_its_identity_s(tmp_path: Path) -> None:
    records = insightface(LABELS)
    records[2] = part(content([3, 2], 2, picture(2)))
    images = RecordImages(write(tmp_path, records))
    assert images.encoded(0) == picture(1)
    with pytest.raises(DatasetError, match="record 2 has label 3, but the record of its identity makes it 0"):
        images.read(1)


def test_an_index_of_another_file(tmp_path: Path) -> None:
    records = insightface(LABELS)
    offsets = [b"".join(list(records.values())[:k]) for k in range(12)]
    lines = [f"{key}\t{len(before)}" for key, before in zip(records, offsets, strict=True)]
    lines[1] = lines[1].split("\t")[0] + f"\t{int(lines[1].split(chr(9))[1]) + 4}"
    said = refusal(write(tmp_path, records, index="\n".join(lines) + "\n"), index=1)
    assert "record 2: no record begins at byte" in said
    assert "remove the index to have it made again" in said


def test_a_magic_number_that_is_damaged(tmp_path: Path) -> None:
    records = insightface(LABELS)
    records[2] = b"\0" + records[2][1:]
    assert "record 2: no record begins at byte 100" in refusal(write(tmp_path / "a", records), index=1)
    records = {key: part(content(0.0, key, picture(key))) for key in range(5)}
    records[2] = b"\0" + records[2][1:]
    assert "no record begins at byte 184" in refusal(write(tmp_path / "b", records))


def test_a_record_that_is_too_long_for_the_file(tmp_path: Path) -> None:
    records = insightface(LABELS)
    records[2] = MAGIC + struct.pack("<I", 100_000) + records[2][8:]
    write(tmp_path, records)
    assert "record 2: damaged or cut short: its 100,000 bytes reach beyond the end" in refusal(tmp_path, index=1)
    (tmp_path / "train.idx").unlink()
    assert "no whole record is at 100" in refusal(tmp_path)


def test_labels_that_do_not_fit_into_their_record(tmp_path: Path) -> None:
    records = {key: part(content(0.0, key, picture(key))) for key in range(3)}
    records[1] = part(struct.pack("<IfQQ", 2**32 - 1, 0, 1, 0) + picture(1))
    assert "4,294,967,295 labels do not fit into its" in refusal(write(tmp_path / "a", records))
    records[1] = part(b"too short")
    write(tmp_path / "b", records)
    assert "9 bytes are too few for a record of an image" in refusal(tmp_path / "b")
    (tmp_path / "b" / "train.idx").unlink()
    assert "no whole record is at 92" in refusal(tmp_path / "b")


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ([(2, b"")], "no record begins at byte"),
        ([(3, b"")], "no record begins at byte"),
        ([(7, b"")], "no record begins at byte"),
        ([(1, b"")], "no further part of it is at byte"),
        ([(1, b""), (2, b"")], "no further part of it is at byte"),
        ([(1, b""), (1, b"")], "no further part of it is at byte"),
        ([(1, b""), (0, b"")], "no further part of it is at byte"),
    ],
)
def test_parts_that_do_not_follow_each_other(tmp_path: Path, parts: list[tuple[int, bytes]], wanted: str) -> None:
    whole = content(0.0, 3, picture(3))
    damaged = b"".join(part(whole + extra, flag) for flag, extra in parts)
    records = {key: part(content(0.0, key, picture(key))) for key in range(3)} | {3: damaged}
    assert wanted in refusal(write(tmp_path, records))
    (tmp_path / "train.idx").unlink()
    assert re.search("no whole record is at|its last record is not finished", refusal(tmp_path))


def test_a_last_part_that_is_too_long_for_the_file(tmp_path: Path) -> None:
    whole = content(0.0, 1, picture(1))
    for flag, length in ((3, 100), (2, 8)):
        last = MAGIC + struct.pack("<I", flag << 29 | length) + bytes(8)
        write(tmp_path, {0: part(content(0.0, 0, picture(0))), 1: part(whole, 1) + last})
        assert "no further part of it is at byte" in refusal(tmp_path)


def test_parts_of_any_length(tmp_path: Path) -> None:
    whole = content(0.0, 0, picture(1) + b"abc")
    records = {0: part(whole, 1) + part(b"defgh", 2) + part(b"", 2) + part(b"i", 3)}
    path = write(tmp_path, records) / "train.rec"
    wanted = MAGIC.join([picture(1) + b"abc", b"defgh", b"", b"i"])
    assert RecordImages(tmp_path).encoded(0) == wanted
    os.truncate(path, 2**31)  # where such a word could be taken for the length of a whole record
    assert RecordImages(tmp_path).encoded(0) == wanted


def test_images_that_are_none(tmp_path: Path) -> None:
    records = {key: part(content(0.0, key, picture(key))) for key in range(3)}
    records[1] = part(content(0.0, 1, b"\xff\xd8\xff no more"))
    images = RecordImages(write(tmp_path, records, stated="1,4,4"))
    with pytest.raises(ImageError, match=r"train\.rec, record 1: a truncated"):
        images.read(1)
    records[1] = part(content(0.0, 1, b""))
    assert "record at byte 92: no image in it" in refusal(write(tmp_path, records))
    assert "no image in it" in refusal(write(tmp_path / "none", insightface([], [])))


def test_what_is_no_file_of_records(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.rec")
    assert "no .rec file in this folder" in refusal(tmp_path)
    for data in (b"", b"PAR1" * 100, MAGIC, MAGIC + bytes(20)):
        (tmp_path / "train.rec").write_bytes(data)
        assert "not an MXNet RecordIO file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "fifo.rec")
    assert "not a regular file" in refusal(tmp_path / "fifo.rec")


def test_a_file_that_shrinks_under_its_reader(tmp_path: Path) -> None:
    images = RecordImages(write(tmp_path, insightface(LABELS)))
    other = pickle.loads(pickle.dumps(images))
    os.truncate(tmp_path / "train.rec", 100)
    for reader in (images, other):
        with pytest.raises(DatasetError, match="has changed since it was opened"):
            reader.encoded(5)
    (tmp_path / "train.rec").unlink()
    with pytest.raises(DatasetError, match="no such file"):
        pickle.loads(pickle.dumps(images)).encoded(5)


def test_a_length_takes_no_memory(tmp_path: Path) -> None:
    huge = MAGIC + struct.pack("<I", 2**29 - 1) + content(0.0, 1, b"")
    records = {0: part(content(0.0, 0, picture(0))), 1: huge}
    write(tmp_path, records, stated="16777216,4,4")
    tracemalloc.start()
    refusal(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 50e6  # not 2**29
    tracemalloc.stop()


# Parts


def parted(payload: bytes) -> bytes:
    """As dmlc writes it, word by word: the slow oracle."""
    records, start, flag = b"", 0, 1
    for at in range(0, len(payload) // 4 * 4, 4):
        if payload[at : at + 4] == MAGIC:
            records += part(payload[start:at], flag)
            start, flag = at + 4, 2
    return records + part(payload[start:], 3 if flag == 2 else 0)


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
    with pytest.warns(UserWarning, match=f"made one of {2 * len(encoded) + 1} records"):
        again = RecordImages(tmp_path)
    assert [again.encoded(k) for k in range(len(encoded))] == encoded


def test_a_magic_number_in_the_header(tmp_path: Path) -> None:
    (key,) = struct.unpack("<Q", MAGIC * 2)
    whole = content([1, 2], 5, b"")[:8] + struct.pack("<Q", key) + content([1, 2], 5, picture(2))[16:]
    assert parted(whole).count(MAGIC) > 2
    write(tmp_path, {0: part(content(0.0, 0, picture(1))), 1: parted(whole)})
    images = RecordImages(tmp_path)
    assert_is_the_set(images, [0, 1])
    file = RecordFile(str(tmp_path / "train.rec"))
    assert file.record(int(file.offsets()[1])).key == key


# Writing


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
    write(tmp_path / "wanted", records, stated="4,4,4")
    for name in ("train.rec", "train.idx", "property"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "wanted" / name).read_bytes(), name
    assert len(os.listdir(tmp_path / "out")) == 3


def test_images_that_cannot_be_read_are_written_all_the_same(tmp_path: Path) -> None:
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


def test_an_old_index_never_lies_beside_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, LABELS)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(
            "facespace.datasets.formats.recordio_writer.write_index", lambda *_: (_ for _ in ()).throw(OSError("full"))
        )
        written(tmp_path, [4, 4, 3])
    with pytest.warns(UserWarning, match="made one of 6 records"):
        assert_is_the_set(RecordImages(tmp_path), [4, 4, 3])


def test_labels_in_any_order_make_images_only(tmp_path: Path) -> None:
    labels = [3, 0, 3, 1]
    images = written(tmp_path, labels)
    assert_is_the_set(images, labels)
    assert len(images.names) == 4
    assert [line.split("\t")[0] for line in (tmp_path / "train.idx").read_text().splitlines()] == ["0", "1", "2", "3"]
    assert struct.unpack_from("<I", (tmp_path / "train.rec").read_bytes(), 8) == (0,)


def test_too_many_for_float32_make_images_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facespace.datasets.formats.recordio_writer.MAX_LABEL", 10)
    assert_is_the_set(written(tmp_path, LABELS))
    assert (tmp_path / "train.idx").read_text().startswith("0\t0\n")


def test_names_are_written_beside(tmp_path: Path) -> None:
    assert list(written(tmp_path, [0, 1], names=["Anna", "王 小明", "Nobody"]).names) == ["Anna", "王 小明", "Nobody"]
    assert (tmp_path / "property").read_text() == "3,4,4"
    assert list(written(tmp_path, [0, 1], names=["0", "1"]).names) == ["0", "1"]
    assert not (tmp_path / "names.txt").exists()


@pytest.mark.parametrize(
    ("image", "label", "wanted"),
    [
        (picture(1), -1, "wanted a label from 0 to 16,777,215; got -1"),
        (picture(1), 2**24, "wanted a label from"),
        (b"", 0, "no image of 0 bytes"),
        (b"no image", 0, "none of the images written can be read"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, image: bytes, label: int, wanted: str) -> None:
    written(tmp_path, LABELS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FacespaceError, match=wanted), RecordWriter(tmp_path) as writer:
        writer.write(image, label)
    with pytest.raises(DatasetError, match="no image was written"), RecordWriter(tmp_path):
        pass
    with pytest.raises(DatasetError, match="a label from 0 to 0; got 1"), RecordWriter(tmp_path, names=["A"]) as writer:
        writer.write(picture(1), 1)
    with pytest.raises(TypeError), RecordWriter(tmp_path) as writer:
        writer.write(picture(1), 0.5)  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("labels", [LABELS, [2, 0, 2, 1, 1, 0, 0]])
@pytest.mark.parametrize("kept", [1, 2, 5])
def test_a_writer_goes_on_where_another_was_stopped(tmp_path: Path, labels: list[int], kept: int) -> None:
    written(tmp_path / "wanted", labels)
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
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "wanted" / name).read_bytes(), name
    with pytest.raises(DatasetError, match="nothing to go on with"):
        RecordWriter(tmp_path / "out", resume_at=place)


# Whatever a file holds


def read_all(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = RecordImages(folder)
    assert len(images) == len(images.labels) <= 100
    assert 0 <= images.labels.min() <= images.labels.max() < len(images.names)
    for index in range(len(images)):
        try:
            assert images.read(index).dtype == np.uint8
        except FacespaceError as error:
            assert "\n" not in str(error)


def damage(draw: Callable[[Any], Any], data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2, 3]))):
        at = draw(st.integers(0, max(len(damaged) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "byte", "word", "cut", "insert", "remove"]))
        if kind == "flip" and damaged:
            damaged[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and damaged:
            damaged[at] = draw(st.sampled_from([0, 0xFF, 0x7F, 0x80, 9, 10, 0x30, 0x39]))
        elif kind == "word":
            word = draw(st.sampled_from([0, 1, 2**29 - 1, 2**29, 2**30, 3 << 29, 2**31, 2**32 - 1, 0xCED7230A]))
            at = at // 4 * 4
            damaged[at : at + 4] = word.to_bytes(4, "little")
        elif kind == "cut":
            del damaged[at:]
        elif kind == "insert":
            damaged[at:at] = draw(st.sampled_from([b"\0", b"\n", b"\t", b"0", b"9" * 20, MAGIC]))
        else:
            del damaged[at : at + draw(st.integers(1, 8))]
    return bytes(damaged)


def sample(kind: str) -> dict[str, bytes]:
    image = picture(3, (2, 2)) + MAGIC * 3
    records = {
        "insightface": insightface([0, 0, 1, 2]) | {3: parted(content([1, 3], 3, image))},
        "images": {key: parted(content(float(key % 3), key, image)) for key in range(5)},
    }[kind]
    records = {key: record for key, record in records.items() if key} | {0: records[0]}
    offsets = np.cumsum([0, *map(len, records.values())])
    lines = "".join(f"{key}\t{offset}\n" for key, offset in zip(records, offsets[:-1].tolist(), strict=True))
    return {
        "train.rec": b"".join(records.values()),
        "train.idx": lines.encode(),
        "property": b"3,4,4" if kind == "insightface" else b"3,2,2",
    }


@st.composite
def damaged_files(draw: Callable[[Any], Any]) -> dict[str, bytes]:
    files = sample(draw(st.sampled_from(["insightface", "images"])))
    for name in list(files):
        if name != "train.rec" and draw(st.integers(0, 3)) == 0:
            del files[name]
        else:
            files[name] = damage(draw, files[name])
    return files


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=damaged_files())
def test_damage_is_told_or_does_no_harm(tmp_path: Path, files: dict[str, bytes]) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    try:
        read_all(tmp_path)
    except FacespaceError as error:
        assert "\n" not in str(error)


def test_the_samples_of_the_test_above_are_sound(tmp_path: Path) -> None:
    for kind in ("insightface", "images"):
        for name, data in sample(kind).items():
            (tmp_path / name).write_bytes(data)
        images = RecordImages(tmp_path)
        assert all(images.read(k).shape in ((4, 4, 3), (2, 2, 3)) for k in range(len(images)))
