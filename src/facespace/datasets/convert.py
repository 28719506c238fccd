"""Converts a dataset to another format: image bytes and their order stay the same, and the result is checked.

All files are written into a hidden folder next to `out`. The hidden folder is renamed to `out` after everything in it has
been read back. It also contains the journal: how many images are safely on the disk, where the writer can resume, and the
checksum so far. The same call resumes a run that was killed, and the result is the same to the byte.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from facespace.datasets.checksum import Chain, dataset_checksum, read_ahead
from facespace.datasets.names import Names
from facespace.datasets.opening import open_dataset, paths_of
from facespace.datasets.protocol import LabelledImages
from facespace.datasets.writing import FORMATS, SHARDED, Writer, names_in, open_writer, open_written
from facespace.errors import DatasetError, FacespaceError
from facespace.faces.crops import read_record
from facespace.io.file_kinds import image_ending
from facespace.io.files import TEMPORARY, atomic_path, sync_folder
from facespace.io.text import plain_text

RECORD_NAME = "convert.json"
_JOURNAL = f"{TEMPORARY}journal.json"
PARTS = f"{TEMPORARY}parts"  # in the hidden folder: files that a `write` function keeps until everything is checked
_SAFE_BYTES = 2**28  # bytes written between two updates of the journal
_SAFE_SECONDS = 10.0
_MAX_JSON = 2**28  # bytes; `renamed` can be long

Progress = Callable[[int, int], None]
Source = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Conversion:
    """The result of a conversion: a dataset of `n_images` images of `n_identities`, and its `checksum`.

    Names that the format cannot store were changed: `renamed` maps each new name to the original name. `n_unrecognised`
    is the number of images of unknown file type, which were copied like all others. `n_here` is the number of images
    that this call copied, without those of an interrupted earlier call. `seconds` is the duration of this call.
    """

    n_images: int
    n_identities: int
    checksum: str
    renamed: Mapping[str, str]
    n_unrecognised: int
    n_here: int = 0
    seconds: float = 0.0


def convert_dataset(
    source: Source | Sequence[Source] | LabelledImages,
    out: str | os.PathLike[str],
    *,
    to: str,
    shard_images: int = 10_000,
    shard_bytes: int = 1_000_000_000,
    progress: Progress | None = None,
    write: Write | None = None,
) -> Conversion:
    """Write a dataset into the new folder `out` in the format `to`, one of `FORMATS`; see `open_dataset` for `source`.

    A shard of `webdataset` or `parquet` is finished as soon as it has `shard_images` images or `shard_bytes` bytes.
    `progress(done, total)` counts every image twice: when it is copied and when it is read back. `convert.json` in `out`
    records the result. `write` replaces the function that writes the images, for instance to write them on other machines.
    If an earlier call with the same arguments has written `out`, it is left unchanged.

    Raises `DatasetError` when the source is damaged or has changed since an earlier call, when `out` exists with other
    content, and when the written dataset differs from the source; `OSError` when `out` cannot be written.
    After an `OSError` the same call resumes from the last update of the journal.
    """
    if to not in FORMATS:
        raise ValueError(f"the format must be one of {', '.join(FORMATS)}, got {to!r}")
    if shard_images < 1 or shard_bytes < 1:
        raise ValueError(f"a shard must have at least 1 image and 1 byte, got {shard_images} and {shard_bytes}")
    start = time.perf_counter()
    # `resolve` would follow a link called `out`. Such a link is an error instead.
    out = Path(os.path.abspath(out))
    paths = paths_of(source) if isinstance(source, (str, os.PathLike, Sequence)) else []
    _check_apart(paths, out)
    images = open_dataset(source) if isinstance(source, (str, os.PathLike, Sequence)) else source
    if not len(images):
        raise DatasetError("the dataset has no images to convert")
    plan = ConversionPlan.of(images, to, shard_images, shard_bytes, os.pathsep.join(paths))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{TEMPORARY}{out.name}")
    lock_file = out.with_name(f"{TEMPORARY}{out.name}.lock")
    lock = FileLock(lock_file)
    try:
        with lock.acquire(timeout=0):
            try:
                if (made := _made_before(out, plan)) is None:
                    made = (write or _write)(images, partial, plan, progress or _quiet)
                    _write_record(partial, plan, made)
                    _copy_crop_record(paths, partial)
                    _put_in_place(partial, out)
                (out / _JOURNAL).unlink(missing_ok=True)
                shutil.rmtree(out / PARTS, ignore_errors=True)
            finally:
                if not os.path.lexists(partial):
                    with contextlib.suppress(OSError):  # Windows cannot remove an open file
                        lock_file.unlink()
    except Timeout:
        raise DatasetError(f"{plain_text(str(out))}: another process is converting to it") from None
    return dataclasses.replace(made, seconds=time.perf_counter() - start)


def _write(images: LabelledImages, folder: Path, plan: ConversionPlan, progress: Progress) -> Conversion:
    return _Run(images, folder, plan, progress).finish()


def _quiet(done: int, total: int) -> None:
    pass


def _check_apart(paths: list[str], out: Path) -> None:
    there = os.path.realpath(out)
    for path in paths:
        here = os.path.realpath(path)
        if there == here or there.startswith(os.path.join(here, "")):
            raise DatasetError(
                f"{plain_text(str(out))}: the output must not be inside the dataset; give another folder"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class ConversionPlan:
    """The source and the settings of a conversion."""

    to: str
    shard_images: int
    shard_bytes: int
    source: str
    n_images: int
    fingerprint: str  # SHA-256 of the labels, the names and up to 17 of the images
    named: bool  # whether any name is not just the number of its label
    n_labels: int
    names: Mapping[int, str]  # by label, as the format `to` stores them; only identities with an image or a name
    renamed: Mapping[str, str]

    @classmethod
    def of(cls, images: LabelledImages, to: str, shard_images: int, shard_bytes: int, source: str) -> ConversionPlan:
        """Return the plan for a dataset; `convert.json` records `source` as its origin."""
        n_labels = len(images.names)
        present = set(np.unique(images.labels).tolist())
        own = {label: name for label, name in enumerate(images.names) if label in present or name != str(label)}
        named = any(name != str(label) for label, name in own.items())
        names = names_in(to, own, n_labels)
        digest = hashlib.sha256(np.ascontiguousarray(images.labels, "<i8").tobytes())
        digest.update(json.dumps(list(names.items())).encode())
        for index in sorted({len(images) * k // 16 for k in range(16)} | {len(images) - 1}):
            digest.update(hashlib.sha256(images.encoded(index)).digest())
        renamed = {names[label]: plain_text(name) for label, name in own.items() if names[label] != plain_text(name)}
        return cls(
            to, shard_images, shard_bytes, plain_text(source), len(images), digest.hexdigest(), named, n_labels,
            names, renamed if named else {},
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """Return the settings that must be equal in two runs, so that the second can resume the work of the first."""
        settings: dict[str, Any] = {"format": self.to, "fingerprint": self.fingerprint}
        if self.to in SHARDED:
            settings |= {"shard_images": self.shard_images, "shard_bytes": self.shard_bytes}
        return settings

    def written_names(self) -> Names:
        """Return the names to write. If every name is just the number of its label, only class folders get names."""
        return Names(self.n_labels, self.names if self.named or self.to == "folder" else {})


class _Run:
    """One conversion, which resumes from the journal in `folder` if there is one."""

    def __init__(self, images: LabelledImages, folder: Path, plan: ConversionPlan, progress: Progress) -> None:
        self._images, self._folder, self._plan = images, folder, plan
        self._progress = progress
        self._n_done, chain, self._mark, self._n_unrecognised = self._journal()
        self._chain = Chain(plan.names, chain)
        self._is_whole = True  # whether the writer has written only whole images, so that `_save` may be called

    def _journal(self) -> tuple[int, bytes, Any, int]:
        path = self._folder / _JOURNAL
        shown = plain_text(str(self._folder))
        if not path.is_file():
            if os.path.lexists(self._folder) and not self._folder.is_dir():
                raise DatasetError(f"{shown}: the conversion needs this path for its files; remove what is there")
            if (self._folder / PARTS).is_dir():
                raise DatasetError(
                    f"{shown}: contains a conversion started with --ray; resume it with --ray, or remove this folder"
                )
            if self._folder.is_dir():  # killed before the first entry of the journal
                shutil.rmtree(self._folder)
            self._folder.mkdir()
            self._note(0, bytes(32), None, 0)
            return 0, bytes(32), None, 0
        try:
            if path.stat().st_size > _MAX_JSON:
                raise ValueError  # noqa: TRY301
            entry: Any = json.loads(path.read_text(encoding="utf-8"))
            settings, safe = entry["settings"], entry["safe"]
            found = int(safe["n_images"]), bytes.fromhex(safe["chain"]), safe["mark"], int(safe["n_unrecognised"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise DatasetError(f"{shown}: the journal of an unfinished run is damaged; remove this folder") from None
        if settings != self._plan.settings():
            raise DatasetError(
                f"{shown}: contains an unfinished conversion of another dataset, of this dataset before it changed, or "
                "with other settings; remove this folder or give another output"
            )
        return found

    def _note(self, n_images: int, chain: bytes, mark: Any, n_unrecognised: int) -> None:
        """Write the journal: how many images are safely on the disk, and where the writer can resume."""
        safe = {"n_images": n_images, "chain": chain.hex(), "mark": mark, "n_unrecognised": n_unrecognised}
        with atomic_path(self._folder / _JOURNAL) as path, path.open("w", encoding="utf-8") as file:
            json.dump({"settings": self._plan.settings(), "safe": safe}, file)

    def finish(self) -> Conversion:
        """Copy the images that are still missing, compare all of them with the source, and return the result."""
        before = self._n_done
        plan, names = self._plan, self._plan.written_names()
        writer = open_writer(
            plan.to, self._folder, names,
            shard_images=plan.shard_images, shard_bytes=plan.shard_bytes, resume_at=self._mark,
        )  # fmt: skip
        try:
            self._copy(writer)
            writer.close()
        except BaseException:
            if self._is_whole:
                with contextlib.suppress(Exception):
                    self._save(writer)
            writer.abandon()
            raise
        checksum = self._chain.value.hex()
        self._read_back(open_written(plan.to, self._folder, names), checksum)
        return Conversion(
            plan.n_images, len(plan.names), checksum, plan.renamed, self._n_unrecognised, plan.n_images - before
        )

    def _copy(self, writer: Writer) -> None:
        n_images, names = self._plan.n_images, self._plan.names
        rarely = self._plan.to == "parquet"  # Parquet can only resume after a shard, so the journal is updated there
        written, saved = 0, time.monotonic()
        for label, encoded, digest in read_ahead(self._images, self._n_done):
            self._is_whole = False
            try:
                writer.write(encoded, label)
            except FacespaceError as error:  # an image that this format cannot store
                reason = str(error).removeprefix(f"{plain_text(str(self._folder))}: ")
                raise DatasetError(
                    f"image {self._n_done} of the dataset ({names[label]}): {reason}; take it out of the dataset, remove "
                    f"{plain_text(str(self._folder))} and start again, or choose another format"
                ) from None
            self._chain.add(label, digest)
            self._n_unrecognised += image_ending(encoded) is None
            self._n_done += 1
            self._is_whole = True
            written += len(encoded)
            if self._n_done % 50 == 0:
                self._progress(self._n_done, 2 * n_images)
            is_due = written >= _SAFE_BYTES or time.monotonic() - saved >= _SAFE_SECONDS
            if (is_due or rarely) and self._save(writer):
                written, saved = 0, time.monotonic()
        self._save(writer)
        self._is_whole = False  # `close` also writes an index and names

    def _save(self, writer: Writer) -> bool:
        """Flush the written images to the disk and update the journal; return False if the writer is inside a shard."""
        mark = writer.sync()
        if mark is not None:
            self._note(self._n_done, self._chain.value, mark, self._n_unrecognised)
        return mark is not None

    def _read_back(self, images: LabelledImages, checksum: str) -> None:
        """Compare the names, labels and image bytes that were written with the source."""
        n = self._plan.n_images
        check_written(images, self._images, self._plan, self._folder)
        if dataset_checksum(images, progress=lambda done: self._progress(n + done, 2 * n)) != checksum:
            raise written_otherwise(self._folder, "other images")
        self._progress(2 * n, 2 * n)


def check_written(images: LabelledImages, source: LabelledImages, plan: ConversionPlan, folder: Path) -> None:
    """Raise `DatasetError` if the number of images, the labels or the names in a folder differ from those of the source."""
    n_labels = len(images.names)
    if len(images) != plan.n_images:
        raise written_otherwise(folder, f"{len(images):,} images instead of {plan.n_images:,}")
    if not np.array_equal(images.labels, source.labels):
        raise written_otherwise(folder, "other labels")
    if any(label >= n_labels or images.names[label] != name for label, name in plan.names.items()):
        raise written_otherwise(folder, "other names")


def written_otherwise(folder: Path, what: str) -> DatasetError:
    """Return the error for a folder whose content differs from the source."""
    shown = plain_text(str(folder))
    return DatasetError(f"{shown}: reading the written dataset back gave {what}; remove this folder and try again")


Write = Callable[[LabelledImages, Path, ConversionPlan, Progress], Conversion]

# The finished folder


def _write_record(folder: Path, plan: ConversionPlan, made: Conversion) -> None:
    record = {
        "format": plan.to,
        "n_images": made.n_images,
        "n_identities": made.n_identities,
        "checksum": made.checksum,
        "n_unrecognised": made.n_unrecognised,
        "source": plan.source,
        "settings": plan.settings(),
        "renamed": dict(plan.renamed),
    }
    with atomic_path(folder / RECORD_NAME) as path:
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _made_before(out: Path, plan: ConversionPlan) -> Conversion | None:
    """Return the result of an earlier run of the same conversion in `out`; None if `out` is missing or empty.

    Raises `DatasetError` if `out` has any other content.
    """
    if not os.path.lexists(out) or (out.is_dir() and not out.is_symlink() and not os.listdir(out)):
        return None
    path = out / RECORD_NAME
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= _MAX_JSON else {}
        if record["settings"] == plan.settings():
            n_images, checksum = int(record["n_images"]), str(record["checksum"])
            return Conversion(
                n_images, int(record["n_identities"]), checksum, plan.renamed, int(record["n_unrecognised"])
            )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    raise DatasetError(f"{plain_text(str(out))}: already exists and is left unchanged; give another output")


def _copy_crop_record(paths: list[str], folder: Path) -> None:
    """Copy the record of how crops were made, if the source is one folder that has such a record."""
    if len(paths) == 1 and (record := read_record(Path(paths[0]).expanduser())) is not None:
        record.write(folder)


def _put_in_place(partial: Path, out: Path) -> None:
    for path in partial.iterdir():
        if path.name.startswith(TEMPORARY) and path.name not in (_JOURNAL, PARTS):  # left by writes that were killed
            path.unlink()
    if out.is_dir():
        out.rmdir()  # `_made_before` saw that it is empty; Windows cannot rename onto a folder
    os.rename(partial, out)
    sync_folder(out.parent)
