"""Tar files as the webdataset library writes them: `KEY.jpg`, `KEY.cls` with the label, `KEY.json` with the name."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from facespace.datasets.formats.tar_members import BLOCK, Member, read_members
from facespace.datasets.names import LabelScan, Names
from facespace.datasets.shards import Pieces, ShardFiles, find_shards
from facespace.errors import DatasetError
from facespace.io.file_kinds import IMAGE_ENDINGS, image_ending
from facespace.io.image import MAX_RECORD, decode
from facespace.io.text import plain_text

_MAX_MEMBERS = 100  # of one sample
_MAX_LABEL_BYTES = 64
_MAX_JSON_BYTES = 2**20
_RECORD = 20 * BLOCK  # the size of a tar file is a multiple of this
_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)  # the header of a member without name and data

_Read = Callable[[int, int], bytes]


class _Sample(NamedTuple):
    """The tar members of one sample by ending. The first dot of a file name separates `key` and ending."""

    key: str
    members: dict[str, Member]


class TarImages:
    """A tar file, or a folder of `.tar` shards in natural order, as `LabelledImages`.

    As in webdataset, consecutive files whose names are equal up to the first dot are one sample. Its label is the number
    in `.cls`, or `label` in `.json`, which may also give the identity's `name`. A sample with neither an image nor a
    label is skipped; a sample with only one of them is an error. Nothing is unpacked and no link is followed. Opening
    reads the headers, labels and names. A `DatasetError` names the file and the sample.
    """

    labels: npt.NDArray[np.int64]
    names: Names

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._files = ShardFiles(find_shards(path, r"\.tar", "tar files"))
        self._pieces = Pieces()
        scan = LabelScan()
        for shard in range(len(self._files.paths)):
            self._scan(shard, scan)
            self._pieces.end_shard()
        self.labels, self.names = scan.finish(os.path.dirname(self._files.paths[0]))

    def __len__(self) -> int:
        return len(self._pieces)

    def encoded(self, index: int) -> bytes:
        """Return one image as the tar stores it."""
        piece = self._pieces.find(index)
        return self._files.read(piece.shard, piece.offset, piece.length)

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return one image, (H,W,3) uint8 RGB."""
        piece = self._pieces.find(index)
        return decode(self.encoded(index), f"{self._files.name(piece.shard)}, image {piece.number}")

    def _scan(self, shard: int, scan: LabelScan) -> None:
        read = functools.partial(self._files.read, shard)
        key = ""
        try:
            for key, members in _samples(read_members(read, self._files.sizes[shard])):  # noqa: B007
                image = _image(members)
                label, name = _label(read, members)
                if image is None and label is None:
                    continue
                if image is None or label is None:
                    has = ", ".join(sorted(members)[:8])
                    missing = "an image" if image is None else "a label (.cls, or `label` in .json)"
                    raise DatasetError(f"expected {missing}, got {plain_text(has[:200])}")  # noqa: TRY301
                if image.length > MAX_RECORD:
                    reason = f"{image.length:,} bytes; an image must have at most {MAX_RECORD:,}"
                    raise DatasetError(reason)  # noqa: TRY301
                scan.add(label, name)
                self._pieces.add(image.offset, image.length)
        except DatasetError as error:
            where = f", sample {plain_text(key[:200])}" if key else ""
            raise DatasetError(f"{self._files.name(shard)}{where}: {error}") from None


def _samples(members: Iterator[Member]) -> Iterator[_Sample]:
    sample = _Sample("", {})
    for member in members:
        folder, _, file = member.name.rpartition("/")
        stem, dot, ending = file.partition(".")
        if not stem or not dot:  # a hidden file or one without an ending, which webdataset skips too
            continue
        key = f"{folder}/{stem}" if folder else stem
        if key != sample.key:
            if sample.members:
                yield sample
            sample = _Sample(key, {})
        ending = ending.lower()
        if ending in sample.members:
            raise DatasetError(f"the sample contains {plain_text(member.name[:200])} twice")
        if len(sample.members) >= _MAX_MEMBERS:
            raise DatasetError(f"more than {_MAX_MEMBERS} files in the sample {plain_text(key[:200])}")
        sample.members[ending] = member
    if sample.members:
        yield sample


def _image(members: dict[str, Member]) -> Member | None:
    images = [ending for ending in members if f".{ending.rpartition('.')[2]}" in IMAGE_ENDINGS]
    plain = [ending for ending in images if "." not in ending] or images  # prefers `KEY.jpg` to `KEY.mask.png`
    if len(plain) > 1:
        raise DatasetError(f"expected one image, got {plain_text(', '.join(plain)[:200])}")
    return members[plain[0]] if plain else None


