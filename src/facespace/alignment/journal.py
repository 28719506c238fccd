"""Who aligns which photos: a plan that several processes share, and that a killed one leaves for the next.

The photos still to do are cut into batches once, and the plan is written to `OUT/.align/`. A process claims a
batch by locking a file, which the system undoes when the process dies, and writes its rows there when every crop
of it lies in its place. When all batches have their rows, whoever sees it first joins them into the table.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from facespace.alignment.face_table import Row
from facespace.errors import DatasetError
from facespace.io.files import atomic_path

BATCH = 12  # photos: a chunk of the detector for each of two cores


class Batch(NamedTuple):
    """Photos claimed by this process, and the lock that says so."""

    number: int
    photos: list[str]
    lock: FileLock


def directory_lock(out: Path) -> FileLock:
    """Held while a plan is made or joined into the table."""
    return FileLock(out / ".align.lock")


class Journal:
    """The plan in `folder`, made by `start` or found there, and this process's part in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            plan: Any = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
            self.id = str(plan["id"])
            self.photos = [str(photo) for photo in plan["photos"]]
        except (ValueError, TypeError, KeyError):
            raise DatasetError(f"{folder}: the plan of an unfinished run is damaged; remove this folder") from None
        self.n_batches = -(-len(self.photos) // BATCH)
        self._open = list(range(self.n_batches))  # not yet seen finished, nor claimed here
        self._mine: dict[int, Batch] = {}

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether an unfinished plan lies there."""
        return (folder / "plan.json").is_file()

    @classmethod
    def start(cls, folder: Path, photos: Sequence[str]) -> Journal:
        """Write a new plan. The caller holds `directory_lock`."""
        shutil.rmtree(folder, ignore_errors=True)  # what a process left that was killed while it tidied up
        folder.mkdir()
        plan = {"id": os.urandom(8).hex(), "photos": list(photos)}
        with atomic_path(folder / "plan.json") as path:
            path.write_text(json.dumps(plan), encoding="utf-8")
        return cls(folder)

    def _rows(self, number: int) -> Path:
        return self._folder / f"{number:07d}.json"

    def is_current(self) -> bool:
        """Whether this is still the plan on disk; another process may have joined it into the table."""
        try:
            plan = json.loads((self._folder / "plan.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(plan["id"] == self.id)

    def claim(self) -> Batch | None:
        """A batch nobody works on, or None where all are finished or claimed."""
        for number in list(self._open):
            if self._rows(number).is_file():
                self._open.remove(number)
                continue
            lock = FileLock(self._folder / f"{number:07d}.lock")
            try:
                lock.acquire(timeout=0)
            except (Timeout, OSError):  # somebody's; or the folder is gone with the plan
                continue
            if self._rows(number).is_file() or not self.is_current():
                lock.release()
                continue
            self._open.remove(number)
            batch = Batch(number, self.photos[number * BATCH : (number + 1) * BATCH], lock)
            self._mine[number] = batch
            return batch
        return None

    def finish(self, batch: Batch, rows: Sequence[Row]) -> None:
        """Record the rows of a batch whose crops are all written, and let go of it."""
        with atomic_path(self._rows(batch.number)) as path:
            path.write_text(json.dumps([row.as_list() for row in rows]), encoding="utf-8")
        self._mine.pop(batch.number).lock.release()

    def abandon(self) -> None:
        """Let go of what was claimed and not finished."""
        for batch in self._mine.values():
            batch.lock.release()
        self._mine.clear()

    def n_done(self) -> int:
        """Photos in finished batches, by whichever process."""
        with os.scandir(self._folder) as entries:
            finished = [entry.name for entry in entries if entry.name.endswith(".json") and entry.name != "plan.json"]
        last = f"{self.n_batches - 1:07d}.json"
        short = self.n_batches * BATCH - len(self.photos) if last in finished else 0
        return len(finished) * BATCH - short

    def is_complete(self) -> bool:
        """Whether every batch has its rows."""
        self._open = [number for number in self._open if not self._rows(number).is_file()]
        return not self._open and not self._mine

    def read_rows(self) -> list[Row]:
        """The rows of all finished batches. `DatasetError` where a file of the journal is damaged."""
        rows: list[Row] = []
        for number in range(self.n_batches):
            if self._rows(number).is_file():
                try:
                    # A list of lists: of anything else, sliced or joined, comes an error.
                    rows += [
                        Row.from_list(fields[:]) for fields in json.loads(self._rows(number).read_text("utf-8"))[:]
                    ]
                except (ValueError, TypeError, KeyError):
                    raise DatasetError(f"{self._rows(number)}: damaged; remove it and run again") from None
        return rows

    def remove(self) -> None:
        """Take the plan away, first of all what others know it by. The caller holds `directory_lock`."""
        (self._folder / "plan.json").unlink()
        shutil.rmtree(self._folder, ignore_errors=True)
