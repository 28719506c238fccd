"""MXNet RecordIO as insightface lays out its training sets: `train.rec`, `train.idx`, `property`; without MXNet.

Record 0 contains two numbers, n0 and n1. Records 1 to n0−1 are images. Each record from n0 to n1−1 is one identity and
contains the record number of its first image and of the one after its last. A file whose record 0 is an image contains
only images. Many packers write no identities; their record 0 contains the number of images, or one more, and another
number.
"""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facespace.datasets.formats.recordio_file import RecordFile
from facespace.datasets.formats.recordio_index import Ints, read_index, write_index
from facespace.datasets.names import MAX_LABEL, Names, read_names
from facespace.errors import DatasetError, ImageError
from facespace.io import image
from facespace.io.files import read_whole
from facespace.io.text import plain_text

_ROUNDED = 2**24  # labels are float32, which cannot represent all whole numbers from here on
_MAX_PROPERTY = 1000


class RecordImages:
    """The images of a `.rec` file as `LabelledImages`; in a folder, of `train.rec` or else of its only `.rec` file.

    Images are in the order of their keys, or in that of the index if no record 0 counts the records. The file is
    memory-mapped, not loaded. A record of an identity gives a range of images, which all get the label of the first
    one; each image's own label is compared with it when the image is read. Without such records, the images' own labels
    are used. If there is no `.idx`, the file is scanned once and an index is saved next to it if possible, with a
    warning. A `property` file (identities, height, width) gives the number of identities. Raises `DatasetError` if
    these files do not fit together.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = RecordFile(_record_file(os.fspath(path)))
        self._name = self._file.name
        index = Path(self._file.path).with_suffix(".idx")
        is_there = os.path.lexists(index)
        keys, offsets = read_index(str(index), self._file.size) if is_there else self._walk()
        self._keys: Sequence[int] | Ints = keys
        self._offsets, self._labels = self._images(keys, offsets)
        if not len(self._labels):
            raise DatasetError(f"{self._name}: contains no image")
        folder = os.path.dirname(self._file.path)
        stated = read_property(os.path.join(folder, "property"))
        if stated:
            self._check_property(*stated)
        known = read_names(folder)
        n_labels = stated[0] if stated else int(self._labels.max()) + 1
        self._names = Names(max(n_labels, max(known, default=-1) + 1), known)
        if not is_there:  # saved last, so that no index is left next to a file that cannot be opened
            self._save_index(index, keys, offsets)

    @property
    def names(self) -> Sequence[str]:
        """The identities' names from a `names.txt` next to the file; if a name is missing there, the label as text."""
        return self._names

    @property
    def labels(self) -> Ints:
        """The label of every image, (N,)."""
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    def encoded(self, index: int) -> bytes:
        """Return one image as its record stores it."""
        index = operator.index(index)
        if not 0 <= index < len(self._labels):
            raise IndexError(f"image {index} of {len(self)}")
        _, labels, content = self._file.record(self._offsets.item(index), self._keys[index])
        if labels[0] != self._labels.item(index):
            raise DatasetError(
                f"{self._where(index)} has label {labels[0]:g}, but the record of its identity gives "
                f"{self._labels[index]}; write the file again"
            )
        return content

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return one image, (H,W,3) uint8 RGB."""
        try:
            return image.read(self.encoded(index))
        except ImageError as error:
            raise ImageError(self._where(operator.index(index)), error.reason) from None

    def _where(self, index: int) -> str:
        return f"{self._name}, record {self._keys[index]}"

    # Keys, offsets, labels

    def _walk(self) -> tuple[Ints, Ints]:
        offsets = self._file.offsets()
        # In insightface's layout each record contains its key, and the record with key 0 comes last.
        headers = self._file.headers(offsets)
        n = len(offsets)
        if np.array_equal(np.sort(headers.keys), np.arange(n)):
            return headers.keys, offsets
        last_counts = n > 1 and headers.n_labels[-1] >= 2 and not headers.has_content[-1]
        return np.append(np.arange(1, n), 0) if last_counts else np.arange(n), offsets

    def _save_index(self, path: Path, keys: Ints, offsets: Ints) -> None:
        try:
            write_index(path, keys, offsets)
            saved = f"saved as {plain_text(path.name)}"
        except OSError as error:
            saved = f"kept in memory, as {plain_text(path.name)} cannot be written ({error.strerror})"
        warnings.warn(f"{self._name}: no index file; built one of {len(keys):,} records, {saved}", stacklevel=3)

    def _images(self, keys: Ints, offsets: Ints) -> tuple[Ints, Ints]:
        """Return the offsets and labels of the images, and set `_keys` to their keys."""
        n = len(keys)
        counts = self._counts(keys, offsets)
        if counts is None:
            return offsets, self._labels_of(offsets)
        rounded = float(np.float32(n))  # equal to n up to `_ROUNDED`
        if not (1 <= counts[0] <= counts[1] == rounded and counts[0].is_integer()) or keys.max() != n - 1:
            return self._images_by_content(keys, offsets, counts)
        n0 = int(counts[0])
        by_key = np.empty(n, np.int64)
        by_key[keys] = offsets
        if n >= _ROUNDED:  # n0 is rounded, so look near it for the first record without an image
            near = range(max(n0 - 4, 1), min(n0 + 5, n))
            n0 = next((key for key in near if not self._file.record(int(by_key[key]), key).content), n0)
        images, identities = by_key[1:n0].copy(), by_key[n0:]
        self._keys = range(1, n0)
        if n >= _ROUNDED or not len(identities):
            return images, self._labels_of(images)
        return images, self._labels_by_range(images, identities, n0)

    def _counts(self, keys: Ints, offsets: Ints) -> tuple[float, float] | None:
        """Return the two numbers in record 0, which count records; None if record 0 is an ordinary image or missing."""
        zero = np.flatnonzero(keys == 0)
        if not len(zero):
            return None
        record = self._file.record(int(offsets[zero[0]]), 0)
        if len(record.labels) < 2:
            return None
        # Some packers put a picture into record 0. Its first number is then the number of records, not a label.
        if record.content and not (len(keys) > 1 and record.labels[0] == float(np.float32(len(keys)))):
            return None
        return record.labels[0], record.labels[1]

    def _images_by_content(self, keys: Ints, offsets: Ints, counts: tuple[float, float]) -> tuple[Ints, Ints]:
        """Return the images' offsets and labels if record 0 does not count the records as insightface's packer does.

        There are two such cases. In one, the file has no records of identities, and record 0 contains the number of
        images, or that number plus 1. In the other, the index lacks the keys of unreadable photos, but record 0 counts
        these photos too. The labels are read from the images' own records.
        """
        order = np.argsort(keys, kind="stable")[1:]  # without record 0
        keys, offsets = keys[order], offsets[order]
        has_content = self._file.headers(offsets).has_content
        n = len(keys) + 1
        is_bare = counts[0] in (np.float32(n), np.float32(n - 1)) and has_content.all()
        last = int(keys.max(initial=0)) + 1
        if not is_bare and not (counts[1] == last and np.array_equal(has_content, keys < counts[0])):
            raise DatasetError(
                f"{self._name}, record 0: it counts {counts[0]:g} and, with the identities, {counts[1]:g} records, but the "
                f"index has {n:,}, up to key {last - 1:,}, {np.count_nonzero(has_content):,} of them images; the index "
                "belongs to another file, or one is damaged"
            )
        self._keys = keys[has_content]
        return offsets[has_content], self._labels_of(offsets[has_content])

    def _labels_by_range(self, images: Ints, identities: Ints, n0: int) -> Ints:
        headers = self._file.headers(identities)
        first, end = headers.labels.T
        with np.errstate(invalid="ignore"):
            good = (first >= 1) & (first <= end) & (end <= n0) & (first == np.floor(first)) & (end == np.floor(end))
        wrong = np.flatnonzero(~good | (headers.n_labels < 2))
        if len(wrong):
            k = wrong[0]
            raise DatasetError(
                f"{self._name}, record {n0 + k}: the range of an identity's images must be within 1 to {n0} (end "
                f"excluded), got {first[k]:g} to {end[k]:g}"
            )
        ranges = headers.labels[first < end].astype(np.int64)
        ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
        both = np.flatnonzero(ranges[:-1, 1] > ranges[1:, 0])
        if len(both):
            key = ranges[both[0] + 1, 0]
            raise DatasetError(f"{self._name}: the ranges of identities overlap: record {key} belongs to two of them")
        # The first image of a range gives its label; images outside all ranges use their own labels.
        values = np.full(2 * len(ranges) + 1, -1)
        values[1::2] = self._labels_of(images[ranges[:, 0] - 1])
        labels = np.repeat(values, np.diff(ranges.ravel(), prepend=1, append=n0))
        alone = np.flatnonzero(labels < 0)
        labels[alone] = self._labels_of(images[alone])
        return labels

    def _labels_of(self, offsets: Ints) -> Ints:
        headers = self._file.headers(offsets)
        labels = headers.labels[:, 0]
        with np.errstate(invalid="ignore"):
            good = (labels >= 0) & (labels <= MAX_LABEL) & (labels == np.floor(labels))
        wrong = np.flatnonzero(~good | ~headers.has_content)
        if len(wrong):
            k = wrong[0]
            where = f"{self._name}, record at byte {offsets[k]:,}"
            if not headers.has_content[k]:
                raise DatasetError(f"{where}: contains no image")
            raise DatasetError(f"{where}: the label must be a whole number from 0 to {MAX_LABEL:,}, got {labels[k]:g}")
        return labels.astype(np.int64)

    def _check_property(self, n_identities: int, height: int, width: int) -> None:
        most = int(self._labels.argmax())
        if self._labels[most] >= n_identities:
            raise DatasetError(
                f"{self._where(most)}: the label is {self._labels[most]:,}, but the file `property` gives {n_identities:,} "
                f"identities, labels 0 to {n_identities - 1:,}; correct or remove `property`"
            )
        try:
            pixels = self.read(0)
        except ImageError:
            return  # a damaged image is reported when it is read
        if pixels.shape[:2] != (height, width):
            raise DatasetError(
                f"{self._where(0)}: the image has {pixels.shape[1]}x{pixels.shape[0]} px, but the file `property` gives "
                f"{width}x{height}; correct or remove `property`"
            )


def _record_file(path: str) -> str:
    if not os.path.isdir(path):
        return path
    if os.path.exists(usual := os.path.join(path, "train.rec")):
        return usual
    try:
        found = sorted(name for name in os.listdir(path) if name.endswith(".rec") and not name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{plain_text(path)}: the folder cannot be listed ({error.strerror})") from None
    if len(found) != 1:
        what = f"{len(found)} .rec files in this folder; choose one of them" if found else "no .rec file in this folder"
        raise DatasetError(f"{plain_text(path)}: {what}")
    return os.path.join(path, found[0])


def read_property(path: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    """Return the number of identities, height and width in a `property` file; None if there is no such file."""
    if not os.path.lexists(path):
        return None
    text = read_whole(path, _MAX_PROPERTY).decode("utf-8-sig", "backslashreplace").strip()
    # insightface's own packer puts the number of images on a second line.
    fields = [field.strip() for field in text.partition("\n")[0].split(",")]
    if len(fields) != 3 or not all(
        field.isascii() and field.isdigit() and 0 < int(field) <= MAX_LABEL + 1 for field in fields
    ):
        raise DatasetError(
            f"{plain_text(os.fspath(path))}: expected `identities,height,width`, got `{plain_text(text[:60])}`"
        )
    n_identities, height, width = map(int, fields)
    return n_identities, height, width
