"""The offsets of records: read from an `.idx` file, and found by scanning the file."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facespace.datasets.formats import recordio_index
from facespace.datasets.formats.recordio_index import find_records, read_index, write_index
from facespace.errors import DatasetError
from support.recordio_files import MAGIC, content, part, parted, picture, refusal, write

# The index


@pytest.mark.parametrize("chunk", [1, 2, 5, 7, 50, 10_000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "", "\n\n\n", "\r\n\r\n"])
def test_lines_that_cross_the_end_of_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, end: str
) -> None:
    monkeypatch.setattr(recordio_index, "_CHUNK", chunk)
    rows = [(key * 37 % 1009, key * 7476) for key in range(40)]
    path = tmp_path / "train.idx"
    between = "\r\n" if "\r" in end else "\n"
    path.write_bytes(between.join(f"{key}\t{offset}" for key, offset in rows).encode() + end.encode())
    keys, offsets = read_index(str(path), 10**6)
    assert list(zip(keys.tolist(), offsets.tolist(), strict=True)) == rows


GOOD = "1\t0\n2\t96\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the index is empty"),
        ("\n" + GOOD, r"line 1: expected a key, a tab and an offset, got ``"),
        (GOOD + "\n3\t192\n", "line 3: expected .* got ``"),
        ("\n\n", "the index is empty"),
        (GOOD + "3\n", r"line 3: expected .* got `3`"),
        (GOOD + "3\t-96\n", r"line 3: expected .* got `3\\t-96`"),
        (GOOD + "3 192\n", r"line 3: expected .* got `3 192`"),
        (GOOD + "3\t192\t1\n", "line 3"),
        (GOOD + "3\t1.5\n", "line 3"),
        (GOOD + "3\t٣\n", "line 3"),
        (GOOD + "3\t\n", "line 3"),
        ("1\t0\t2\n96\n", "line 1"),
        (GOOD + "3\t9999999999999999999\n", "line 3: expected"),
        (GOOD + "x" * 100, "line 3"),
        (GOOD + "3\t98\n", r"line 3: no record can begin at byte 98 of a \.rec"),
        (GOOD + "3\t96000\n", r"line 3: no record can begin at byte 96,000 of a \.rec"),
        (GOOD + "2\t192\n", "key 2 occurs twice"),
        (GOOD + "3\t96\n", "offset 96 occurs twice"),
        ("".join(f"{key}\t0\n" for key in range(100)), "more lines than its .rec has space for records|offset 0 is"),
        ("1\t0\n" * 1000, r"far more lines than its .rec has space for records \(20\)"),
    ],
)
def test_invalid_indexes(tmp_path: Path, text: str, expected: str) -> None:
    records = {key: part(content(0.0, key, picture(key))) for key in range(1, 8)}
    write(tmp_path, records)
    (tmp_path / "train.idx").write_text(text, encoding="utf-8")
    assert re.search(expected, refusal(tmp_path))


def test_the_order_of_an_index_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "train.idx"
    path.write_bytes(b"5\t400\n999999999999999999\t0\n0\t96\n")
    keys, offsets = read_index(str(path), 1000)
    assert (keys.tolist(), offsets.tolist()) == ([5, 10**18 - 1, 0], [400, 0, 96])
    assert keys.dtype == offsets.dtype == np.int64


def test_the_last_possible_offset(tmp_path: Path) -> None:
    """A record has at least 32 bytes: magic number, length, and a header of 24."""
    path = tmp_path / "train.idx"
    path.write_bytes(b"1\t68\n")
    assert read_index(str(path), 100)[1].tolist() == [68]
    with pytest.raises(DatasetError, match=r"line 1.*byte 68"):
        read_index(str(path), 99)


def test_invalid_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.idx"):
        read_index(str(tmp_path / "none.idx"), 1000)
    with pytest.raises(DatasetError, match="not a regular file"):
        read_index(str(tmp_path), 1000)
    os.mkfifo(tmp_path / "fifo.idx")
    with pytest.raises(DatasetError, match="not a regular file"):
        read_index(str(tmp_path / "fifo.idx"), 1000)


# Writing


@pytest.mark.parametrize("chunk", [128, 256, 2**23])
def test_an_index_is_a_line_for_each_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """For blocks of one record, of two, and of all records."""
    monkeypatch.setattr(recordio_index, "_CHUNK", chunk)
    keys, offsets = np.array([1, 2, 30, 4, 0]), np.array([0, 96, 192, 10**12, 288])
    write_index(tmp_path / "train.idx", keys, offsets)
    assert (tmp_path / "train.idx").read_bytes() == b"1\t0\n2\t96\n30\t192\n4\t1000000000000\n0\t288\n"
    found = read_index(str(tmp_path / "train.idx"), 10**13)
    assert (found[0].tolist(), found[1].tolist()) == (keys.tolist(), offsets.tolist())


def test_a_failed_write_keeps_the_old_index(tmp_path: Path) -> None:
    (tmp_path / "train.idx").write_text(GOOD)
    with pytest.raises(ValueError):
        write_index(tmp_path / "train.idx", np.arange(3), np.arange(2))
    assert os.listdir(tmp_path) == ["train.idx"]
    assert (tmp_path / "train.idx").read_text() == GOOD


# Scanning a file


@contextlib.contextmanager
def mapped(path: Path, data: bytes) -> Iterator[mmap.mmap]:
    path.write_bytes(data)
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as records:
        yield records


def random_records(seed: int) -> list[bytes]:
    """Return records of random lengths, with magic numbers at random places in their images."""
    random = np.random.default_rng(seed)
    images = [
        b"".join(MAGIC if random.random() < 0.2 else bytes(random.integers(0, 4)) for _ in range(random.integers(20)))
        for _ in range(30)
    ]
    return [parted(content(0.0, key, image)) for key, image in enumerate(images)]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("release", [1, 100, 2**26])
def test_every_record_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, release: int) -> None:
    monkeypatch.setattr(recordio_index, "_RELEASE", release)
    records = random_records(seed)
    assert any(record.count(MAGIC) > 1 for record in records)  # some have several parts
    with mapped(tmp_path / "train.rec", b"".join(records)) as data:
        found = find_records(data, "train.rec")
    assert found.tolist() == [len(b"".join(records[:k])) for k in range(len(records))]
    assert found.dtype == np.int64


WHOLE = part(content(0.0, 1, b"image"))  # 40 bytes


@pytest.mark.parametrize(
    ("data", "position"),
    [
        pytest.param(WHOLE + b"\0" + WHOLE, 40, id="a byte too many"),
        pytest.param(WHOLE + WHOLE[:-4], 40, id="a byte too few"),  # the payload should have 29 bytes but has 28
        pytest.param(WHOLE + WHOLE[:7], 40, id="half a frame"),
        pytest.param(WHOLE + b"\0\0\0\0", 40, id="zeros"),
        pytest.param(WHOLE + part(bytes(23)) + WHOLE, 40, id="no room for a header"),
        pytest.param(WHOLE + part(b"", 2) + part(b"", 3), 40, id="a middle part first"),
        pytest.param(WHOLE + part(b"", 3), 40, id="a last part first"),
        pytest.param(part(b"abcd", 1) + WHOLE, 12, id="a whole record inside"),
        pytest.param(part(b"abcd", 1) + part(b"", 1) + part(b"", 3), 12, id="a first part inside"),
        pytest.param(WHOLE + part(b"abcd", 1) + part(b"ef", 2) + part(b"", 4), 64, id="an unknown part"),
    ],
)
def test_offsets_without_a_record(tmp_path: Path, data: bytes, position: int) -> None:
    with (
        mapped(tmp_path / "x", data) as records,
        pytest.raises(DatasetError, match=rf"^a\.rec: damaged or cut short.*\b{position}\b"),
    ):
        find_records(records, "a.rec")


def test_a_last_record_that_is_not_finished(tmp_path: Path) -> None:
    for parts in ([1], [1, 2], [1, 2, 2]):
        data = WHOLE + b"".join(part(b"abcd", flag) for flag in parts)
        with mapped(tmp_path / "x", data) as records, pytest.raises(DatasetError, match="not finished"):
            find_records(records, "a.rec")
