"""One file of records: records in one part or several, and errors for damaged records."""

from __future__ import annotations

import os
import pickle
import re
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from facespace.datasets.formats import recordio_file
from facespace.datasets.formats.recordio import RecordImages
from facespace.datasets.formats.recordio_file import RecordFile
from facespace.errors import DatasetError
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
    assert "no whole record at byte 100" in refusal(tmp_path)


def test_labels_that_do_not_fit_into_their_record(tmp_path: Path) -> None:
    records = {key: part(content(0.0, key, picture(key))) for key in range(3)}
    records[1] = part(struct.pack("<IfQQ", 2**32 - 1, 0, 1, 0) + picture(1))
    assert "4,294,967,295 labels do not fit into its" in refusal(write(tmp_path / "a", records))
    records[1] = part(b"too short")
    write(tmp_path / "b", records)
    assert "9 bytes are too few for an image record" in refusal(tmp_path / "b")
    (tmp_path / "b" / "train.idx").unlink()
    assert "no whole record at byte 92" in refusal(tmp_path / "b")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(2, b"")], "no record begins at byte"),
        ([(3, b"")], "no record begins at byte"),
        ([(7, b"")], "no record begins at byte"),
        ([(1, b"")], "its next part is missing at byte"),
        ([(1, b""), (2, b"")], "its next part is missing at byte"),
        ([(1, b""), (1, b"")], "its next part is missing at byte"),
        ([(1, b""), (0, b"")], "its next part is missing at byte"),
    ],
)
def test_parts_that_do_not_follow_each_other(tmp_path: Path, parts: list[tuple[int, bytes]], expected: str) -> None:
    whole = content(0.0, 3, picture(3))
    damaged = b"".join(part(whole + extra, flag) for flag, extra in parts)
    records = {key: part(content(0.0, key, picture(key))) for key in range(3)} | {3: damaged}
    assert expected in refusal(write(tmp_path, records))
    (tmp_path / "train.idx").unlink()
    assert re.search("no whole record at byte|its last record is not finished", refusal(tmp_path))


def test_a_last_part_that_is_too_long_for_the_file(tmp_path: Path) -> None:
    whole = content(0.0, 1, picture(1))
    for flag, length in ((3, 100), (2, 8)):
        last = MAGIC + struct.pack("<I", flag << 29 | length) + bytes(8)
        write(tmp_path, {0: part(content(0.0, 0, picture(0))), 1: part(whole, 1) + last})
        assert "its next part is missing at byte" in refusal(tmp_path)


def test_parts_of_any_length(tmp_path: Path) -> None:
    whole = content(0.0, 0, picture(1) + b"abc")
    records = {0: part(whole, 1) + part(b"defgh", 2) + part(b"", 2) + part(b"i", 3)}
    path = write(tmp_path, records) / "train.rec"
    expected = MAGIC.join([picture(1) + b"abc", b"defgh", b"", b"i"])
    assert RecordImages(tmp_path).encoded(0) == expected
    os.truncate(path, 2**31)  # where such a word could be mistaken for the length of a whole record
    assert RecordImages(tmp_path).encoded(0) == expected


def test_files_that_are_not_recordio(tmp_path: Path) -> None:
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


