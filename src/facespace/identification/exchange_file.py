"""The export file of a gallery: people, vectors and crops in an uncompressed zip.

    people.jsonl         a line for each person, followed by a line for each of their photos
    vectors.safetensors  the tensor `vectors`, float16 (N,D), a row for each photo in the order of the lines
    crops.tar            the stored crops, as PNG files named by the row of their photo; may be missing
    gallery.json         format, model, collection, settings and counts

Files are written and read in pieces: a million people take no more memory than a thousand.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from facespace.errors import GalleryError
from facespace.identification.exchange_lines import (
    MAX_LINE,
    Header,
    Line,
    person_line,
    photo_line,
    read_header,
    read_line,
)
from facespace.identification.stores.protocol import Entry
from facespace.identification.stores.records import PersonRecord, PhotoRecord
from facespace.io.files import atomic_path
from facespace.io.text import first_line, plain_text

VERSION = 1
PEOPLE, VECTORS, CROPS, HEADER = "people.jsonl", "vectors.safetensors", "crops.tar", "gallery.json"
MAX_CROP = 4 * 2**20  # bytes; the largest crop of any model has 3 MB uncompressed
_MAX_HEADER = 2**20  # bytes of gallery.json, and of the zip's central directory
_MAX_TENSORS = 2**16  # bytes of the safetensors header
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the date of all entries, so that the same people give the same file
_BUFFER = 2**20
_ROWS = 2048  # vectors that are read at once
_TAR_END = bytes(2 * tarfile.BLOCKSIZE)
_PNG = b"\x89PNG\r\n\x1a\n"
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, tarfile.TarError, EOFError, ValueError, TypeError, KeyError, OverflowError,
    RuntimeError, NotImplementedError,
)  # fmt: skip


def write_people(path: Path, header: Header, people: Iterable[PersonRecord]) -> Header:
    """Write people to a file atomically; return its header, which is `header` with the counts.

    `people` must be sorted by name. An existing file is replaced. Raise `OSError` if the file cannot be written.
    """
    n_people = n_photos = n_crops = 0
    dimension = header.model["dimension"]
    with contextlib.ExitStack() as stack:
        unfinished = stack.enter_context(atomic_path(path))
        # The entries of a zip are written one after another, so vectors and crops are collected in temporary files.
        vectors, crops = (stack.enter_context(tempfile.TemporaryFile(dir=unfinished.parent)) for _ in range(2))
        archive = stack.enter_context(zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED, allowZip64=True))
        with archive.open(_entry(PEOPLE), "w", force_zip64=True) as lines:
            for record in people:
                lines.write(person_line(record))
                for photo in record.photos:
                    lines.write(photo_line(photo))
                    vectors.write(np.ascontiguousarray(photo.entry.embedding, "<f2").tobytes())
                    if photo.entry.crop is not None:
                        _write_crop(crops, n_photos, photo.entry.crop)
                        n_crops += 1
                    n_photos += 1
                n_people += 1
        start = _tensor_header(n_photos, dimension)
        _append(archive, VECTORS, io.BytesIO(start), vectors)
        if n_crops:
            _append(archive, CROPS, crops, io.BytesIO(_TAR_END))
        counts = {"people": n_people, "photos": n_photos, "crops": n_crops}
        text = json.dumps(
            {"format": "facespace-gallery", "version": VERSION, "model": header.model, "collection": header.collection,
             "settings": header.settings, "counts": counts}, indent=1,
        )  # fmt: skip
        archive.writestr(_entry(HEADER), text)
        archive.close()
    return Header(header.model, header.collection, header.settings, n_people, n_photos, n_crops)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o644 << 16
    return entry


def _append(archive: zipfile.ZipFile, name: str, *parts: IO[bytes]) -> None:
    with archive.open(_entry(name), "w", force_zip64=True) as target:
        for part in parts:
            part.seek(0)
            shutil.copyfileobj(part, target, _BUFFER)


def _write_crop(file: IO[bytes], row: int, data: bytes) -> None:
    entry = tarfile.TarInfo(_crop_name(row))
    entry.size = len(data)
    file.write(entry.tobuf(tarfile.USTAR_FORMAT))
    file.write(data)
    file.write(bytes(-len(data) % tarfile.BLOCKSIZE))


def _crop_name(row: int) -> str:
    return f"{row:09d}.png"


def _tensor_header(n_rows: int, dimension: int) -> bytes:
    tensors = {"vectors": {"dtype": "F16", "shape": [n_rows, dimension], "data_offsets": [0, 2 * n_rows * dimension]}}
    text = json.dumps(tensors).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    return len(text).to_bytes(8, "little") + text


class PeopleFile:
    """A file that `write_people` wrote, open for reading; `header` describes its content.

    All content is checked when it is read; a `GalleryError` says what is wrong. Opening raises `GalleryError` for a
    file that is not an export, is truncated or has a newer format. `check` reads and checks the whole file.
    """

    header: Header

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name = plain_text(str(path))
        if not path.is_file():
            raise GalleryError(f"{self._name}: no such file; facespace gallery export writes one")
        self._file = _BoundedFile(io.FileIO(path))
        try:
            with self._errors():
                self._archive = zipfile.ZipFile(self._file)
                self._file.limit = None
                self._check_entries(path.stat().st_size)
                self.header = self._read_header()
                self._check_counts()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> PeopleFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._archive.close()
        self._file.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except GalleryError:
            raise
        except OSError as error:
            raise GalleryError(f"{self._name}: cannot be read ({error.strerror or error})") from None
        except RecursionError:
            raise self._damaged("its JSON is nested too deeply") from None
        except _DAMAGED as error:
            raise self._damaged(plain_text(first_line(error))) from None

    def _damaged(self, what: str) -> GalleryError:
        return GalleryError(f"{self._name}: damaged, or not an export of a gallery ({what}); export it again")

    def _check_entries(self, size: int) -> None:
        """Check that every zip entry has a known name, occurs once, is not compressed, and lies within the file."""
        entries = self._archive.infolist()
        names = [one.filename for one in entries]
        if sorted(names) not in (sorted((PEOPLE, VECTORS, HEADER)), sorted((PEOPLE, VECTORS, HEADER, CROPS))):
            shown = ", ".join(plain_text(name)[:40] for name in names[:5])
            raise self._damaged(f"a zip with {shown or 'no entries'}")
        for one in entries:
            if one.compress_type != zipfile.ZIP_STORED or one.flag_bits & 0x1 or one.file_size != one.compress_size:
                raise self._damaged(f"{one.filename} is compressed or encrypted")
            if one.header_offset + one.file_size > size:
                raise self._damaged(f"{one.filename} has {one.file_size} bytes, the file {size}")
        if sum(one.file_size for one in entries) > size:
            raise self._damaged("its entries overlap")

    def _open(self, name: str) -> io.BufferedReader:
        return io.BufferedReader(cast(io.RawIOBase, self._archive.open(name)), _BUFFER)

    def _size(self, name: str) -> int:
        return self._archive.getinfo(name).file_size

    def _read_header(self) -> Header:
        if self._size(HEADER) > _MAX_HEADER:
            raise self._damaged(f"{HEADER} has {self._size(HEADER)} bytes")
        return read_header(self._archive.read(HEADER), VERSION, self._name)

    def _check_counts(self) -> None:
        """Check the header's counts against the zip's entries before any memory is allocated for photos and crops."""
        header = self.header
        n_bytes = 2 * header.n_photos * header.model["dimension"]
        with self._archive.open(VECTORS) as file:
            self._skip_tensor_header(file)
        start = self._tensor_start
        if self._size(VECTORS) != start + n_bytes:
            raise self._damaged(f"{VECTORS} must have {start + n_bytes} bytes, got {self._size(VECTORS)}")
        if bool(header.n_crops) != (CROPS in self._archive.NameToInfo):
            raise self._damaged(f"{header.n_crops} crops, but {CROPS} is {'missing' if header.n_crops else 'there'}")

    def _skip_tensor_header(self, file: IO[bytes]) -> None:
        n_photos, dimension = self.header.n_photos, self.header.model["dimension"]
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _MAX_TENSORS:
            raise self._damaged(f"{VECTORS} is not a safetensors file")
        tensors = json.loads(file.read(length).decode("utf-8"))
        if not isinstance(tensors, dict):
            raise self._damaged(f"{VECTORS} is not a safetensors file")
        tensors.pop("__metadata__", None)
        expected = json.loads(_tensor_header(n_photos, dimension)[8:])
        if tensors != expected:
            raise self._damaged(
                f"{VECTORS} must have float16 vectors of shape {[n_photos, dimension]} and nothing else"
            )
        self._tensor_start = 8 + length

    def check(self) -> None:
        """Read everything, including the zip's checksums; raise `GalleryError` if anything is damaged."""
        for _ in self.people():
            pass

    def people(self) -> Iterator[PersonRecord]:
        """Yield all people in the file by ascending name, each checked."""
        with self._errors(), contextlib.ExitStack() as stack:
            opened = {name: stack.enter_context(self._open(name)) for name in self._archive.namelist()}
            self._skip_tensor_header(opened[VECTORS])
            vectors = _Vectors(opened[VECTORS], self.header.n_photos, self.header.model["dimension"])
            lines = _Lines(opened[PEOPLE])
            n_people = row = n_crops = 0
            before = ""
            while (line := lines.next()) is not None:
                person = line.as_person(before)
                before = person.state.name
                photos = []
                for entry_line in lines.several(person.n_photos):
                    photo = entry_line.as_photo()
                    crop = _read_crop(opened, row) if photo.has_crop else None
                    n_crops += photo.has_crop
                    photos.append(
                        PhotoRecord(
                            Entry(
                                vectors.next(),
                                photo.digest,
                                photo.source,
                                photo.made_by,
                                photo.quality,
                                photo.metadata,
                                crop,
                            ),
                            photo.added,
                            photo.actor,
                        )
                    )
                    row += 1
                person.check_photos([one.entry.digest for one in photos])
                n_people += 1
                yield PersonRecord(person.state, person.added, tuple(photos))
            found = (n_people, row, n_crops)
            counted = (self.header.n_people, self.header.n_photos, self.header.n_crops)
            if found != counted:
                raise ValueError(f"people, photos and crops must be {counted} by its counts, got {found}")
            if CROPS in opened and opened[CROPS].read(len(_TAR_END) + 1) != _TAR_END:
                raise ValueError(f"{CROPS} must end after the last crop")