def _label(read: _Read, members: dict[str, Member]) -> tuple[int | None, str | None]:
    """Return the label and the name of a sample, each None if it is missing."""
    label: Any = None
    name: Any = None
    if "json" in members:
        try:
            record = json.loads(_content(read, members["json"], _MAX_JSON_BYTES))
        except (ValueError, RecursionError):
            raise DatasetError("its .json is not valid JSON") from None
        if isinstance(record, dict):
            label, name = record.get("label"), record.get("name")
        if name is not None and not isinstance(name, str):
            raise DatasetError("`name` in its .json must be text")
    if "cls" in members:
        text = _content(read, members["cls"], _MAX_LABEL_BYTES).strip()
        if not text.isdigit():
            shown = plain_text(text[:20].decode("utf-8", "backslashreplace"))
            raise DatasetError(f"its .cls must contain a number, got {shown!r}")
        label = int(text)
    elif label is not None and type(label) is not int:
        raise DatasetError("`label` in its .json must be a whole number")
    return label, name


def _content(read: _Read, member: Member, max_bytes: int) -> bytes:
    if member.length > max_bytes:
        raise DatasetError(
            f"{plain_text(member.name[:200])} must have at most {max_bytes:,} bytes, got {member.length:,}"
        )
    return member.start if len(member.start) == member.length else read(member.offset, member.length)


class TarWriter:
    """Writes shards `00000.tar`, `00001.tar`, … into an existing folder.

    A shard is finished as soon as it has `shard_images` images or `shard_bytes` bytes. An image's key is its number,
    counted through all shards, and file times are 0, so the same images give the same bytes. With `names`, the file
    `KEY.json` contains `names[label]`. `resume_at` is a position that `sync` returned; bytes after it are cut off.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        names: Sequence[str] | None = None,
        shard_images: int = 10_000,
        shard_bytes: int = 1_000_000_000,
        resume_at: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> None:
        self._folder, self._names = os.fspath(folder), names
        self._shard_images, self._shard_bytes = shard_images, shard_bytes
        self._n_images, self._shard, self._n_in_shard, self._size = resume_at
        self._file: BinaryIO | None = None
        if self._size:
            self._file = self._open("r+b")

    def write(self, encoded: bytes, label: int) -> None:
        """Append one image, its label and its name."""
        sample = packed_sample(self._n_images, encoded, label, self._names)
        if self._file is None:
            self._file = self._open("wb")
        self._file.write(sample)
        self._n_images, self._n_in_shard, self._size = (
            self._n_images + 1,
            self._n_in_shard + 1,
            self._size + len(sample),
        )
        if self._n_in_shard >= self._shard_images or self._size >= self._shard_bytes:
            self.close()

    def sync(self) -> tuple[int, int, int, int]:
        """Flush to the disk and return the position to resume at."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._n_images, self._shard, self._n_in_shard, self._size

    def close(self) -> None:
        """Finish the shard that is being written."""
        if self._file is not None:
            self._file.write(bytes(-(self._size + 2 * BLOCK) % _RECORD + 2 * BLOCK))
            self.sync()
            self._file.close()
            self._file, self._shard, self._n_in_shard, self._size = None, self._shard + 1, 0, 0

    def _open(self, mode: str) -> BinaryIO:
        file: BinaryIO = open(os.path.join(self._folder, f"{self._shard:05d}.tar"), mode, buffering=2**20)  # type: ignore[assignment]  # noqa: SIM115
        file.truncate(self._size)
        file.seek(self._size)
        return file

    def abandon(self) -> None:
        """Close an unfinished shard and ignore errors."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()


def packed_sample(number: int, encoded: bytes, label: int, names: Sequence[str] | None) -> bytes:
    """Return the tar members of one image as bytes."""
    key = f"{number:08d}"
    sample = _packed(key + (image_ending(encoded) or ".jpg"), encoded) + _packed(f"{key}.cls", b"%d" % label)
    if names is not None:
        record = json.dumps({"name": plain_text(names[label])}, ensure_ascii=False)
        sample += _packed(f"{key}.json", record.encode("utf-8"))
    return sample


def _packed(name: str, data: bytes) -> bytes:
    """Return a tar member: its header and padded data.

    The header is that of `tarfile.TarInfo.tobuf`, made ten times faster. The name must be ASCII, the data below 8 GiB.
    """
    header = bytearray(_HEADER)
    header[: len(name)] = name.encode("ascii")
    header[124:135] = b"%011o" % len(data)
    header[148:154] = b"%06o" % (sum(header) - sum(header[148:156]) + 8 * ord(" "))
    return bytes(header) + data + bytes(-len(data) % BLOCK)
