"""Class folders of photos in, the same folders of aligned crops out, with a table of every photo.

Several processes may work on one pair of folders, and any of them may be killed: the crops and the table end up the
same, byte for byte, as if one had done it all. Photos are detected in the fixed batches of the journal, since a
network's last bits may depend on what else is in its batch.
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
_BATCHES_AT_ONCE = 3  # one being read, one with the detector, one being written
_PIXELS_AT_ONCE = 80_000_000  # no further batch is begun while decoded photos hold more
_POLL = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Summary:
    """What a folder of crops holds, and what this process did for it.

    `n_photos` = photos with a face + `n_no_face` + `n_unreadable`; `n_faces` crops. `n_here` photos were done by this
    process in `seconds`.
    """

    n_photos: int
    n_faces: int
    n_no_face: int
    n_unreadable: int
    n_here: int
    seconds: float


def find_photos(raw: Path) -> list[str]:
    """`NAME/file` of every photo in the class folders of `raw`, sorted; hidden files and folders within them do not count.

    What is no photo is left out with a `LeftOutWarning`, by the same rule as in `read_class_folders`. `DatasetError` where
    there is no such folder or no photo in any.
    """
    if not raw.is_dir():
        raise DatasetError(
            f"{plain_text(str(raw))}: no such folder; align wants a folder of class folders, one a person"
        )
    files = PhotoFiles()
    photos = []
    for name in visible_names(raw, folders=True):
        inside = (f"{name}/{file}" for file in visible_names(raw / name, folders=False))
        photos += [file for file in inside if files.takes(raw / file, file)]
    files.warn(raw)
    if not photos:
        raise DatasetError(
            f"{plain_text(str(raw))}: no photos in class folders; wanted one folder a person, like NAME/photo.jpg"
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
    """Align every photo of `raw` into `out` as `record` says; what is there already stays.

    `detector` makes the detector, once, if there is work for it. `progress(done, total)` is called now and then.
    Returns when everything is done, also by other processes. Raises `DatasetError` where the folders or an earlier
    run do not fit, and `OSError` when `out` cannot be written; finished batches are kept then.
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
    """The `Summary` of a finished table."""
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
    """The rows of the finished table of `out`, also written in the other formats that are asked for.

    Under the lock of `out`: another process that finishes there removes whatever unfinished file it finds.
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
    """Raise `DatasetError` where the output lies in the folder of photos."""
    here, there = raw.resolve(), out.resolve()
    if there == here or here in there.parents:
        raise DatasetError(f"{plain_text(str(out))}: the output lies in the folder of photos; give another folder")


def _plan(out: Path, record: CropRecord, photos: list[str]) -> tuple[list[Row], Journal | None]:
    """The finished rows and the plan for the rest, found or new; None when nothing is left to do."""
    made = read_record(out)
    if made is not None and not made.model:
        record = dataclasses.replace(record, model="")  # a record of before names no model
    if made is not None and made != record:
        differ = [
            f"{field.name} {getattr(made, field.name)} (asked for: {getattr(record, field.name)})"
            for field in dataclasses.fields(record)
            if getattr(made, field.name) != getattr(record, field.name)
        ]
        raise DatasetError(f"{plain_text(str(out))}: holds crops made with {', '.join(differ)}; give another folder")
    table = out / CSV_NAME
    named = {plain_text(photo): photo for photo in photos}
    rows = [row for row in read_csv(table) if row.input in named] if made is not None and table.is_file() else []
    folder = out / _JOURNAL
    if Journal.exists(folder):
        return rows, Journal(folder)
    target = outputs(photos, record)
    if made is None:
        for output in target.values():
            if os.path.lexists(out / output):
                raise DatasetError(
                    f"{plain_text(str(out))}: holds {plain_text(output)}, but no {FILE_NAME} that says how it was made; "
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
        # What a process left that was killed after it took the plan away.
        shutil.rmtree(folder, ignore_errors=True)
        _tidy(out)
        return rows, None
    return rows, Journal.start(folder, open_photos)


def _exists(out: Path, row: Row, output: str, record: CropRecord) -> bool:
    """Whether the crop of a row still lies there; the table's names are escaped, the disk's are not."""
    if record.faces == "all":
        stem, ending = os.path.splitext(output)
        number = os.path.splitext(row.output)[0].rpartition("_")[2]
        output = f"{stem}_{number}{ending}"
    return os.path.lexists(out / output)


def _join(out: Path, record: CropRecord, rows: list[Row], journal: Journal) -> None:
    """Journal and earlier rows into the table, in the order of the photos; then the traces of the work go."""
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
    """One process's part: batches flow from the readers through the detector to the writers, several at once."""

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
        """Do batches until all are done, by whomever; the number of photos done here."""
        n_done, due = 0, 0.0
        flowing: deque[tuple[Batch, Future[list[Row]]]] = deque()
        files = ThreadPoolExecutor(usable_cores(), thread_name_prefix="facespace-files")
        batches = ThreadPoolExecutor(_BATCHES_AT_ONCE, thread_name_prefix="facespace-batch")
        try:
            while True:
                while len(flowing) < _BATCHES_AT_ONCE and (self._aligner.n_pixels < _PIXELS_AT_ONCE or not flowing):
                    batch = self._journal.claim()
                    if batch is None:
                        break
                    flowing.append((batch, batches.submit(self._aligner.align, batch.photos, files)))
                if flowing:
                    batch, aligned = flowing.popleft()
                    self._journal.finish(batch, aligned.result())
                    n_done += len(batch.photos)
                elif self._journal.is_complete() or not self._journal.is_current():
                    return n_done
                else:
                    time.sleep(_POLL)  # for what others are at; should they die, their batches are free again
                    if not self._journal.is_current():
                        return n_done
                if time.monotonic() > due:
                    start = time.monotonic()
                    with contextlib.suppress(FileNotFoundError):
                        progress(self._journal.n_done())
                    due = start + max(1.0, 50 * (time.monotonic() - start))  # counting a million takes its time
        finally:
            batches.shutdown(cancel_futures=True)
            files.shutdown(cancel_futures=True)
            self._journal.abandon()


def _write_crop(target: Path, crop: bytes) -> None:
    target.parent.mkdir(exist_ok=True)
    write_bytes(target, crop)