class _Lines:
    """Reads lines of JSON, each of at most `MAX_LINE` bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._number = 0

    def next(self) -> Line | None:
        data = self._file.readline(MAX_LINE + 1)
        if not data:
            return None
        self._number += 1
        return read_line(data, f"line {self._number} of {PEOPLE}")

    def several(self, n: int) -> Iterator[Line]:
        for _ in range(n):
            line = self.next()
            if line is None:
                raise ValueError(f"{PEOPLE} ends in the middle of a person")
            yield line


class _Vectors:
    """Reads the vectors (D,) in order, some thousands at a time, and checks that their length is 1."""

    def __init__(self, file: IO[bytes], n_rows: int, dimension: int) -> None:
        self._file, self._left, self._dimension = file, n_rows, dimension
        self._rows: Iterator[npt.NDArray[np.float32]] = iter(())

    def next(self) -> npt.NDArray[np.float32]:
        row = next(self._rows, None)
        if row is not None:
            return row
        n = min(_ROWS, self._left)
        data = self._file.read(2 * n * self._dimension)
        if not n or len(data) != 2 * n * self._dimension:
            raise ValueError(f"{VECTORS} is truncated")
        self._left -= n
        block = np.frombuffer(data, "<f2").reshape(n, self._dimension).astype(np.float32)
        # float16 preserves lengths to a few thousandths. Written like this, the test also fails for NaN.
        if not (np.abs(np.einsum("nd,nd->n", block, block) - 1) < 4e-3).all():
            raise ValueError("a vector is not of length 1")
        self._rows = iter(block)
        return next(self._rows)


def _read_crop(opened: dict[str, Any], row: int) -> bytes:
    if CROPS not in opened:
        raise ValueError(f"{CROPS} is missing")
    file = opened[CROPS]
    entry = tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "ascii", "strict")
    if entry.name != _crop_name(row) or entry.type != tarfile.REGTYPE or not 0 < entry.size <= MAX_CROP:
        raise ValueError(f"{CROPS} must have the file {_crop_name(row)} of at most {MAX_CROP} bytes next")
    data: bytes = file.read(entry.size)
    padding = file.read(-entry.size % tarfile.BLOCKSIZE)
    if len(data) != entry.size or len(padding) != -entry.size % tarfile.BLOCKSIZE or not data.startswith(_PNG):
        raise ValueError(f"{_crop_name(row)} in {CROPS} is not a PNG, or is truncated")
    return data


class _BoundedFile(io.BufferedReader):
    """A file that refuses reads of more than `limit` bytes, since `zipfile` trusts the sizes it finds in the file."""

    limit: int | None = _MAX_HEADER

    def read(self, size: int | None = -1, /) -> bytes:
        if self.limit is not None and (size is None or size < 0 or size > self.limit):
            here = self.tell()
            left = self.seek(0, io.SEEK_END) - here
            self.seek(here)
            size = left if size is None or size < 0 else min(size, left)
            if size > self.limit:
                raise zipfile.BadZipFile(f"its central directory has {size} bytes")
        return super().read(size)


def is_export(path: Path) -> bool:
    """Return whether a file is a zip with the entries of an export, so that another export may replace it."""
    try:
        with _BoundedFile(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
            return HEADER in archive.NameToInfo and VECTORS in archive.NameToInfo
    except (OSError, *_DAMAGED):
        return False
