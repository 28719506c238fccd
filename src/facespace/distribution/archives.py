"""Stores the results of parts as NumPy archives, which are checked when they are read."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.distribution.parts import Work
from facespace.distribution.plan import Plan
from facespace.distribution.storage import MAX_PART, Folder
from facespace.errors import DatasetError

Arrays = dict[str, npt.NDArray[Any]]


def as_archive(**arrays: npt.NDArray[Any]) -> bytes:
    """Return a NumPy archive of arrays as bytes.

    >>> as_archive(score=np.zeros(3))[:2]
    b'PK'
    """
    archive = io.BytesIO()
    np.savez(archive, **arrays)  # type: ignore[arg-type]
    return archive.getvalue()


def read_archive(folder: Folder, name: str, columns: Sequence[str]) -> Arrays:
    """Read the arrays named in `columns` from an `.npz` archive.

    Raises `DatasetError` if the archive is damaged, lacks an array, or unpacks to more than `MAX_PART` bytes.
    """
    data = folder.read(name)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(one.file_size for one in archive.infolist()) > MAX_PART:
                raise damaged(folder, name)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {column: arrays[column] for column in columns}
    except (ValueError, KeyError, TypeError, EOFError, NotImplementedError, zlib.error, zipfile.BadZipFile):
        raise damaged(folder, name) from None


def read_archives(work: Work, plan: Plan, columns: Sequence[str]) -> Iterator[Arrays]:
    """Yield `read_archive` of each part's result, in the order of the plan."""
    for number in range(plan.n_parts):
        yield read_archive(work.folder, work.result(number), columns)


def damaged(folder: Folder, name: str) -> DatasetError:
    """Return the error for a damaged result."""
    return DatasetError(f"{folder.name}/{name}: damaged; remove it and run again")
