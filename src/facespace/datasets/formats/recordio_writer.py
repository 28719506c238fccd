"""Writes MXNet RecordIO in insightface's layout (`train.rec`, `train.idx`, `property`) without MXNet."""

from __future__ import annotations

import contextlib
import operator
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from facespace.datasets.formats.recordio_file import RecordFile
from facespace.datasets.formats.recordio_index import (
    FIRST,
    HEADER,
    LAST,
    MAGIC,
    MAX_LENGTH,
    MIDDLE,
    PART,
    WHOLE,
    write_index,
)
from facespace.datasets.names import FILE_NAME, MAX_LABEL, write_names
from facespace.errors import DatasetError, ImageError
from facespace.io import image
from facespace.io.files import TEMPORARY, atomic_path
from facespace.io.text import plain_text

_MAGIC_BYTES = MAGIC.to_bytes(4, "little")


class RecordWriter:
    """Writes a folder's `train.rec` image by image under a hidden name; `close` renames it and adds the other files.

    If the images of each identity come one after the other, record 0 and the records of identities are written too.
    Otherwise the file contains only images, with keys from 0 on, which every reader understands. `property` contains
    the number of identities (the length of `names`, else the largest label plus 1) and the size of the first readable
    image. `names.txt` is written if any name differs from its label. An abandoned writer can be resumed: `resume_at` is
    a position that `sync` returned. Leaving the `with` block closes the writer; after an error it removes the
    unfinished file.

    >>> import tempfile
    >>> from facespace.datasets.formats.recordio import RecordImages
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with RecordWriter(folder) as writer:
    ...         writer.write(b"P6 1 1 255 abc", 0)
    ...         writer.write(b"P6 1 1 255 xyz", 1)
    ...     images = RecordImages(folder)
    ...     images.labels.tolist(), images.read(1).tolist()
    ([0, 1], [[[120, 121, 122]]])
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, names: Sequence[str] | None = None, resume_at: int = 0
    ) -> None:
        self._folder = Path(folder)
        self._names = names
        self._n_labels = MAX_LABEL + 1 if names is None else len(names)
        if self._n_labels > MAX_LABEL + 1:
            raise self._error(f"RecordIO can store at most {MAX_LABEL + 1:,} identities, got {self._n_labels:,}")
        self._offsets = array("q")
        self._seen: dict[int, int] = {}  # label → key of its first record, in the order written
        self._last = -1
        self._contiguous = True
        self._image_size: tuple[int, ...] | None = None
        self._folder.mkdir(parents=True, exist_ok=True)
        self._unfinished = self._folder / f"{TEMPORARY}train.rec"
        if resume_at and not self._unfinished.exists():
            raise self._error("there is no unfinished file to resume; write from the beginning")
        self._file = open(self._unfinished, "r+b" if resume_at else "wb", buffering=2**20)  # noqa: SIM115
        try:
            self._file.truncate(resume_at)
            self._file.seek(resume_at)
            if resume_at:
                self._recover()
        except BaseException:
            self.abandon()
            raise

    def write(self, encoded: bytes, label: int) -> None:
        """Append one image. Raises `DatasetError` if RecordIO cannot store it."""
        label = operator.index(label)
        if not 0 <= label < self._n_labels:
            raise self._error(f"the label must be from 0 to {self._n_labels - 1:,}, got {label}")
        if not 0 < len(encoded) <= MAX_LENGTH - HEADER.size:
            raise self._error(f"RecordIO cannot store an image of {len(encoded):,} bytes")
        if self._image_size is None:
            self._image_size = _size_of(encoded)
        self._note(label)
        self._append(HEADER.pack(0, label, len(self._offsets) + 1, 0) + encoded)

    def sync(self) -> int:
        """Flush to the disk and return the file's length, which is the position to resume at."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Finish the files and rename them; raises `DatasetError` if no readable image was written."""
        n0 = len(self._offsets) + 1
        if self._image_size is None:
            raise self._error("no image was written" if n0 == 1 else "none of the images written can be read")
        n1 = n0 + len(self._seen)
        keys = np.arange(n0 - 1)
        if self._contiguous and n1 <= MAX_LABEL:  # the ranges of identities are float32, like the labels
            starts = [*self._seen.values(), n0]
            for k in range(n1 - n0):
                self._append_range(n0 + k, starts[k], starts[k + 1])
            self._append_range(0, n0, n1)
            keys = np.append(np.arange(1, n1), 0)
        self.sync()
        self._file.close()
        # An old index would no longer fit; readers build one if it is missing.
        (self._folder / "train.idx").unlink(missing_ok=True)
        os.replace(self._unfinished, self._folder / "train.rec")
        n_identities = max(self._seen) + 1 if self._names is None else self._n_labels
        with atomic_path(self._folder / "property") as path:
            path.write_text(f"{n_identities},{self._image_size[0]},{self._image_size[1]}", encoding="ascii")
        if self._names is not None and any(name != str(label) for label, name in enumerate(self._names)):
            write_names(self._folder, self._names)
        else:
            (self._folder / FILE_NAME).unlink(missing_ok=True)  # left by an older dataset in this folder
        write_index(self._folder / "train.idx", keys, np.frombuffer(self._offsets, np.int64))

    def abandon(self) -> None:
        """Close the unfinished file but keep it, so that it can be resumed."""
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.close()
        finally:
            self.abandon()
            self._unfinished.unlink(missing_ok=True)

    def _error(self, reason: str) -> DatasetError:
        return DatasetError(f"{plain_text(str(self._folder))}: {reason}")

    def _note(self, label: int) -> None:
        """Record the label of the next image."""
        if label != self._last:
            number = len(self._offsets) + 1
            self._contiguous &= self._seen.setdefault(label, number) == number
            self._last = label

    def _append(self, payload: bytes) -> None:
        """Write a record. Split it at every magic number whose offset is divisible by 4, and leave that number out."""
        self._offsets.append(self._file.tell())
        part, last, start = FIRST, WHOLE, 0
        at = payload.find(_MAGIC_BYTES)
        while at >= 0:
            if at % 4:
                at = payload.find(_MAGIC_BYTES, at + 1)
                continue
            self._file.write(PART.pack(MAGIC, part << 29 | at - start) + payload[start:at])
            part, last, start = MIDDLE, LAST, at + 4
            at = payload.find(_MAGIC_BYTES, start)
        rest = len(payload) - start
        self._file.write(PART.pack(MAGIC, last << 29 | rest) + payload[start:] + bytes(-rest % 4))

    def _append_range(self, key: int, first: int, end: int) -> None:
        self._append(HEADER.pack(2, 0.0, key, 0) + np.array([first, end], "<f4").tobytes())

    def _recover(self) -> None:
        """Restore the writer's state from the records that are in the file."""
        file = RecordFile(str(self._unfinished))
        offsets = file.offsets()
        for label in file.headers(offsets).labels[:, 0].astype(np.int64).tolist():
            self._note(label)
            self._offsets.append(0)
        self._offsets = array("q", offsets.tobytes())
        sizes = (_size_of(file.record(offset).content) for offset in offsets.tolist())
        self._image_size = next((size for size in sizes if size), None)


def _size_of(encoded: bytes) -> tuple[int, ...] | None:
    """Return height and width; None if the bytes are not a readable image."""
    try:
        return image.read(encoded).shape[:2]
    except ImageError:
        return None
