"""MXNet RecordIO as a dataset: images and labels of every layout, and errors for damaged files."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from facespace.datasets.formats import recordio
from facespace.datasets.formats.recordio import RecordImages, read_property
from facespace.errors import DatasetError, FacespaceError, ImageError
from support.recordio_files import (
    LABELS,
    MAGIC,
    assert_is_the_set,
    content,
    insightface,
    part,
    parted,
    picture,
    refusal,
    write,
)

# Reading


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
def test_the_scan_of_a_file_gives_the_index_that_mxnet_wrote(shared: Path, tmp_path: Path) -> None:
    shutil.copyfile(shared / "data" / "records" / "train.rec", tmp_path / "train.rec")
    with pytest.warns(UserWarning, match="no index file; built one of 1,424 records, saved as train.idx"):
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
    """The second number of record 0 differs between packers."""
    records = {key: part(content([label, key], key, picture(key))) for key, label in enumerate(LABELS, 1)}
    header = {0: part(content(counts, 0, picture_0))}
    assert_is_the_set(RecordImages(write(tmp_path / "last", records | header, stated="4,4,4")))
    images = RecordImages(write(tmp_path / "first", header | records))
    assert_is_the_set(images)
    with pytest.warns(UserWarning, match="built one of 8 records"):
        assert_is_the_set(RecordImages(write(tmp_path / "no index", header | records, index=False)))


def test_keys_left_out_that_record_0_counts(tmp_path: Path) -> None:
    """A packer skipped photos that it could not read."""
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
    # Several labels per record, of which the first is used; arbitrary keys; record 0 is an image like the others.
    keys = [17, 3, 0, 5, 10**12, 9, 8]
    records = {
        key: part(content([label, 0.5, -1], 0, picture(k)))
        for k, (key, label) in enumerate(zip(keys, LABELS, strict=True), 1)
    }
    assert_is_the_set(RecordImages(write(tmp_path / "b", records)))
    # A list with one label.
    records = {k: part(content([label], k, picture(k))) for k, label in enumerate(LABELS, 1)}
    assert_is_the_set(RecordImages(write(tmp_path / "c", records)))


def test_labels_are_those_of_the_images_in_whatever_order_the_identities_lie(tmp_path: Path) -> None:
    labels = [5, 5, 2, 0, 0, 0, 9]
    records = insightface(labels, [(3, 4), (4, 7), (2, 2), (7, 8), (1, 3)])  # one of them has no images
    assert_is_the_set(RecordImages(write(tmp_path / "a", records, stated="10,4,4")), labels)
    # No identity's record contains image 3 and the last image.
    assert_is_the_set(RecordImages(write(tmp_path / "b", insightface(labels, [(4, 7), (1, 3)]))), labels)
    # A record 0, but no identities.
    assert_is_the_set(RecordImages(write(tmp_path / "c", insightface(labels, []))), labels)


def test_counts_rounded_by_float32_are_corrected_by_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordio, "_ROUNDED", 10)  # 2**24 in the real code
    records = insightface(LABELS)
    for rounded in (7, 8, 9, 10):
        records[0] = part(content([rounded, 12], 0, b""))
        assert_is_the_set(RecordImages(write(tmp_path, records)))
    rounded_ranges = [(1, 5), (5, 5), (5, 7), (7, 9)]
    assert_is_the_set(RecordImages(write(tmp_path, insightface(LABELS, rounded_ranges))))


def test_names_next_to_the_file(tmp_path: Path) -> None:
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
    assert "2 .rec files in this folder; choose one of them" in refusal(tmp_path)
    assert_is_the_set(RecordImages(tmp_path / "val.1.rec"))


# The index


def test_an_index_is_made_and_saved_once(tmp_path: Path) -> None:
    records = insightface(LABELS)
    with pytest.warns(UserWarning, match=r"train\.rec: no index file; built one of 12 records, saved"):
        assert_is_the_set(RecordImages(write(tmp_path, records, index=False)))
    made = (tmp_path / "train.idx").read_bytes()
    write(tmp_path / "expected", records)
    assert made == (tmp_path / "expected" / "train.idx").read_bytes()
    assert_is_the_set(RecordImages(tmp_path))  # no warning, which would be an error


def test_an_index_that_cannot_be_saved_is_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(recordio, "write_index", forbidden)
    write(tmp_path, insightface(LABELS), index=False)
    with pytest.warns(UserWarning, match=r"kept in memory, as train.idx cannot be written \(Permission denied\)"):
        images = RecordImages(tmp_path)
    assert os.listdir(tmp_path) == ["train.rec"]
    assert_is_the_set(pickle.loads(pickle.dumps(images)))  # without building it again


def test_keys_are_counted_if_records_do_not_contain_them(tmp_path: Path) -> None:
    records = {key: part(content(float(label), 7, picture(key + 1))) for key, label in enumerate(LABELS)}
    with pytest.warns(UserWarning, match="built one of 7 records"):
        assert_is_the_set(RecordImages(write(tmp_path, records, index=False)))
    assert (tmp_path / "train.idx").read_text().startswith("0\t0\n1\t")
    records = {7 - key: part(content(0.0, 2**40 + 7 - key, picture(key))) for key in range(1, 8)}
    with pytest.warns(UserWarning, match="built one of 7 records"):
        assert_is_the_set(RecordImages(write(tmp_path / "b", records, index=False)), [0] * 7)
    assert (tmp_path / "b" / "train.idx").read_text().startswith("0\t0\n1\t")
    # Insightface's record 0 is the last one; its counts show which one it is.
    records = {key: record[:16] + bytes(8) + record[24:] for key, record in insightface(LABELS).items()}
    with pytest.warns(UserWarning, match="built one of 12 records"):
        assert_is_the_set(RecordImages(write(tmp_path / "c", records, index=False)))
    assert (tmp_path / "c" / "train.idx").read_text().startswith("1\t0\n2\t")


def test_no_index_is_left_next_to_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    records = insightface(LABELS) | {4: part(content([1.5, 4], 4, picture(4)))}
    assert "the label must be a whole number" in refusal(write(tmp_path, records, index=False))
    assert os.listdir(tmp_path) == ["train.rec"]


# Files that do not fit together


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("3,4,4", r"record 7: the label is 3, but the file `property` gives 3 identities, labels 0 to 2"),
        ("4,4,5", r"record 1: the image has 4x4 px, but the file `property` gives 5x4"),
        ("4,4", r"property: expected `identities,height,width`, got `4,4`"),
        ("", "property: the file is empty"),
        ("0,4,4", "property: expected"),
        ("-4,4,4", "property: expected"),
        ("4,4.0,4", "property: expected"),
        ("٤,4,4", "property: expected"),
        ("99999999,4,4", "property: expected"),
        ("1" * 2000, "property: must have at most"),
    ],
)
def test_wrong_properties(tmp_path: Path, stated: str, expected: str) -> None:
    write(tmp_path, insightface(LABELS))
    (tmp_path / "property").write_text(stated, encoding="utf-8")
    assert re.search(expected, refusal(tmp_path))


def test_a_property() -> None:
    assert read_property("/nowhere/property") is None


@pytest.mark.parametrize("label", [0.5, -1.0, -0.25, float("nan"), float("inf"), 2.0**24, 1e30])
@pytest.mark.parametrize("kind", ["plain", "list", "insightface"])
def test_invalid_labels(tmp_path: Path, label: float, kind: str) -> None:
    if kind == "insightface":
        records = insightface([0, 0, 1, 1])
        records[3] = part(content([label, 3], 3, picture(3)))
    else:
        records = {key: part(content(float(key), key, picture(key))) for key in range(5)}
        records[3] = part(content(label if kind == "plain" else [label, 1], 3, picture(3)))
    message = refusal(write(tmp_path, records))
    assert "the label must be a whole number from 0 to 16,777,215, got " in message
    assert f"byte {len(b''.join(records[key] for key in list(records)[: list(records).index(3)])):,}" in message


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([(1, 4), (3, 6), (6, 8)], "the ranges of identities overlap: record 3 belongs to two of them"),
        ([(1, 8), (4, 5)], "the ranges of identities overlap: record 4 belongs"),
        ([(0, 4)], r"record 8: the range of an identity's images must be within 1 to 8 .* got 0 to 4"),
        ([(1, 4), (4, 9)], "record 9: the range .* got 4 to 9"),
        ([(4, 1)], "record 8: the range .* got 4 to 1"),
        ([(1, 3.5)], "record 8: the range .* got 1 to 3.5"),
        ([(1.5, 3)], "record 8: the range .* got 1.5 to 3"),
        ([(float("nan"), 3)], "record 8: the range .* got nan to 3"),
    ],
)
def test_invalid_ranges(tmp_path: Path, ranges: list[tuple[float, float]], expected: str) -> None:
    assert re.search(expected, refusal(write(tmp_path, insightface(LABELS, ranges))))


@pytest.mark.parametrize("header", [(8, 13), (13, 12), (0, 12), (8.5, 12), (-3, 12), (float("nan"), 12), (8, 11)])
def test_record_0_counts_other_records(tmp_path: Path, header: tuple[float, float]) -> None:
    records = insightface(LABELS)
    records[0] = part(content(header, 0, b""))
    message = refusal(write(tmp_path, records))
    assert "record 0: it counts" in message
    assert "the index has 12, up to key 11, 7 of them images; the index belongs to another file" in message


@pytest.mark.parametrize("labels", [[4], 4.0])
def test_an_identity_s_record_without_a_range(tmp_path: Path, labels: float | list[float]) -> None:
    records = insightface(LABELS)
    records[9] = part(content(labels, 9, b"\0" * 8))
    assert "record 9: the range of an identity's images must be" in refusal(write(tmp_path, records))


def test_keys_with_a_gap(tmp_path: Path) -> None:
    records = insightface(LABELS)
    records = {key if key != 11 else 12: record for key, record in records.items()}
    assert "the index has 12, up to key 12, 7 of them images; the index belongs to another file" in refusal(
        write(tmp_path, records)
    )


def test_a_record_0_that_is_neither_an_image_nor_a_count(tmp_path: Path) -> None:
    for labels in ([8], 8.0):
        records = insightface(LABELS) | {0: part(content(labels, 0, b""))}
        assert "contains no image" in refusal(write(tmp_path, records))


def test_record_0_counts_an_identity_s_record_as_image(tmp_path: Path) -> None:
    records = insightface(LABELS)
    records[0] = part(content((9, 12), 0, b""))
    assert "contains no image" in refusal(write(tmp_path, records))


def test_a_label_that_is_not_its_identity_s(tmp_path: Path) -> None:
    records = insightface(LABELS)
    records[2] = part(content([3, 2], 2, picture(2)))
    images = RecordImages(write(tmp_path, records))
    assert images.encoded(0) == picture(1)
    with pytest.raises(DatasetError, match="record 2 has label 3, but the record of its identity gives 0"):
        images.read(1)


def test_an_index_of_another_file(tmp_path: Path) -> None:
    records = insightface(LABELS)
    offsets = [b"".join(list(records.values())[:k]) for k in range(12)]
    lines = [f"{key}\t{len(before)}" for key, before in zip(records, offsets, strict=True)]
    lines[1] = lines[1].split("\t")[0] + f"\t{int(lines[1].split(chr(9))[1]) + 4}"
    message = refusal(write(tmp_path, records, index="\n".join(lines) + "\n"), index=1)
    assert "record 2: no record begins at byte" in message
    assert "remove the index to have it rebuilt" in message


def test_records_without_an_image(tmp_path: Path) -> None:
    records = {key: part(content(0.0, key, picture(key))) for key in range(3)}
    records[1] = part(content(0.0, 1, b"\xff\xd8\xff no more"))
    images = RecordImages(write(tmp_path, records, stated="1,4,4"))
    with pytest.raises(ImageError, match=r"train\.rec, record 1: a truncated"):
        images.read(1)
    records[1] = part(content(0.0, 1, b""))
    assert "record at byte 92: contains no image" in refusal(write(tmp_path, records))
    assert "contains no image" in refusal(write(tmp_path / "none", insightface([], [])))


# Arbitrary files


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
def test_damage_is_reported_or_harmless(tmp_path: Path, files: dict[str, bytes]) -> None:
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
