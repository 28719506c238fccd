"""Parts computed in this process; existing results are not computed again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from facespace.distribution.parts import compute_parts, remove_parts
from facespace.distribution.plan import Plan, make_plan
from facespace.distribution.storage import Folder
from facespace.io.files import TEMPORARY

PLAN = Plan(n_photos=30, per_part=8)


@dataclass
class Counting:
    """Writes the number of a part; `fails` is the part that cannot be computed."""

    folder: Folder
    fails: int = -1
    gpu = False

    def result(self, number: int) -> str:
        return f"{number}.txt"

    def compute(self, number: int) -> None:
        if number == self.fails:
            raise ValueError("no")
        assert self.folder.create(self.result(number), str(number).encode())


def test_every_part_is_computed_once(tmp_path: Path) -> None:
    work = Counting(Folder(str(tmp_path)))
    assert list(compute_parts(work, PLAN)) == [0, 1, 2, 3, 4]
    assert work.folder.names() == ["0.txt", "1.txt", "2.txt", "3.txt"]
    assert list(compute_parts(work, PLAN)) == [4]


def test_what_killed_writers_left_is_removed_when_all_is_done(tmp_path: Path) -> None:
    work = Counting(Folder(str(tmp_path)))
    (tmp_path / f"{TEMPORARY}1234.txt").write_bytes(b"cut o")
    list(compute_parts(work, PLAN))
    assert work.folder.names() == ["0.txt", "1.txt", "2.txt", "3.txt"]


def test_a_later_run_computes_what_is_missing(tmp_path: Path) -> None:
    work = Counting(Folder(str(tmp_path)), fails=2)
    with pytest.raises(ValueError, match="no"):
        list(compute_parts(work, PLAN))
    assert work.folder.names() == ["0.txt", "1.txt"]
    work.folder.remove(["0.txt"])
    work.fails = -1
    assert list(compute_parts(work, PLAN)) == [1, 2, 3, 4]
    assert work.folder.names() == ["0.txt", "1.txt", "2.txt", "3.txt"]


def test_a_run_killed_while_it_removes_parts_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Counting(Folder(str(tmp_path / "out")))
    photos = [f"{number}.jpg" for number in range(PLAN.n_photos)]
    remove = Folder.remove
    for n_removed in range(PLAN.n_parts + len(PLAN.names()) + 1):
        plan = make_plan(work.folder, photos, {}, per_part=PLAN.per_part)
        list(compute_parts(work, plan))
        assert work.folder.names() == ["0.txt", "1.txt", "2.txt", "3.txt"]
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "remove", lambda folder, names, n=n_removed: remove(folder, list(names)[:n]))
            remove_parts(work, plan)
        there = (tmp_path / "out" / ".plan" / "plan.json").exists()
        assert there or work.folder.names() == [], "results without a plan could be taken for those of another plan"
    assert not (tmp_path / "out").exists()
