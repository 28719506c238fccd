"""Opens a dataset by its path and recognises its format by the content."""

from __future__ import annotations

import binascii
import contextlib
import importlib
import os
import re
import stat
from collections.abc import Sequence
from typing import cast

from facespace.datasets.formats.class_folders import visible_names
from facespace.datasets.formats.recordio_index import MAGIC
from facespace.datasets.protocol import LabelledImages
from facespace.datasets.shards import is_pattern, matching
from facespace.datasets.union import UnionImages
from facespace.errors import DatasetError
from facespace.io.checksums import masked_crc
from facespace.io.file_kinds import Kind, image_ending, kind_in_folder
from facespace.io.text import plain_text

Source = str | os.PathLike[str]

ACCEPTED = (
    "expected class folders, an MXNet .rec, TFRecord files, tar shards, Parquet files, an MS-Celeb-1M .tsv, "
    "or a folder of one of these"
)
# For each format: the module and class of its reader, and a regular expression for its files' endings.
_READERS = {
    "class folders": ("class_folders", "ImageFolder", ""),
    "MXNet RecordIO": ("recordio", "RecordImages", r"\.rec"),
    "TFRecord": ("tfrecord", "TFRecordImages", r"\.tfrecords?(-\d+)?|\.tfrec|\.tfr|-\d{5}-of-\d{5}"),
    "tar": ("webdataset", "TarImages", r"\.tar"),
    "Parquet": ("parquet", "ParquetImages", r"\.parquet"),
    "MS-Celeb-1M": ("msceleb", "MSCelebImages", r"\.tsv"),
}
_IN_SHARDS = ("TFRecord", "tar", "Parquet", "MS-Celeb-1M")
_COMPRESSED = (".gz", ".tgz", ".zst", ".bz2", ".xz", ".zip", ".7z")
_START = 512  # bytes that identify a file's format
_MAX_COLUMNS = 2**16  # bytes of a table's first line in front of its image
_OWN_TABLES = ("faces.parquet",)  # not datasets: the aligner writes this table next to class folders


def open_dataset(source: Source | Sequence[Source]) -> LabelledImages:
    """Open the dataset at a path, or the union of several paths: `A:B` (`A;B` on Windows), or a sequence.

    A dataset is a folder of class folders, a `.rec` file or its folder, TFRecord files, tar shards, Parquet files, or an
    MS-Celeb-1M table. The content decides, not the name. A glob pattern such as `shards/train-*.tar` selects some of a
    folder's shards. An existing path whose name contains a colon or a star is taken literally. Raises `DatasetError` if
    the path is not a dataset, or if a folder contains two kinds.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ("a", "b"):
    ...         os.makedirs(os.path.join(root, name, "Anna"))
    ...         Image.new("RGB", (2, 3)).save(os.path.join(root, name, "Anna", "1.png"))
    ...     images = open_dataset(os.path.join(root, "a") + os.pathsep + os.path.join(root, "b"))
    ...     images.names, images.labels.tolist()
    (('Anna',), [0, 0])
    """
    datasets = [_open(path) for path in paths_of(source)]
    return datasets[0] if len(datasets) == 1 else UnionImages(datasets)


def paths_of(source: Source | Sequence[Source]) -> list[str]:
    """Return the paths that `open_dataset` opens, with `~` expanded.

    A source that does not exist is split at `os.pathsep`. Raises `DatasetError` for an empty source or part.
    """
    sources = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    paths = [path for one in sources for path in _parted(os.fspath(one))]
    if not paths:
        raise DatasetError(f"no dataset was given; {ACCEPTED}")
    return paths


def _parted(source: str) -> list[str]:
    if os.pathsep not in source or os.path.lexists(source):
        return [os.path.expanduser(source)]
    parts = source.split(os.pathsep)
    if not all(parts):
        raise DatasetError(
            f"{plain_text(source)}: expected paths separated by single `{os.pathsep}`, got an empty path"
        )
    return [os.path.expanduser(part) for part in parts]  # in `~/a:~/b` a shell expands only the first `~`


def _open(path: str) -> LabelledImages:
    # The name decides only if the first bytes are damaged; the reader of that format then reports what is wrong.
    if is_pattern(path):
        first = matching(path)[0]
        kind = _file_kind(first) or _named_kind(first)
        if kind not in _IN_SHARDS:
            raise DatasetError(f"{plain_text(path)}: a pattern must match {', '.join(_IN_SHARDS)} files")
    else:
        kind = _folder_kind(path) if os.path.isdir(path) else _file_kind(path) or _named_kind(path)
    if kind is None:
        reason = f"not a dataset; {_instead(path) or ACCEPTED}" if os.path.lexists(path) else "no such file or folder"
        raise DatasetError(f"{plain_text(path) or '``'}: {reason}")
    module, reader, _ = _READERS[kind]
    return cast(LabelledImages, getattr(importlib.import_module(f"facespace.datasets.formats.{module}"), reader)(path))


