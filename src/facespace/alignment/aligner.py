"""Aligns class folders of photos into the same folders of crops, with a table of every photo.

Several processes may work on one pair of folders, and any of them may be killed: the crops and the table are the same,
byte for byte, as if one process had done everything. Faces are detected in the fixed batches of the journal, because
the last bits of a network's output may depend on the other images in its batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from facespace.alignment.batch import BatchAligner, outputs
from facespace.alignment.face_table import (
    BOUNDING_BOXES_NAME,
    CSV_NAME,
    PARQUET_NAME,
    Row,
    read_csv,
    write_bounding_boxes,
    write_csv,
    write_parquet,
)
from facespace.alignment.journal import Batch, Journal, directory_lock
from facespace.datasets.formats.class_folders import visible_names
from facespace.detection.protocol import Detector
from facespace.errors import DatasetError
from facespace.faces.crops import FILE_NAME, CropRecord, read_record
from facespace.io import image
from facespace.io.files import TEMPORARY, write_bytes
from facespace.io.photo_files import PhotoFiles
from facespace.io.text import plain_text
from facespace.runtime.cores import usable_cores

_JOURNAL = ".align"
_BATCHES_AT_ONCE = 3  # one being read, one being detected, one being written
_PIXELS_AT_ONCE = 80_000_000  # no further batch is started while the decoded photos in memory have more pixels
_POLL = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts what a folder of crops contains, and what this process did for it.

    `n_photos` is the sum of the photos with a face, `n_no_face` and `n_unreadable`; `n_faces` counts the crops. This
    process worked on `n_here` of the photos, and `align_dataset` took `seconds` in it.
    """

    n_photos: int
    n_faces: int
    n_no_face: int
    n_unreadable: int
    n_here: int
    seconds: float


def find_photos(raw: Path) -> list[str]:
    """Return `NAME/file` of every photo in the class folders of `raw`, sorted; hidden files and folders are skipped.

    Files that are not photos are left out with a `LeftOutWarning`, by the same rule as in `read_class_folders`. Raises
    `DatasetError` if `raw` is not a folder, or if no class folder contains a photo.
    """
    if not raw.is_dir():
        raise DatasetError(
            f"{plain_text(str(raw))}: no such folder; align needs a folder of class folders, one per person"
        )
    files = PhotoFiles()
    photos = []
    for name in visible_names(raw, folders=True):
        inside = (f"{name}/{file}" for file in visible_names(raw / name, folders=False))
        photos += [file for file in inside if files.takes(raw / file, file)]
    files.warn(raw)
    if not photos:
        raise DatasetError(
            f"{plain_text(str(raw))}: no photos in class folders; there must be one folder per person, like NAME/photo.jpg"
        )
    return photos


