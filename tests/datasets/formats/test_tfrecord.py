"""TFRecord: files made by hand from the specification, files of our writer, and errors for damaged files."""

from __future__ import annotations

import gzip
import pickle
import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from facespace.datasets.formats.tfrecord import TFRecordImages, TFRecordWriter
from facespace.datasets.names import write_names
from facespace.errors import DatasetError, FacespaceError, ImageError


def picture(number: int) -> bytes:
    """Return a PPM, whose pixels are its bytes."""
    return b"P6 2 2 255\n" + bytes([number % 256]) * 12


# Files made by hand, with a slow CRC and protobuf encoder written from their definitions


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def record(data: bytes, length: int | None = None) -> bytes:
    head = struct.pack("<Q", len(data) if length is None else length)
    return head + masked(head) + data + masked(data)


def varint(number: int) -> bytes:
    number %= 2**64
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def bytes_list(*values: bytes) -> bytes:
    return field(1, b"".join(field(1, value) for value in values))


def int64_list(*values: int, packed: bool = True) -> bytes:
    if packed:
        return field(3, field(1, b"".join(map(varint, values))))
    return field(3, b"".join(b"\x08" + varint(value) for value in values))


def example(**features: bytes) -> bytes:
    entries = (field(1, name.encode()) + field(2, feature) for name, feature in features.items())
    return field(1, b"".join(field(1, entry) for entry in entries))


def of(image: bytes, label: int, **more: bytes) -> bytes:
    return example(image_raw=bytes_list(image), label=int64_list(label), **more)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tran.tfrecords"


def test_records_made_by_hand(file: Path) -> None:
    assert crc32c(b"123456789") == 0xE3069283
    odd = {"image/encoded": bytes_list(picture(1)), "image/class/label": int64_list(4, packed=False)}
    more = {"image/height": int64_list(2, 3), "rate": field(2, b"")}
    file.write_bytes(record(of(picture(0), 2, **more)) + record(example(**odd)) + record(of(b"", 0)))
    images = TFRecordImages(file)
    assert len(images) == 3
    assert images.labels.tolist() == [2, 4, 0]
    assert list(images.names) == ["0", "1", "2", "3", "4"]
    assert [images.encoded(index) for index in range(3)] == [picture(0), picture(1), b""]
    assert images.read(1).tolist() == [[[1] * 3] * 2] * 2


def test_an_empty_name_is_no_name(file: Path) -> None:
    """Some programs write every feature, even an empty one."""
    named = {"image/class/text": bytes_list("Zoë".encode())}
    empty = [{"image/class/text": bytes_list(*values)} for values in ([b""], [])] + [{"image/class/text": b""}]
    file.write_bytes(b"".join(record(of(b"", k, **more)) for k, more in enumerate([*empty, named])))
    assert list(TFRecordImages(file).names) == ["0", "1", "2", "Zoë"]


def test_names_come_from_records_and_from_names_txt(file: Path) -> None:
    write_names(file.parent, ["Anna", "Ben", "Cleo", "Dora"])
    named = {"name": bytes_list("Zoë".encode())}
    file.write_bytes(record(of(b"a", 0)) + record(of(b"b", 2, **named)) + record(of(b"c", 2)))
    assert list(TFRecordImages(file).names) == ["Anna", "Ben", "Zoë", "Dora"]
    other = {"image/class/text": bytes_list(b"\xff")}
    file.write_bytes(record(of(b"a", 0, **other)))
    assert TFRecordImages(file).names[0] == "\\xff"


def test_written_records_are_read_back_and_equal_those_made_by_hand(file: Path) -> None:
    writer = TFRecordWriter(file, names=["Anna", "Zoë"])
    writer.write(picture(0), 1)
    writer.write(b"", 0)
    writer.close()
    expected = record(of(picture(0), 1, name=bytes_list("Zoë".encode())))
    assert file.read_bytes() == expected + record(of(b"", 0, name=bytes_list(b"Anna")))
    images = TFRecordImages(file)
    assert (images.labels.tolist(), list(images.names)) == ([1, 0], ["Anna", "Zoë"])
    assert images.encoded(0) == picture(0)


def test_a_writer_resumes(file: Path) -> None:
    writer = TFRecordWriter(file)
    writer.write(picture(0), 0)
    place = writer.sync()
    writer.write(b"lost" * 500, 1)
    writer.abandon()
    writer = TFRecordWriter(file, resume_at=place)
    writer.write(picture(2), 2)
    writer.close()
    assert file.read_bytes() == record(of(picture(0), 0)) + record(of(picture(2), 2))


def test_shards_are_read_in_natural_order(tmp_path: Path) -> None:
    for name, label in (("x-10.tfrecord", 2), ("x-9.tfrecords", 1), ("a-00000-of-00002", 0), (".b.tfrecord", 5)):
        (tmp_path / name).write_bytes(record(of(name.encode(), label)))
    (tmp_path / "notes.txt").write_text("none of it")
    images = TFRecordImages(tmp_path)
    assert images.labels.tolist() == [0, 1, 2]
    assert images.encoded(2) == b"x-10.tfrecord"


