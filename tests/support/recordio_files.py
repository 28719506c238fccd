"""MXNet RecordIO files written by hand from the format's description."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from facespace.datasets.formats.recordio import RecordImages
from facespace.errors import DatasetError

MAGIC = b"\x0a\x23\xd7\xce"
Records = dict[int, bytes]  # key to record, in the order of the file
LABELS = [0, 0, 0, 1, 2, 2, 3]


def picture(number: int, size: tuple[int, int] = (4, 4)) -> bytes:
    """Return a PPM image, whose content is any bytes."""
    return b"P6 %d %d 255\n" % size + bytes(number % 256 for _ in range(3 * size[0] * size[1]))


def part(payload: bytes, flag: int = 0) -> bytes:
    """Return one part of a record, or a whole record: magic number, flag and length, payload, padding."""
    return MAGIC + struct.pack("<I", flag << 29 | len(payload)) + payload + bytes(-len(payload) % 4)


def parted(payload: bytes) -> bytes:
    """Return a record as dmlc writes it, word by word: the slow oracle."""
    records, start, flag = b"", 0, 1
    for at in range(0, len(payload) // 4 * 4, 4):
        if payload[at : at + 4] == MAGIC:
            records += part(payload[start:at], flag)
            start, flag = at + 4, 2
    return records + part(payload[start:], 3 if flag == 2 else 0)


def content(labels: float | Sequence[float], key: int, image: bytes) -> bytes:
    """Return the content of an image record: header, labels, image."""
    if isinstance(labels, (int, float)):
        return struct.pack("<IfQQ", 0, labels, key, 0) + image
    return struct.pack("<IfQQ", len(labels), 0, key, 0) + struct.pack(f"<{len(labels)}f", *labels) + image


def write(folder: Path, records: Records, *, index: bool | str = True, stated: str | None = None) -> Path:
    """Write a folder with these records; `index` True writes a correct index, a string is written unchanged."""
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
    """Return images with these labels, in runs; the identities' records; record 0 last."""
    records = {key: part(content([label, key], key, picture(key))) for key, label in enumerate(labels, 1)}
    n0 = len(labels) + 1
    if ranges is None:
        starts = [key for key in range(1, n0) if key == 1 or labels[key - 1] != labels[key - 2]]
        ranges = list(zip(starts, [*starts[1:], n0], strict=True))
    for key, bounds in enumerate(ranges, n0):
        records[key] = part(content(bounds, key, b""))
    records[0] = part(content([n0, n0 + len(ranges)], 0, b""))
    return records


def assert_is_the_set(images: RecordImages, labels: Sequence[int] = LABELS) -> None:
    """Check that image k has the k-th of `labels` and is `picture(k + 1)`."""
    assert len(images) == len(labels)
    assert images.labels.tolist() == list(labels)
    assert images.labels.dtype == np.int64
    assert [images.encoded(k) for k in range(len(labels))] == [picture(k) for k in range(1, len(labels) + 1)]


def refusal(folder: Path | str, *, index: int | None = None) -> str:
    """Return the message when the file is opened or image `index` is read; it must be one line, not too long."""
    with pytest.raises(DatasetError) as caught:
        images = RecordImages(folder)
        if index is not None:
            images.encoded(index)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 400 + len(str(folder))
    return said