def align_dataset(
    raw: Path,
    out: Path,
    record: CropRecord,
    *,
    detector: Callable[[], Detector],
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Align every photo of `raw` into `out` with the settings of `record`; crops of earlier runs are kept.

    `detector` creates the detector, once, if there is work for it. `progress(done, total)` is called from time to time.
    Returns when all photos are done, including those of other processes. Raises `DatasetError` if `raw` has no photos,
    if `out` is inside `raw`, or if `out` contains crops made with other settings. Raises `OSError` if `out` cannot be
    written; finished batches are then kept.
    """
    photos = find_photos(raw)
    check_apart(raw, out)
    out.mkdir(parents=True, exist_ok=True)
    show = progress or _quiet
    start = time.perf_counter()
    n_here = 0
    engine: Detector | None = None
    while True:
        with directory_lock(out):
            rows, journal = _plan(out, record, photos)
        if journal is None:
            break
        engine = engine or detector()
        settled = len(photos) - len(journal.photos)
        worker = _Worker(raw, out, record, engine, journal, outputs(photos, record))
        n_here += worker.work(lambda done, settled=settled: show(settled + done, len(photos)))  # type: ignore[misc]
        with directory_lock(out):
            if journal.is_current() and journal.is_complete():
                _join(out, record, rows, journal)
    show(len(photos), len(photos))
    return summarize(rows, n_here=n_here, seconds=time.perf_counter() - start)


def summarize(rows: Sequence[Row], *, n_here: int, seconds: float) -> Summary:
    """Return the `Summary` of a finished table."""
    status = [row.status for row in rows]
    return Summary(
        n_photos=len({row.input for row in rows}),
        n_faces=status.count("aligned"),
        n_no_face=status.count("no face"),
        n_unreadable=status.count("unreadable"),
        n_here=n_here,
        seconds=seconds,
    )


def write_more_tables(
    out: Path, record: CropRecord, *, parquet: bool = False, bounding_boxes: bool = False
) -> list[Row]:
    """Also write the finished table of `out` as Parquet and as bounding boxes, each if requested; return its rows.

    This call holds the lock of `out`, because another process that finishes there removes all temporary files.
    """
    with directory_lock(out):
        rows = read_csv(out / CSV_NAME)
        if parquet:
            write_parquet(out / PARQUET_NAME, record, rows)
        if bounding_boxes:
            write_bounding_boxes(out / BOUNDING_BOXES_NAME, out, record, rows)
    return rows


def _quiet(done: int, total: int) -> None:
    pass


def check_apart(raw: Path, out: Path) -> None:
    """Raise `DatasetError` if the output folder lies in the folder of photos."""
    source, target_folder = raw.resolve(), out.resolve()
    if target_folder == source or source in target_folder.parents:
        raise DatasetError(
            f"{plain_text(str(out))}: the output folder lies in the folder of photos; give another folder"
        )


def _plan(out: Path, record: CropRecord, photos: list[str]) -> tuple[list[Row], Journal | None]:
    """Return the table rows of finished photos, and the journal that plans and records the work on the other photos.

    The journal is the existing one, else a new one, or None if no photos are left. Raises `DatasetError` if `out`
    contains crops made with other settings than `record`, or crops without a record.
    """
    existing = read_record(out)
    if existing is not None and not existing.model:
        record = dataclasses.replace(record, model="")  # older records name no model
    if existing is not None and existing != record:
        differ = [
            f"{field.name} {getattr(existing, field.name)} (requested: {getattr(record, field.name)})"
            for field in dataclasses.fields(record)
            if getattr(existing, field.name) != getattr(record, field.name)
        ]
        raise DatasetError(f"{plain_text(str(out))}: contains crops made with {', '.join(differ)}; give another folder")
    table = out / CSV_NAME
    named = {plain_text(photo): photo for photo in photos}
    rows = [row for row in read_csv(table) if row.input in named] if existing is not None and table.is_file() else []
    folder = out / _JOURNAL
    if Journal.exists(folder):
        return rows, Journal(folder)
    target = outputs(photos, record)
    if existing is None:
        for output in target.values():
            if os.path.lexists(out / output):
                raise DatasetError(
                    f"{plain_text(str(out))}: contains {plain_text(output)}, but no {FILE_NAME} that describes how it was made; "
                    "give another folder"
                )
        record.write(out)
    gone = {row.input for row in rows if row.output and not _exists(out, row, target[named[row.input]], record)}
    rows = [row for row in rows if row.input not in gone]
    finished = {row.input for row in rows}
    open_photos = [photo for photo in photos if plain_text(photo) not in finished]
    if not open_photos:
        if not table.is_file():
            write_csv(table, record, rows)
        # Remove what is left of a process that was killed after it removed the plan.
        shutil.rmtree(folder, ignore_errors=True)
        _tidy(out)
        return rows, None
    return rows, Journal.start(folder, open_photos)


def _exists(out: Path, row: Row, output: str, record: CropRecord) -> bool:
    """Return whether a row's crop exists; `output` is the name on disk of its photo's crop, which the table escapes."""
    if record.faces == "all":
        stem, ending = os.path.splitext(output)
        number = os.path.splitext(row.output)[0].rpartition("_")[2]
        output = f"{stem}_{number}{ending}"
    return os.path.lexists(out / output)


def _join(out: Path, record: CropRecord, rows: list[Row], journal: Journal) -> None:
    """Write the earlier `rows` and those of the journal as one table, ordered by photo; then remove the journal."""
    new = journal.read_rows()
    replaced = {row.input for row in new}
    joined = [row for row in rows if row.input not in replaced] + new
    joined.sort(key=lambda row: row.input.split("/", 1))  # stable: faces of one photo keep their order
    write_csv(out / CSV_NAME, record, joined)
    for folder in ("", *{os.path.dirname(photo) for photo in journal.photos}):
        _tidy(out / folder)
    journal.remove()


def _tidy(folder: Path) -> None:
    """Remove the unfinished files of processes that were killed while they wrote."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        leftovers = [entry.path for entry in entries if entry.name.startswith(TEMPORARY)]
        for path in leftovers:
            os.unlink(path)


class _Worker:
    """Aligns the batches that one process claims, several at a time: reads photos, detects faces, writes crops."""

    def __init__(
        self, raw: Path, out: Path, record: CropRecord, detector: Detector, journal: Journal, target: dict[str, str]
    ) -> None:
        self._journal = journal
        self._aligner = BatchAligner(
            record,
            detector,
            target,
            read=lambda photo: image.read(raw / photo),
            write=lambda name, crop: _write_crop(out / name, crop),
        )

    def work(self, progress: Callable[[int], None]) -> int:
        """Align batches until this and other processes have finished all; return the number of photos done here."""
        n_done, due = 0, 0.0
        in_progress: deque[tuple[Batch, Future[list[Row]]]] = deque()
        files = ThreadPoolExecutor(usable_cores(), thread_name_prefix="facespace-files")
        batches = ThreadPoolExecutor(_BATCHES_AT_ONCE, thread_name_prefix="facespace-batch")
        try:
            while True:
                while len(in_progress) < _BATCHES_AT_ONCE and (
                    self._aligner.n_pixels < _PIXELS_AT_ONCE or not in_progress
                ):
                    batch = self._journal.claim()
                    if batch is None:
                        break
                    in_progress.append((batch, batches.submit(self._aligner.align, batch.photos, files)))
                if in_progress:
                    batch, aligned = in_progress.popleft()
                    self._journal.finish(batch, aligned.result())
                    n_done += len(batch.photos)
                elif self._journal.is_complete() or not self._journal.is_current():
                    return n_done
                else:
                    time.sleep(_POLL)  # wait for other processes; if they die, their batches become free
                    if not self._journal.is_current():
                        return n_done
                if time.monotonic() > due:
                    start = time.monotonic()
                    with contextlib.suppress(FileNotFoundError):
                        progress(self._journal.n_done())
                    due = start + max(1.0, 50 * (time.monotonic() - start))  # counting a million photos takes time
        finally:
            batches.shutdown(cancel_futures=True)
            files.shutdown(cancel_futures=True)
            self._journal.abandon()


def _write_crop(target: Path, crop: bytes) -> None:
    target.parent.mkdir(exist_ok=True)
    write_bytes(target, crop)
