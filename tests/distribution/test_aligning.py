"""`align` in parts against `align` by one process: the same crops and the same table, byte for byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from facespace.distribution.aligning import AligningWork, begin, finish
from facespace.distribution.parts import compute_parts
from facespace.distribution.storage import Folder
from facespace.errors import DatasetError
from facespace.faces.crops import CropRecord
from support.commands import Outcome
from support.stores import memory_store as memory_store

Cli = Callable[..., Outcome]


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory, hopper_file: Path, collins_file: Path, cat_file: Path) -> Path:
    """Three people: a cat without a face, photos that differ only in their ending, a damaged one."""
    folder = tmp_path_factory.mktemp("raw")
    for name, file in (
        ("Cat/1.png", cat_file), ("Collins/1.png", collins_file), ("Hopper/1.jpeg", hopper_file), ("Hopper/1.jpg", hopper_file),
    ):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(file, folder / name)
    (folder / "Hopper" / "damaged.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture(autouse=True)
def one_photo_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("alignment.journal.BATCH", "distribution.aligning.BATCH", "distribution.aligning.PER_PART"):
        monkeypatch.setattr(f"facespace.{name}", 1)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".align.lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def without_rate(outcome: Outcome) -> str:
    return outcome.out.partition(";")[0]


def test_crops_and_table_are_those_of_one_process(cli: Cli, raw: Path, tmp_path: Path, memory_store: str) -> None:
    for name, data in contents(raw).items():
        Folder(f"{memory_store}/raw").write(name, data)
    alone = cli("align", raw, tmp_path / "alone")
    stored = cli("align", f"{memory_store}/raw", f"{memory_store}/out")
    assert (alone.code, stored.code) == (1, 1)
    assert without_rate(stored) == without_rate(alone) == "5 photos: 3 faces, 1 without a face, 1 unreadable"
    expected = contents(tmp_path / "alone")
    assert len(expected) == 5
    out = Folder(f"{memory_store}/out")
    assert {name: out.read(name) for name in expected} == expected
    assert out.names() == ["align.json", "faces.csv"]
    assert out.inside(".parts").is_empty()


def test_a_finished_run_is_not_repeated(cli: Cli, raw: Path, tmp_path: Path, memory_store: str) -> None:
    first = cli("align", raw, f"{memory_store}/out")
    again = cli("align", raw, f"{memory_store}/out")
    assert "now" in first.out
    assert "now" not in again.out
    assert without_rate(first) == without_rate(again).partition(" ->")[0]
    more = tmp_path / "more"
    shutil.copytree(raw / "Collins", more / "Collins")
    refused = cli("align", more, f"{memory_store}/out")
    assert (refused.code, "finished crops of other photos" in refused.err) == (1, True)
    refused = cli("align", raw, f"{memory_store}/out", "--image-size", "112")
    assert (refused.code, "crops made with other settings" in refused.err) == (1, True)


def test_a_stopped_run_resumes(
    cli: Cli, raw: Path, tmp_path: Path, memory_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Folder.create

    def stop(folder: Folder, name: str, data: bytes) -> bool:
        if name == "part-0000003.json":
            raise KeyboardInterrupt
        return create(folder, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "create", stop)
        stopped = cli("align", raw, f"{memory_store}/out")
    assert (stopped.code, "run the same command again to resume" in stopped.err) == (130, True)
    assert len(Folder(f"{memory_store}/out/.parts").names()) == 3
    elsewhere = shutil.copytree(raw, tmp_path / "elsewhere")  # other photos may have the same names
    refused = cli("align", elsewhere, f"{memory_store}/out")
    assert (refused.code, "made with photos_in" in refused.err) == (1, True)
    went_on = cli("align", raw, f"{memory_store}/out")
    assert (went_on.code, "; 2 now, " in went_on.out) == (1, True)
    cli("align", raw, tmp_path / "alone")
    expected = contents(tmp_path / "alone")
    assert {name: Folder(f"{memory_store}/out").read(name) for name in expected} == expected


@pytest.mark.parametrize("at", ["memory", "local"])
def test_a_run_killed_while_it_lists_its_photos_begins_again(
    cli: Cli, raw: Path, tmp_path: Path, memory_store: str, at: str
) -> None:
    out = Folder(f"{memory_store}/out" if at == "memory" else str(tmp_path / "out"))
    out.write(".parts/.plan/0000000.json", b"[]")
    work = AligningWork(Folder(str(raw)), out, CropRecord(160, 32, "box"), "cpu")
    plan = begin(work)
    assert plan is not None
    assert plan.n_photos == 5


def test_a_run_killed_at_its_very_end_leaves_nothing(cli: Cli, raw: Path, tmp_path: Path, memory_store: str) -> None:
    person = tmp_path / "raw" / "Cat"
    shutil.copytree(raw / "Cat", person)
    assert cli("align", person.parent, f"{memory_store}/out").code == 0
    parts = Folder(f"{memory_store}/out/.parts")
    parts.write(".plan/0000000.json", b"[]")
    assert cli("align", person.parent, f"{memory_store}/out").code == 0
    assert parts.inside(".plan").is_empty()


def test_a_folder_with_something_else_in_it_is_refused(cli: Cli, raw: Path, memory_store: str) -> None:
    Folder(f"{memory_store}/out").write("Hopper/1.png", b"somebody's")
    refused = cli("align", raw, f"{memory_store}/out")
    assert (refused.code, "is not empty" in refused.err) == (1, True)
    assert Folder(f"{memory_store}/out").read("Hopper/1.png") == b"somebody's"


@pytest.mark.parametrize("entry", ["no JSON", "1", '["Ann/1.jpg"]', '["a", "b", "c"]'])
def test_a_damaged_part_of_the_plan_is_one_error(tmp_path: Path, entry: str) -> None:
    out = Folder(str(tmp_path))
    out.write(".parts/.plan/0000000.json", json.dumps([entry]).encode())
    work = AligningWork(Folder("raw"), out, CropRecord(160, 32, "box"), "cpu")
    with pytest.raises(DatasetError, match=r"0000000\.json: damaged; give another output$"):
        work.compute(0)


def test_a_crop_of_the_plan_cannot_lead_out_of_the_output(raw: Path, tmp_path: Path) -> None:
    out = Folder(str(tmp_path / "out"))
    out.write(".parts/.plan/0000000.json", json.dumps([json.dumps(["Hopper/1.jpg", "../evil.png"])]).encode())
    work = AligningWork(Folder(str(raw)), out, CropRecord(160, 32, "box"), "cpu")
    with pytest.raises(DatasetError, match=r"\.\./evil\.png leads out of the folder$"):
        work.compute(0)
    assert not (tmp_path / "evil.png").exists()


def test_temporary_files_of_killed_writers_are_removed_at_the_end(
    cli: Cli, raw: Path, tmp_path: Path, memory_store: str
) -> None:
    person = tmp_path / "raw" / "Hopper"
    person.mkdir(parents=True)
    shutil.copy(raw / "Hopper" / "1.jpg", person / "1.jpg")
    Folder(memory_store).write("raw/Hopper/1.jpg", (person / "1.jpg").read_bytes())
    out = tmp_path / "out"
    work = AligningWork(Folder(f"{memory_store}/raw"), Folder(str(out)), CropRecord(160, 32, "box"), "cpu")
    plan = begin(work)
    assert plan is not None
    for folder in ("", "Hopper/", ".parts/", ".parts/.plan/"):
        (out / folder).mkdir(exist_ok=True)
        (out / folder / ".facespace-1234.png").write_bytes(b"cut o")
    list(compute_parts(work, plan))
    finish(work, plan)
    assert sorted(contents(out)) == ["Hopper/1.png", "align.json", "faces.csv"]
    assert not (out / ".parts").exists()
