"""`align` in parts: class folders of photos become class folders of crops, and the rows of all parts become one table.

The batches are those of `alignment.journal`, so crops and table are byte for byte the same as those of one process.
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
    """Represents the `parts.Work` of aligning `raw` into `out`; `out/.parts` has each part's rows until `finish`."""

    raw: Folder
    out: Folder
    record: CropRecord
    device: Device

    @property
    def folder(self) -> Folder:
        """The folder of the plan and the rows."""
        return self.out.inside(_PARTS)

    @property
    def gpu(self) -> bool:
        """Whether faces are detected on a GPU."""
        return self.device == "cuda"

    def settings(self) -> dict[str, Any]:
        """Return everything except the photos that the results depend on."""
        return {"command": "align", "photos_in": self.raw.name, **asdict(self.record), **variables()}

    def entries(self) -> list[str]:
        """Return the entries of the plan, as JSON: pairs of a photo, `NAME/file`, and the file of its crop.

        `alignment.batch.outputs` chooses the crop's file. This depends on other photos, so it is done here, where all
        photos are known.
        """
        place = self.raw.place
        photos = list(find_class_photos(place)) if is_url(place) else find_photos(Path(place))
        return [json.dumps(pair) for pair in outputs(photos, self.record).items()]

    def result(self, number: int) -> str:
        """Return the name of the file with a part's rows."""
        return result_name(number, "json")

    def compute(self, number: int) -> None:
        """Align the photos of a part, and write its crops and then its rows."""
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
    """Make the plan of a run or resume an existing one. Return None if the crops of these photos are finished.

    Raises `DatasetError` if the output contains neither a plan nor finished crops, but is not empty.
    """
    if not work.folder.exists(PLAN_HEADER):
        if work.out.exists(CSV_NAME) and work.out.exists(FILE_NAME):
            _check_finished(work)
            work.folder.remove(leftovers(work.folder))  # left by a run that was killed at its very end
            return None
        if not work.out.is_empty(apart_from=_PARTS):  # `_PARTS` may be left by a run that was killed early
            raise DatasetError(
                f"{work.out.name}: is not empty, and has no plan of a run with --ray; give another output, or continue without --ray"
            )
    plan = make_plan(work.folder, work.entries(), work.settings(), per_part=PER_PART)
    work.out.write(FILE_NAME, work.record.text().encode())
    return plan


def finish(work: AligningWork, plan: Plan) -> list[Row]:
    """Write the rows of all parts as one table, in the order of a single process; remove the parts; return the rows."""
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
    """Read the rows of the finished table in a folder of crops."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, CSV_NAME)
        table.write_bytes(out.read(CSV_NAME))
        return read_csv(table)


def _check_finished(work: AligningWork) -> None:
    if work.out.read(FILE_NAME) != work.record.text().encode():
        raise DatasetError(f"{work.out.name}: contains crops made with other settings; give another output")
    photos = {plain_text(json.loads(entry)[0]) for entry in work.entries()}
    if {row.input for row in read_table(work.out)} != photos:
        raise DatasetError(
            f"{work.out.name}: contains the finished crops of other photos; give another output, or add photos without --ray"
        )


@lru_cache(maxsize=1)  # a worker computes many parts
def _detector(name: str, min_size: float, device: Device) -> Detector:
    return create_detector(name, min_size=min_size, device=device)
