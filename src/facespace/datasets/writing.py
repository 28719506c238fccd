"""The writers of all dataset formats: the names each format can store, its writer, and the reader of the result."""

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
IN_PARTS = ("folder", *SHARDED)  # formats of which several writers can write parts


class Writer(Protocol):
    """The protocol of every format's writer."""

    def write(self, encoded: bytes, label: int) -> None:
        """Append one image."""

    def sync(self) -> Any:
        """Flush to the disk; return the position to resume at, as a JSON value, or None if one cannot resume here."""

    def close(self) -> None:
        """Finish the files."""

    def abandon(self) -> None:
        """Close the files without finishing them."""


def names_in(format: str, names: Mapping[int, str], n_labels: int) -> dict[int, str]:  # noqa: A002
    """Return `names` (label → name), changed where the format cannot store a name as it is.

    For class folders, names become valid folder names. If every name is just the number of its label, the numbers get
    leading zeros, because folders are sorted as text.

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
    """Return a writer that writes `format` into an existing folder.

    `resume_at` is a position that `sync` returned, where the writer continues; None starts from the beginning.
    `names.known` are written into the files if the format can store names, else into `names.txt`; class folders need a
    name for each label. Raises `DatasetError` if the files in the folder do not match `resume_at`.
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
        reason = "the files of the unfinished run are missing or have changed; remove this folder"
        raise DatasetError(f"{plain_text(str(folder))}: {reason}") from None


def bytes_in_shard(format: str, encoded: bytes, label: int, names: Names) -> int:  # noqa: A002
    """Return the number of bytes that an image adds to its shard, as `shard_bytes` counts them."""
    if format == "webdataset":
        from facespace.datasets.formats.webdataset import packed_sample

        return len(packed_sample(0, encoded, label, names if names.known else None))
    return len(encoded)


def shard_start(format: str, shard: int, n_before: int) -> Any:  # noqa: A002
    """Return the `resume_at` for a writer that writes one part of a dataset into its own folder.

    Its first shard has the number `shard`, and `n_before` images of the dataset precede its first image. Only the
    formats in `IN_PARTS` support this.
    """
    return {"folder": n_before, "webdataset": (n_before, shard, 0, 0), "parquet": (shard,)}[format]


def _reopen_records(folder: Path) -> None:
    """Undo the renaming by a writer that was killed in `close`."""
    if (folder / "train.rec").is_file():
        os.replace(folder / "train.rec", folder / f"{TEMPORARY}train.rec")
    for name in ("train.idx", "property"):
        (folder / name).unlink(missing_ok=True)


def open_written(format: str, folder: Path, names: Names, *, n_before: int = 0) -> LabelledImages:  # noqa: A002
    """Open the images that a writer wrote into a folder, in order, after `n_before` images of the dataset."""
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
