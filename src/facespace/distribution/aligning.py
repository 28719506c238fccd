"""`align` in parts: class folders of photos to class folders of crops, and the rows of the parts to one table.

The batches are those of `alignment.journal`, so crops and table are the same, byte for byte, as those of one process.
"""

from __future__ import annotations

import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.alignment.aligner import find_photos
from facespace.alignment.batch import BatchAligner, outputs
from facespace.alignment.face_table import CSV_NAME, Row, read_csv, write_csv
from facespace.alignment.journal import BATCH
from facespace.detection.factory import create_detector
from facespace.detection.protocol import Detector
from facespace.distribution.archives import damaged
from facespace.distribution.parts import remove_parts
from facespace.distribution.plan import (
    HEADER as PLAN_HEADER,
    Plan,
    leftovers,
    make_plan,
    read_pairs,
    result_name,
    variables,
)
from facespace.distribution.storage import Folder, StoredPhoto, find_class_photos, is_url
from facespace.errors import DatasetError
from facespace.faces.crops import FILE_NAME, CropRecord
from facespace.io import image
from facespace.io.text import plain_text
from facespace.runtime.cores import usable_cores
from facespace.runtime.devices import Device

PER_PART = 8 * BATCH  # photos
_PARTS = ".parts"


@dataclass(frozen=True)
class AligningWork:
    """The `parts.Work` of aligning `raw` into `out`; the rows of parts lie in a folder of `out` until they are joined."""

    raw: Folder
    out: Folder
    record: CropRecord
    device: Device

    @property
    def folder(self) -> Folder:
        """Where plan and rows are."""
        return self.out.inside(_PARTS)

    @property
    def gpu(self) -> bool:
        """Whether faces are found on a GPU."""
        return self.device == "cuda"

    def settings(self) -> dict[str, Any]:
        """What the results depend on beside the photos."""
        return {"command": "align", "photos_in": self.raw.name, **asdict(self.record), **variables()}

    def entries(self) -> list[str]:
        """The list of the plan: of every photo `NAME/file` and its crop's file, by the rules of `alignment.aligner`.

        The crop's name depends on other photos, so it is decided here, where all are known.
        """
        place = self.raw.place
        photos = list(find_class_photos(place)) if is_url(place) else find_photos(Path(place))
        return [json.dumps(pair) for pair in outputs(photos, self.record).items()]

    def result(self, number: int) -> str:
        """The rows of a part."""
        return result_name(number, "json")

    def compute(self, number: int) -> None:
        """Align the photos of a part: first its crops are written, then its rows."""
        target: dict[str, str] = dict(read_pairs(self.folder, number))
        photos = list(target)
        detector = _detector(self.record.detector, self.record.min_size, self.device)
        aligner = BatchAligner(self.record, detector, target, read=self._read, write=self.out.create)
        rows: list[Row] = []
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="facespace-files") as files:
            for start in range(0, len(photos), BATCH):
                rows += aligner.align(photos[start : start + BATCH], files)
        self.folder.create(self.result(number), json.dumps([row.as_list() for row in rows]).encode())

    def _read(self, photo: str) -> npt.NDArray[np.uint8]:
        if is_url(self.raw.place):
            return image.as_rgb(StoredPhoto(f"{self.raw.place.rstrip('/')}/{photo}"))  # type: ignore[arg-type]
        return image.read(os.path.join(self.raw.place, photo))


def begin(work: AligningWork) -> Plan | None:
    """The plan of a run, new or taken up; None where the crops of just these photos are finished.

    `DatasetError` where there is anything else in the output.
    """
    if not work.folder.exists(PLAN_HEADER):
        if work.out.exists(CSV_NAME) and work.out.exists(FILE_NAME):
            _check_finished(work)
            work.folder.remove(leftovers(work.folder))  # a run that was killed right at its end left it
            return None
        if not work.out.is_empty(apart_from=_PARTS):  # where a run lies that was killed before its plan was whole
            raise DatasetError(
                f"{work.out.name}: is not empty, and holds no plan of such a run; give another output, or go on without --ray"
            )
    plan = make_plan(work.folder, work.entries(), work.settings(), per_part=PER_PART)
    work.out.write(FILE_NAME, work.record.text().encode())
    return plan


def finish(work: AligningWork, plan: Plan) -> list[Row]:
    """Join the rows of all parts into the table, in the order of one process, and remove the parts; the rows."""
    rows: list[Row] = []
    for number in range(plan.n_parts):
        name = work.result(number)
        try:
            rows += [Row.from_list(fields[:]) for fields in json.loads(work.folder.read(name))[:]]
        except (ValueError, TypeError, KeyError):
            raise damaged(work.folder, name) from None
    rows.sort(key=lambda row: row.input.split("/", 1))  # stable: faces of one photo keep their order
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, CSV_NAME)
        write_csv(table, work.record, rows)
        work.out.write(CSV_NAME, table.read_bytes())
    work.out.remove_unfinished()
    for person in {row.output.split("/", 1)[0] for row in rows if row.output}:
        work.out.inside(person).remove_unfinished()
    remove_parts(work, plan)
    return rows


def read_table(out: Folder) -> list[Row]:
    """The rows of the finished table of a folder of crops."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, CSV_NAME)
        table.write_bytes(out.read(CSV_NAME))
        return read_csv(table)


def _check_finished(work: AligningWork) -> None:
    if work.out.read(FILE_NAME) != work.record.text().encode():
        raise DatasetError(f"{work.out.name}: holds crops made in another way; give another output")
    photos = {plain_text(json.loads(entry)[0]) for entry in work.entries()}
    if {row.input for row in read_table(work.out)} != photos:
        raise DatasetError(
            f"{work.out.name}: holds the finished crops of other photos; give another output, or add photos without --ray"
        )


@lru_cache(maxsize=1)  # a worker computes one part after another
def _detector(name: str, min_size: float, device: Device) -> Detector:
    return create_detector(name, min_size=min_size, device=device)
