"""Any format for writing: its names, its writer, and what reads it back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from facespace.datasets.formats.class_folders_writer import FolderWriter, NumberedFolder
from facespace.datasets.names import MAX_NAME, Names, folder_names, write_names
from facespace.datasets.protocol import LabelledImages
from facespace.errors import DatasetError
from facespace.io.files import TEMPORARY
from facespace.io.text import plain_text

FORMATS = ("folder", "recordio", "tfrecord", "webdataset", "parquet")
SHARDED = ("webdataset", "parquet")
IN_PARTS = ("folder", *SHARDED)  # whose parts can be written apart


class Writer(Protocol):
    """What every format's writer offers."""

    def write(self, encoded: bytes, label: int) -> None:
        """Append one image."""

    def sync(self) -> Any:
        """Put what was written on the disk; a place to resume at, as JSON holds it, or None where there is none."""

    def close(self) -> None:
        """Finish the files."""

    def abandon(self) -> None:
        """Let go of files that cannot be finished."""


def names_in(format: str, names: Mapping[int, str], n_labels: int) -> dict[int, str]:  # noqa: A002
    """Names by label, of those that have one, as a format can hold them.

    Folders get names that are safe. Where all names are the labels' numbers these get zeros in front, since folders
    are sorted by their letters.

    >>> names_in("folder", {0: "0", 11: "11"}, 12), names_in("folder", {0: "a/b"}, 1), names_in("tfrecord", {0: ""}, 1)
    ({0: '00', 11: '11'}, {0: 'a_b'}, {0: '_'})
    """
    if format != "folder":
        return {label: plain_text(name)[:MAX_NAME] if name.strip() else "_" for label, name in names.items()}
    width = len(str(n_labels - 1)) if all(name == str(label) for label, name in names.items()) else 0
    return dict(zip(names, folder_names([name.zfill(width) for name in names.values()]), strict=True))


def open_writer(
    format: str,  # noqa: A002
    folder: Path,
    names: Names,
    *,
    shard_images: int,
    shard_bytes: int,
    resume_at: Any = None,
) -> Writer:
    """The writer of a format into a folder that is there, gone on with at `resume_at` where that is not None.

    `names.known` are written where the format has a place for them, else beside it; a folder wants one for each label.
    `DatasetError` where the files are not as `resume_at`, which `sync` returned, wants them.
    """
    resume = {} if resume_at is None else {"resume_at": resume_at}
    sizes: dict[str, Any] = {"shard_images": shard_images, "shard_bytes": shard_bytes}
    known = names if names.known else None
    try:
        if format == "folder":
            return FolderWriter(folder, names.known, **resume)
        if format == "recordio":
            from facespace.datasets.formats.recordio_writer import RecordWriter

            _reopen_records(folder)
            return RecordWriter(folder, names=names, **resume)
        if known is not None:
            write_names(folder, names)
        if format == "tfrecord":
            from facespace.datasets.formats.tfrecord import FILE_NAME, TFRecordWriter

            return TFRecordWriter(folder / FILE_NAME, **resume)
        if format == "webdataset":
            from facespace.datasets.formats.webdataset import TarWriter

            return TarWriter(folder, names=known, **sizes, **resume)
        from facespace.datasets.formats.parquet import ParquetWriter

        return ParquetWriter(folder, names=known, **sizes, **resume)
    except (TypeError, ValueError, FileNotFoundError):
        if resume_at is None:
            raise
        said = "what was written before is not there as it was left; remove this folder"
        raise DatasetError(f"{plain_text(str(folder))}: {said}") from None


def bytes_in_shard(format: str, encoded: bytes, label: int, names: Names) -> int:  # noqa: A002
    """How many bytes an image counts for, where a shard is finished with a number of bytes."""
    if format == "webdataset":
        from facespace.datasets.formats.webdataset import packed_sample

        return len(packed_sample(0, encoded, label, names if names.known else None))
    return len(encoded)


def shard_start(format: str, shard: int, n_before: int) -> Any:  # noqa: A002
    """The `resume_at` of a writer that begins with shard number `shard`, behind `n_before` images, in a folder of its own.

    Formats of one file alone have none.
    """
    return {"folder": n_before, "webdataset": (n_before, shard, 0, 0), "parquet": (shard,)}[format]


def _reopen_records(folder: Path) -> None:
    """Undo what a writer did that was killed while it put its files in their places."""
    if (folder / "train.rec").is_file():
        os.replace(folder / "train.rec", folder / f"{TEMPORARY}train.rec")
    for name in ("train.idx", "property"):
        (folder / name).unlink(missing_ok=True)


def open_written(format: str, folder: Path, names: Names, *, n_before: int = 0) -> LabelledImages:  # noqa: A002
    """What the writer of a format left in a folder, in the order it was written, begun behind `n_before` images."""
    if format == "folder":
        return NumberedFolder(folder, names.known, begin=n_before)
    if format == "recordio":
        from facespace.datasets.formats.recordio import RecordImages

        return RecordImages(folder)
    if format == "tfrecord":
        from facespace.datasets.formats.tfrecord import TFRecordImages

        return TFRecordImages(folder)
    if format == "webdataset":
        from facespace.datasets.formats.webdataset import TarImages

        return TarImages(folder)
    from facespace.datasets.formats.parquet import ParquetImages

    return ParquetImages(folder)
