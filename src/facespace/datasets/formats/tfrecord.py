"""TFRecord files of `tf.train.Example`: an encoded image and its label in each record.

A record is a length (u64, little-endian), the masked CRC-32C of these eight bytes, the Example, and the masked CRC-32C of
the Example; masked(c) = rot15(c) + 0xa282ead8 (mod 2³²). The features are called `image_raw` and `label`, as the
converter of Tiny-Face-Recognition calls them, or `image/encoded` and `image/class/label`; `name` or `image/class/text` is
the identity's name.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from facespace.datasets.names import LabelScan, Names
from facespace.datasets.shards import Pieces, ShardFiles, find_shards
from facespace.errors import DatasetError
from facespace.io.checksums import masked_crc
from facespace.io.image import MAX_RECORD, decode
from facespace.io.protobuf import check_message_count, message_class
from facespace.io.text import plain_text

FILE_NAME = "tran.tfrecords"  # sic: Tiny-Face-Recognition's spelling, which its programs expect
_ENDING = r"\.tfrecords?(-\d+)?|\.tfrec|\.tfr|-\d{5}-of-\d{5}"
_IMAGE = ("image_raw", "image/encoded")
_LABEL = ("label", "image/class/label")
_NAME = ("name", "image/class/text")
_FRAME = struct.Struct("<QI")
_CRC = struct.Struct("<I")

# A protobuf map is a list of entries on the wire; if a key occurs twice, the last entry counts.
_MESSAGES = {
    "BytesList": [("value", 1, "bytes*")],
    "Int64List": [("value", 1, "int64*")],
    "Feature": [("bytes_list", 1, "BytesList"), ("int64_list", 3, "Int64List")],
    "Entry": [("key", 1, "string"), ("value", 2, "Feature")],
    "Features": [("feature", 1, "Entry*")],
    "Example": [("features", 1, "Features")],
}
_Example = message_class("facespace.tfrecord", _MESSAGES, "Example")
_MAX_MESSAGES = 2**18  # protobuf messages in one record


class TFRecordImages:
    """A TFRecord file, or a folder of them in natural order, as `LabelledImages`.

    Opening the file reads every record once, checks the two checksums of the record, and keeps its position and label.
    It decodes no image. Names come from the records, or, if the records lack them, from a `names.txt` in the same
    folder. A `DatasetError` names the file and the record.
    """

    labels: npt.NDArray[np.int64]
    names: Names

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._files = ShardFiles(find_shards(path, _ENDING, "TFRecord files"))
        self._pieces = Pieces()
        scan = LabelScan()
        for shard in range(len(self._files.paths)):
            self._scan(shard, scan)
            self._pieces.end_shard()
        self.labels, self.names = scan.finish(os.path.dirname(self._files.paths[0]))

    def __len__(self) -> int:
        return len(self._pieces)

    def encoded(self, index: int) -> bytes:
        """Return one image as its record stores it, after checking the checksums."""
        piece = self._pieces.find(index)
        record = self._files.read(piece.shard, piece.offset, _FRAME.size + piece.length + _CRC.size)
        try:
            return bytes(_image_of(_parse(_framed(record, piece.length)))[0])
        except DatasetError as error:
            raise DatasetError(f"{self._where(piece.shard, piece.number)}: {error}") from None

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return one image, (H,W,3) uint8 RGB."""
        piece = self._pieces.find(index)
        return decode(self.encoded(index), self._where(piece.shard, piece.number))

    def _where(self, shard: int, number: int) -> str:
        return f"{self._files.name(shard)}, record {number}"

    def _scan(self, shard: int, scan: LabelScan) -> None:
        size, number = self._files.sizes[shard], 0
        offset = 0
        try:
            with open(self._files.paths[shard], "rb", buffering=2**20) as file:
                while offset < size:
                    length = _read_length(file, size - offset)
                    example = _parse(_checked(_exactly(file, length + _CRC.size)))
                    _image_of(example)
                    scan.add(_label(example), _name(example))
                    self._pieces.add(offset, length)
                    offset += _FRAME.size + length + _CRC.size
                    number += 1
        except DatasetError as error:
            raise DatasetError(f"{self._where(shard, number)}: {error}") from None
        except OSError as error:
            raise DatasetError(f"{self._files.name(shard)}: cannot be read ({error.strerror})") from None


