"""Archives of parts: read as they were written, and a one-line error for anything else."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from facespace.distribution.archives import as_archive, read_archive, read_archives
from facespace.distribution.network_work import NetworkWork
from facespace.distribution.plan import Plan
from facespace.distribution.storage import Folder
from facespace.errors import DatasetError


def test_columns_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.create("a.npz", as_archive(score=np.array([0.5, 1]), path=np.array(["é.jpg", ""]), more=np.zeros(2)))
    found = read_archive(folder, "a.npz", ("score", "path"))
    assert {name: array.tolist() for name, array in found.items()} == {"score": [0.5, 1.0], "path": ["é.jpg", ""]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\3\4 cut off",
        b"no archive",
        as_archive(path=np.zeros(2)),
        as_archive(score=np.zeros(100))[:-40],
    ],
)
def test_anything_else_is_damaged(tmp_path: Path, data: bytes) -> None:
    folder = Folder(str(tmp_path))
    folder.create("a.npz", data)
    with pytest.raises(DatasetError, match=r"a\.npz: damaged; remove it and run again$"):
        read_archive(folder, "a.npz", ("score",))


def test_pickles_and_what_unpacks_to_too_much_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    np.savez(tmp_path / "pickle.npz", score=np.array([{}], dtype=object))
    with zipfile.ZipFile(tmp_path / "large.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("score.npy", bytes(100_000))
    monkeypatch.setattr("facespace.distribution.archives.MAX_PART", 50_000)
    with pytest.raises(DatasetError, match=r"pickle\.npz: damaged"):
        read_archive(folder, "pickle.npz", ("score",))
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(DatasetError, match=r"large\.npz: damaged"):
        read_archive(folder, "large.npz", ("score",))


def test_the_archives_of_all_parts_come_in_order(tmp_path: Path) -> None:
    class Work(NetworkWork):
        folder = Folder(str(tmp_path))

        def compute(self, number: int) -> None:
            self.folder.create(self.result(number), as_archive(number=np.array(number), more=np.zeros(2)))

    work, plan = Work(model="", fingerprint="", device="auto"), Plan(n_photos=5, per_part=2)
    for number in (2, 0, 1):
        work.compute(number)
    parts = list(read_archives(work, plan, ("number",)))
    assert [{name: int(array) for name, array in part.items()} for part in parts] == [{"number": k} for k in range(3)]
    work.folder.write(work.result(1), b"PK cut off")
    with pytest.raises(DatasetError, match=r"part-0000001\.npz: damaged; remove it and run again$"):
        list(read_archives(work, plan, ("number",)))