def test_a_change_of_any_byte_is_detected(file: Path) -> None:
    whole = record(of(picture(0), 1)) + record(of(b"", 0))
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(DatasetError, match=r"tran\.tfrecords, record [01]: ") as caught:
            TFRecordImages(file)
        assert "\n" not in str(caught.value)


def test_a_file_cut_inside_a_record_is_refused(file: Path) -> None:
    whole = record(of(picture(0), 1)) + record(of(b"", 0))
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        if length in (0, len(record(of(picture(0), 1)))):
            assert len(TFRecordImages(file)) == (length > 0)
        else:
            with pytest.raises(DatasetError, match="cut short"):
                TFRecordImages(file)


def test_damage_after_opening_is_detected_when_an_image_is_read(file: Path) -> None:
    whole = record(of(picture(0), 1)) + record(of(picture(1), 0))
    file.write_bytes(whole)
    images = TFRecordImages(file)
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(DatasetError, match="damaged"):
            images.encoded(int(position >= len(whole) // 2))
    file.write_bytes(whole[:-1])
    with pytest.raises(DatasetError, match="has changed since it was opened"):
        pickle.loads(pickle.dumps(images)).encoded(1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (example(label=int64_list(1)), "expected a feature image_raw or image/encoded, the encoded image, got label"),
        (
            example(image_raw=bytes_list(b"")),
            "expected a feature label or image/class/label, its label, got image_raw",
        ),
        (b"", "got no features"),
        (example(image_raw=int64_list(1), label=int64_list(1)), "expected one encoded image, got 0"),
        (example(image_raw=bytes_list(b"", b""), label=int64_list(1)), "expected one encoded image, got 2"),
        (
            example(image_raw=bytes_list(b""), label=bytes_list(b"1")),
            r"expected one label \(int64\), got something else",
        ),
        (of(b"", -1), "the label must be a number from 0 to 16,777,215, got -1"),
        (of(b"", 2**62), "got 4611686018427387904"),
        (of(b"", 0, name=bytes_list(b" ")), "a name must have 1 to 1000 characters, got ' '"),
        (of(b"", 0, name=int64_list(1)), r"expected one name \(bytes\) in name, got 0"),
        (of(b"", 7, name=bytes_list(b"Ben")), "label 7 is named 'Ben' here and 'Anna' before"),
        (b"\x0a\xff", "not a tf.train.Example"),
        (b"\xff" * 9, "not a tf.train.Example"),
    ],
)
def test_examples_without_an_image_or_a_label(file: Path, data: bytes, message: str) -> None:
    file.write_bytes(record(of(b"", 7, name=bytes_list(b"Anna"))) + record(data))
    with pytest.raises(DatasetError, match=f"tran.tfrecords, record 1: .*{message}"):
        TFRecordImages(file)


def test_a_damaged_length_is_refused(file: Path) -> None:
    for length, message in (
        (2**63, "a record must have at most"),
        (2**30, "the file is cut short: the record should have"),
    ):
        file.write_bytes(record(b"", length))
        tracemalloc.start()
        with pytest.raises(DatasetError, match=message):
            TFRecordImages(file)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
        tracemalloc.stop()


def test_files_that_are_not_tfrecord(tmp_path: Path, file: Path) -> None:
    file.write_bytes(gzip.compress(record(of(b"", 0))))
    with pytest.raises(DatasetError, match="compressed"):
        TFRecordImages(file)
    file.write_bytes(b"text, and more of it than a header has")
    with pytest.raises(DatasetError, match="not a TFRecord file"):
        TFRecordImages(file)
    with pytest.raises(DatasetError, match="no such file"):
        TFRecordImages(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no TFRecord files in this folder"):
        TFRecordImages(tmp_path / "empty")


def test_the_error_of_a_damaged_image_names_its_record(file: Path) -> None:
    file.write_bytes(record(of(picture(0), 0)) + record(of(b"no image", 0)))
    with pytest.raises(ImageError, match=r"tran\.tfrecords, record 1: not an image"):
        TFRecordImages(file).read(1)


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_edited_examples_are_read_or_refused(file: Path, data: st.DataObject) -> None:
    """Edited Examples with corrected checksums reach the parser behind the checksums."""
    body = bytearray(of(picture(3), 5, name=bytes_list(b"Anna")))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    file.write_bytes(record(bytes(body)))
    try:
        images = TFRecordImages(file)
        images.encoded(0)
        images.read(0)
    except FacespaceError as error:
        assert "\n" not in str(error)
    else:
        assert images.labels.shape == (1,)
        assert len(images.names) == images.labels[0] + 1


@pytest.mark.shared
def test_real_crops_are_read_back_unchanged(shared: Path, file: Path) -> None:
    paths = sorted((shared / "data" / "train_182").rglob("*.jpg"))[:40]
    writer = TFRecordWriter(file)
    for label, path in enumerate(paths):
        writer.write(path.read_bytes(), label)
    writer.close()
    images = TFRecordImages(file)
    for index in random.Random(0).sample(range(40), 40):
        assert images.encoded(index) == paths[index].read_bytes()
    assert images.read(3).shape == (182, 182, 3)