class TFRecordWriter:
    """Writes a TFRecord file. Keeps the first `resume_at` bytes of an existing file, and appends to them.

    Records contain `image_raw` and `label`. They contain a `name` only if `names`, which is indexed by label, is
    given, because the old programs do not write it.
    """

    def __init__(self, path: str | os.PathLike[str], *, names: Sequence[str] | None = None, resume_at: int = 0) -> None:
        self._names = names
        self._file = open(path, "r+b" if resume_at else "wb", buffering=2**20)  # noqa: SIM115
        self._file.truncate(resume_at)
        self._file.seek(resume_at)

    def write(self, encoded: bytes, label: int) -> None:
        """Append one image."""
        example = _Example()
        feature = example.features.feature
        feature.add(key=_IMAGE[0]).value.bytes_list.value.append(encoded)
        feature.add(key=_LABEL[0]).value.int64_list.value.append(label)
        if self._names is not None:
            name = plain_text(self._names[label]).encode("utf-8")
            feature.add(key=_NAME[0]).value.bytes_list.value.append(name)
        data = example.SerializeToString()
        self._file.write(_frame(len(data)) + data + _CRC.pack(masked_crc(data)))

    def sync(self) -> int:
        """Flush to the disk and return the file's length, which is the position to resume at."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Finish the file."""
        self.sync()
        self._file.close()

    def abandon(self) -> None:
        """Close the unfinished file and ignore errors."""
        with contextlib.suppress(OSError):
            self._file.close()


def _frame(length: int) -> bytes:
    head = struct.pack("<Q", length)
    return head + _CRC.pack(masked_crc(head))


def _read_length(file: BinaryIO, n_left: int) -> int:
    head = _exactly(file, min(_FRAME.size, n_left))
    if head[:2] == b"\x1f\x8b":
        raise DatasetError("single images cannot be read from a compressed file; unpack it with gunzip")
    if len(head) < _FRAME.size:
        raise DatasetError("the file is cut short")
    length, crc = _FRAME.unpack(head)
    if crc != masked_crc(head[:8]):
        raise DatasetError("damaged, or not a TFRecord file: the checksum of its length does not match")
    if length > MAX_RECORD:
        raise DatasetError(f"{length:,} bytes; a record must have at most {MAX_RECORD:,}")
    if length + _FRAME.size + _CRC.size > n_left:
        raise DatasetError(f"the file is cut short: the record should have {length:,} bytes")
    return int(length)


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise DatasetError("the file became shorter while it was read")
    return data


def _framed(record: bytes, length: int) -> bytes:
    """Return the data of a whole record, after checking both checksums."""
    if record[: _FRAME.size] != _frame(length):
        raise DatasetError("damaged: its length has changed since it was opened")
    return _checked(record[_FRAME.size :])


def _checked(data: bytes) -> bytes:
    """Return a record's data without the checksum at its end; raises `DatasetError` if the checksum is wrong."""
    data, crc = data[: -_CRC.size], data[-_CRC.size :]
    if crc != _CRC.pack(masked_crc(data)):
        raise DatasetError("damaged: the checksum of its data does not match")
    return data


def _parse(data: bytes) -> dict[str, Any]:
    try:
        check_message_count(data, _MESSAGES, "Example", _MAX_MESSAGES)
        return {entry.key: entry.value for entry in _Example.FromString(data).features.feature}
    except (DecodeError, ValueError):
        raise DatasetError("not a tf.train.Example") from None


def _feature(example: dict[str, Any], names: tuple[str, ...], what: str) -> Any:
    for name in names:
        if name in example:
            return example[name]
    there = plain_text(", ".join(sorted(example)[:8])[:200])
    raise DatasetError(f"expected a feature {' or '.join(names)}, {what}, got {there or 'no features'}")


def _image_of(example: dict[str, Any]) -> Any:
    values = _feature(example, _IMAGE, "the encoded image").bytes_list.value
    if len(values) != 1:
        raise DatasetError(f"expected one encoded image, got {len(values)}")
    return values


def _label(example: dict[str, Any]) -> int:
    feature = _feature(example, _LABEL, "its label")
    values = feature.int64_list.value
    if len(values) != 1:
        got = f"{len(values)} of them" if feature.HasField("int64_list") else "something else"
        raise DatasetError(f"expected one label (int64), got {got}")
    return int(values[0])


def _name(example: dict[str, Any]) -> str | None:
    for name in _NAME:
        if name in example:
            values = example[name].bytes_list.value
            if len(values) > 1 or example[name].HasField("int64_list"):
                raise DatasetError(f"expected one name (bytes) in {name}, got {len(values)}")
            # Programs that always write this feature leave it empty if they have no name.
            return bytes(values[0]).decode("utf-8", "backslashreplace") or None if len(values) else None
    return None
