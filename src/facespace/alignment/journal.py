"""Divides photos among processes: a plan in files that several processes share and a later run can continue.

The remaining photos are divided into batches once, and the plan is written to `OUT/.align/`. A process claims a batch
by locking a file; the system releases the lock when the process dies. It writes the batch's rows there once all its
crops are written. When all batches have rows, the first process that notices joins them into the table.
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

BATCH = 12  # photos; a detector chunk for each of two cores


class Batch(NamedTuple):
    """Photos claimed by this process, and the lock that reserves them."""

    number: int
    photos: list[str]
    lock: FileLock


def directory_lock(out: Path) -> FileLock:
    """Return the lock to hold while a plan is created or joined into the table."""
    return FileLock(out / ".align.lock")


class Journal:
    """The plan of an alignment run, read from `folder`, and the batches of it that this process has claimed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            plan: Any = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
            self.id = str(plan["id"])
            self.photos = [str(photo) for photo in plan["photos"]]
        except (ValueError, TypeError, KeyError):
            raise DatasetError(f"{folder}: the plan of an unfinished run is damaged; remove this folder") from None
        self.n_batches = -(-len(self.photos) // BATCH)
        self._open = list(range(self.n_batches))  # neither known to be finished nor claimed here
        self._mine: dict[int, Batch] = {}

    @staticmethod
    def exists(folder: Path) -> bool:
        """Return whether the folder contains an unfinished plan."""
        return (folder / "plan.json").is_file()

    @classmethod
    def start(cls, folder: Path, photos: Sequence[str]) -> Journal:
        """Write a new plan; the caller must hold `directory_lock`."""
        shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed while cleaning up
        folder.mkdir()
        plan = {"id": os.urandom(8).hex(), "photos": list(photos)}
        with atomic_path(folder / "plan.json") as path:
            path.write_text(json.dumps(plan), encoding="utf-8")
        return cls(folder)

    def _rows(self, number: int) -> Path:
        return self._folder / f"{number:07d}.json"

    def is_current(self) -> bool:
        """Return whether this plan is still on disk; another process may have finished and removed it."""
        try:
            plan = json.loads((self._folder / "plan.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(plan["id"] == self.id)

    def claim(self) -> Batch | None:
        """Claim a free batch and return it; return None if every batch is finished or claimed."""
        for number in list(self._open):
            if self._rows(number).is_file():
                self._open.remove(number)
                continue
            lock = FileLock(self._folder / f"{number:07d}.lock")
            try:
                lock.acquire(timeout=0)
            except (Timeout, OSError):  # claimed by another process, or the folder was removed with the plan
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
        """Record the rows of a batch whose crops are all written, and release it."""
        with atomic_path(self._rows(batch.number)) as path:
            path.write_text(json.dumps([row.as_list() for row in rows]), encoding="utf-8")
        self._mine.pop(batch.number).lock.release()

    def abandon(self) -> None:
        """Release claimed batches that are not finished."""
        for batch in self._mine.values():
            batch.lock.release()
        self._mine.clear()

    def n_done(self) -> int:
        """Return the number of photos in batches finished by any process."""
        with os.scandir(self._folder) as entries:
            finished = [entry.name for entry in entries if entry.name.endswith(".json") and entry.name != "plan.json"]
        last = f"{self.n_batches - 1:07d}.json"
        short = self.n_batches * BATCH - len(self.photos) if last in finished else 0
        return len(finished) * BATCH - short

    def is_complete(self) -> bool:
        """Return whether every batch has its rows."""
        self._open = [number for number in self._open if not self._rows(number).is_file()]
        return not self._open and not self._mine

    def read_rows(self) -> list[Row]:
        """Return the rows of all finished batches. Raises `DatasetError` if a file of the journal is damaged."""
        rows: list[Row] = []
        for number in range(self.n_batches):
            if self._rows(number).is_file():
                try:
                    # Must be a list of lists; slicing or joining anything else raises an error.
                    rows += [
                        Row.from_list(fields[:]) for fields in json.loads(self._rows(number).read_text("utf-8"))[:]
                    ]
                except (ValueError, TypeError, KeyError):
                    raise DatasetError(f"{self._rows(number)}: damaged; remove it and run again") from None
        return rows

    def remove(self) -> None:
        """Remove the plan, beginning with the file that `exists` looks for; the caller must hold `directory_lock`."""
        (self._folder / "plan.json").unlink()
        shutil.rmtree(self._folder, ignore_errors=True)
