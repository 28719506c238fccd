"""The table that the aligner writes next to its crops: one row for every face, or for every photo without one.

`faces.csv` begins with a comment that describes how the crops were made, then the names of the columns:

    input, output            the photo and its crop, relative to their folders; without a crop, output is empty
    status, reason           `aligned`, `no face` or `unreadable`; reason says why there is no crop
    width, height            of the photo, in pixels
    x1, y1, x2, y2           the detector's box, in pixels of the photo
    left_eye_x … right_mouth_y   the five landmarks
    score                    the detector's probability
"""

from __future__ import annotations

import csv
import dataclasses
import importlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facespace.errors import DatasetError, RuntimeUnavailable
from facespace.faces.alignment import crop_box
from facespace.faces.crops import CropRecord
from facespace.faces.face import Face
from facespace.io.files import atomic_path
from facespace.io.text import plain_text

CSV_NAME = "faces.csv"
PARQUET_NAME = "faces.parquet"
BOUNDING_BOXES_NAME = "bounding_boxes.txt"
STATUSES = ("aligned", "no face", "unreadable")
_POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
_NUMBERS = ("x1", "y1", "x2", "y2", *(f"{point}_{axis}" for point in _POINTS for axis in "xy"), "score")
COLUMNS = ("input", "output", "status", "reason", "width", "height", *_NUMBERS)
_MAX_BYTES = 8 * 2**30


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `numbers` are box, landmarks and score as decimal strings, so that reading a table and writing it again
    does not change it.
    """

    input: str
    output: str
    status: str
    reason: str = ""
    width: int = 0
    height: int = 0
    numbers: tuple[str, ...] = ()

    @classmethod
    def of_face(cls, photo: str, output: str, size: tuple[int, int], face: Face) -> Row:
        """Return the row of a crop; `size` is the photo's (width, height)."""
        places = [*face.box, *(value for point in face.landmarks for value in point)]
        numbers = (*(f"{value:.3f}" for value in places), f"{face.score:.6f}")
        return cls(photo, output, "aligned", "", *size, numbers)

    def as_list(self) -> list[Any]:
        """Return the fields in the order of `COLUMNS`, for JSON and `from_list`."""
        size = [self.width, self.height] if self.width else ["", ""]
        numbers = self.numbers or ("",) * len(_NUMBERS)
        return [self.input, self.output, self.status, self.reason, *size, *numbers]

    @classmethod
    def from_list(cls, fields: Sequence[Any]) -> Row:
        """Build a row from the result of `as_list`. Raises `ValueError` for anything else."""
        if len(fields) != len(COLUMNS):
            raise ValueError(f"a row must have {len(COLUMNS)} fields, got {len(fields)}")
        name, output, status, reason, width, height, *numbers = map(str, fields)
        if status not in STATUSES or not name:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {status[:40]!r}")
        if any(numbers):
            [float(number) for number in numbers]
        return cls(
            name, output, status, reason, int(width or 0), int(height or 0), tuple(numbers) if any(numbers) else ()
        )


def write_csv(path: Path, record: CropRecord, rows: Iterable[Row]) -> None:
    """Write the table atomically."""
    with atomic_path(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        settings = json.dumps(dataclasses.asdict(record))
        file.write(f"# facespace align {settings}\n")
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows([plain_text(str(field)) for field in row.as_list()] for row in rows)


def read_csv(path: Path) -> list[Row]:
    """Read the rows of a table. Raises `DatasetError`, with the line number, for a line that is not a valid row."""
    if path.stat().st_size > _MAX_BYTES:
        raise DatasetError(f"{path}: larger than {_MAX_BYTES} bytes; not a table of faces")
    rows = []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DatasetError(f"{path}: not a table of faces (it is not UTF-8 text)") from None
    # `splitlines` would also split at line separators within names.
    table = csv.reader(io.StringIO(text.partition("\n")[2] if text.startswith("#") else text, newline=""))
    try:
        if tuple(next(table, ())) != COLUMNS:
            raise DatasetError(f"{path}: not a table of faces; its columns must be {','.join(COLUMNS)}")
        rows = [Row.from_list(fields) for fields in table]
    except (ValueError, csv.Error) as error:
        raise DatasetError(
            f"{path}: line {table.line_num + 1}: {error}; restore it or align into a new folder"
        ) from None
    return rows


def check_parquet() -> None:
    """Raise `RuntimeUnavailable` if Parquet cannot be written; call it before the work starts."""
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise RuntimeUnavailable(
            "a Parquet table needs pyarrow; install it with: pip install 'facespace[data]'"
        ) from None


def write_parquet(path: Path, record: CropRecord, rows: Sequence[Row]) -> None:
    """Write the table as Parquet; the crop record is in the file's metadata under `facespace`."""
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, Any] = {
        name: pyarrow.array([plain_text(getattr(row, name)) for row in rows], pyarrow.string())
        for name in ("input", "output", "status", "reason")
    }
    for name in ("width", "height"):
        columns[name] = pyarrow.array([getattr(row, name) or None for row in rows], pyarrow.int32())
    for k, name in enumerate(_NUMBERS):
        values = [float(row.numbers[k]) if row.numbers else None for row in rows]
        columns[name] = pyarrow.array(values, pyarrow.float64())
    table = pyarrow.table(columns, metadata={"facespace": json.dumps(dataclasses.asdict(record))})
    with atomic_path(path) as unfinished:
        pyarrow.parquet.write_table(table, unfinished)


def write_bounding_boxes(path: Path, folder: Path, record: CropRecord, rows: Iterable[Row]) -> None:
    """Write the text file of the 2018 aligner: a line `crop x1 y1 x2 y2` for every face; the box includes the margin.

    The line of a photo without a face has only the crop's name. Unreadable photos have no line.
    """
    with atomic_path(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for row in rows:
            if row.status == "unreadable":
                continue
            output = row.output or str(Path(row.input).with_suffix(".png"))
            line = plain_text(str(folder / output))
            if row.numbers:
                x1, y1, x2, y2 = (float(number) for number in row.numbers[:4])
                box = crop_box((x1, y1, x2, y2), row.width, row.height, record.crop_margin)
                line += " " + " ".join(map(str, box))
            file.write(line + "\n")