def _folder_kind(path: str) -> str | None:
    try:
        files = visible_names(path, folders=False)
        folders = visible_names(path, folders=True)
    except OSError as error:
        raise DatasetError(f"{plain_text(path)}: the folder cannot be listed ({error.strerror})") from None
    if "train.rec" in files:
        return "MXNet RecordIO"  # insightface keeps files of other kinds next to it
    found = {"class folders": f"folders such as {folders[0]}"} if _has_images(path, folders) else {}
    named: dict[str, str] = {}
    for file in files:
        if file not in _OWN_TABLES and (kind := _named_kind(file)):
            named.setdefault(kind, file)  # one file of each kind is enough: the reader checks all files
    found |= {kind: file for kind, file in named.items() if _file_kind(os.path.join(path, file)) == kind}
    if len(found) > 1:
        which = " and ".join(f"{kind} ({plain_text(name)})" for kind, name in found.items())
        raise DatasetError(
            f"{plain_text(path)}: a folder must contain one kind of dataset, got {which}; put them into separate folders"
        )
    return next(iter(found or named), None)


def _instead(path: str) -> str:
    """Return a hint for a folder that is not a dataset; an empty string if no hint applies."""
    if not os.path.isdir(path):
        return ""
    for file in visible_names(path, folders=False):
        if os.path.splitext(file)[1].lower() in _COMPRESSED:
            return f"single images cannot be read from compressed files such as {plain_text(file)}; unpack them"
    for folder in visible_names(path, folders=True):
        with contextlib.suppress(DatasetError):
            if _folder_kind(os.path.join(path, folder)):
                return f"but {plain_text(os.path.join(path, folder))} is one"
    return ""


def _named_kind(file: str) -> str | None:
    for kind, (_, _, ending) in _READERS.items():
        if ending and re.search(f"(?:{ending})$", file, re.IGNORECASE):
            return kind
    return None


def _has_images(path: str, folders: Sequence[str]) -> bool:
    for folder in folders:
        try:
            with os.scandir(os.path.join(path, folder)) as entries:
                if any(
                    not entry.name.startswith(".") and kind_in_folder(entry.path) is Kind.PHOTO for entry in entries
                ):
                    return True
        except OSError:
            continue  # the reader of class folders reports the error
    return False


def _file_kind(path: str) -> str | None:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # before opening: opening a fifo waits for its writer
            return None
        with open(path, "rb") as stream:
            start = stream.read(_START)
            if b"\t" in start:
                start += stream.read(_MAX_COLUMNS)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name no file can have
        return None
    except OSError as error:
        raise DatasetError(f"{plain_text(path)}: cannot be read ({error.strerror})") from None
    if start.startswith(MAGIC.to_bytes(4, "little")):
        return "MXNet RecordIO"
    if start.startswith(b"PAR1"):
        return "Parquet"
    if start[257:262] == b"ustar" or _is_old_tar(start):
        return "tar"
    if _is_tfrecord(start):
        return "TFRecord"
    if start.startswith(b"\x1f\x8b"):
        raise DatasetError(
            f"{plain_text(path)}: single images cannot be read from a compressed file; unpack it with gunzip"
        )
    return "MS-Celeb-1M" if _is_msceleb(start) else None


def _is_old_tar(start: bytes) -> bool:
    """Return whether a file begins with a tar header, by its checksum: tar files before 1988 have no magic number."""
    field = start[148:156].split(b"\0")[0].strip()
    if len(start) < _START or not re.fullmatch(rb"[0-7]{1,7}", field):
        return False
    return int(field, 8) == sum(start[:148]) + 8 * ord(" ") + sum(start[156:_START])


def _is_tfrecord(start: bytes) -> bool:
    return len(start) >= 12 and masked_crc(start[:8]) == int.from_bytes(start[8:12], "little")


def _is_msceleb(start: bytes) -> bool:
    """Return whether the first line has six or seven columns, the last of them an image in Base64."""
    columns = start.split(b"\n", 1)[0].rstrip(b"\r").split(b"\t")
    letters = columns[-1][:64]
    try:
        return (
            len(columns) in (6, 7) and image_ending(binascii.a2b_base64(letters[: len(letters) // 4 * 4])) is not None
        )
    except binascii.Error:
        return False