def test_a_damaged_length_allocates_no_memory(tmp_path: Path) -> None:
    huge = MAGIC + struct.pack("<I", 2**29 - 1) + content(0.0, 1, b"")
    records = {0: part(content(0.0, 0, picture(0))), 1: huge}
    write(tmp_path, records, stated="16777216,4,4")
    tracemalloc.start()
    refusal(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 50e6  # less than 2**29
    tracemalloc.stop()


def test_a_magic_number_in_the_header(tmp_path: Path) -> None:
    (key,) = struct.unpack("<Q", MAGIC * 2)
    whole = content([1, 2], 5, b"")[:8] + struct.pack("<Q", key) + content([1, 2], 5, picture(2))[16:]
    assert parted(whole).count(MAGIC) > 2
    write(tmp_path, {0: part(content(0.0, 0, picture(1))), 1: parted(whole)})
    images = RecordImages(tmp_path)
    assert_is_the_set(images, [0, 1])
    file = RecordFile(str(tmp_path / "train.rec"))
    assert file.record(int(file.offsets()[1])).key == key


# Reading records directly


LABELLED: list[float | list[float]] = [
    0.25,
    [1.5],
    [2.5, 3.5],
    [4.5, 5.5, 6.5],
]  # no label in the list, one, two, three


def first_two(labels: float | list[float]) -> tuple[float, ...]:
    return tuple(labels[:2]) if isinstance(labels, list) else (labels,)


def mixed() -> dict[int, tuple[float | list[float], bytes]]:
    """Return key → labels and image: whole records, split ones, and records without an image."""
    images = [b"image", MAGIC + b"abcd" + MAGIC, b""]
    return {
        100 * k + 10 * i + 2**40: (labels, image) for k, labels in enumerate(LABELLED) for i, image in enumerate(images)
    }


def write_mixed(folder: Path) -> tuple[RecordFile, list[int]]:
    """Write the file of `mixed`; return the offsets of its records too. The last record has the minimum length."""
    records = [parted(content(labels, key, image)) for key, (labels, image) in mixed().items()]
    records.append(part(content(7.5, 1, b"")))
    (folder / "a.rec").write_bytes(b"".join(records))
    return RecordFile(str(folder / "a.rec")), [len(b"".join(records[:k])) for k in range(len(records))]


def test_a_record_has_its_key_two_labels_and_the_image(tmp_path: Path) -> None:
    file, offsets = write_mixed(tmp_path)
    for (key, (labels, image)), offset in zip(mixed().items(), offsets, strict=False):
        assert file.record(offset) == (key, first_two(labels), image)
    assert file.record(offsets[-1]) == (1, (7.5,), b"")
    assert file.offsets().tolist() == offsets


@pytest.mark.parametrize("block", [1, 2, 5, 1024])
def test_headers_agree_with_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(recordio_file, "_BLOCK", block)
    file, offsets = write_mixed(tmp_path)
    order = np.random.default_rng(0).permutation(len(offsets))
    found = file.headers(np.array(offsets)[order])
    expected = [file.record(offset) for offset in np.array(offsets)[order].tolist()]
    assert found.keys.tolist() == [record.key for record in expected]
    assert found.has_content.tolist() == [bool(record.content) for record in expected]
    assert np.minimum(found.n_labels, 2).tolist() == [len(record.labels) for record in expected]
    assert [tuple(row[:n].tolist()) for row, n in zip(found.labels, found.n_labels, strict=True)] == [
        record.labels for record in expected
    ]
    assert found.labels.shape == (len(offsets), 2)
    assert found.labels.dtype == np.float32


def test_headers_name_a_record_that_is_damaged(tmp_path: Path) -> None:
    file, offsets = write_mixed(tmp_path)
    with pytest.raises(DatasetError, match=rf"byte {offsets[3] + 4}\b"):
        file.headers(np.array([offsets[0], offsets[3] + 4]))


def test_a_large_key_is_the_same_in_every_record(tmp_path: Path) -> None:
    """Keys have 63 bits, whether the record is whole or in parts."""
    records = [parted(content(0.0, 2**63 + 5, image)) for image in (b"whole", MAGIC + b"parted")]
    (tmp_path / "a.rec").write_bytes(b"".join(records))
    assert RecordFile(str(tmp_path / "a.rec")).headers(np.array([0, len(records[0])])).keys.tolist() == [5, 5]


def test_memory_pages_are_released_regularly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, offsets = write_mixed(tmp_path)
    released = []
    monkeypatch.setattr(recordio_file, "_RELEASE_AFTER", 4)
    monkeypatch.setattr(recordio_file, "release", lambda records: released.append(len(records)))
    for offset in offsets:
        file.record(offset)
    assert released == [file.size] * (len(offsets) // 4)


def test_a_pickled_file_maps_itself_again(tmp_path: Path) -> None:
    file, offsets = write_mixed(tmp_path)
    other = pickle.loads(pickle.dumps(file))
    assert [other.record(offset) for offset in offsets] == [file.record(offset) for offset in offsets]
    assert (other.name, other.size) == (file.name, file.size)


def test_parts_that_are_longer_together_than_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordio_file, "MAX_LENGTH", 127)  # 2**29 − 1 in the real code, which also has only ones
    for n, fits in ((127 - 4 - 60, True), (127 - 4 - 60 + 1, False)):
        (tmp_path / "a.rec").write_bytes(part(content(0.0, 1, bytes(36)), 1) + part(bytes(n), 3))
        file = RecordFile(str(tmp_path / "a.rec"))
        if fits:
            assert file.record(0).content == bytes(36) + MAGIC + bytes(n)
        else:
            with pytest.raises(DatasetError, match="its parts are together longer than"):
                file.record(0)


def test_impossible_file_names(tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        RecordFile("a\0b")
    with pytest.raises(DatasetError, match="not a regular file"):
        RecordFile(str(tmp_path))
