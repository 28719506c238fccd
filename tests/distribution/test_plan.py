"""Plans: photos are split into parts, always in the same way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facespace.distribution.plan import Plan, make_plan, part_name, read_pairs, read_part, variables
from facespace.distribution.storage import Folder
from facespace.errors import DatasetError

PHOTOS = [f"{number}.jpg" for number in range(5)] + ["caf\udce9.jpg", "Zoë.jpg"]
SETTINGS = {"model": "abc", "largest": False}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "out"))


def test_a_stream_of_photos_is_split_into_parts(folder: Folder) -> None:
    plan = make_plan(folder, iter(PHOTOS), SETTINGS, per_part=3)
    assert (plan.n_photos, plan.n_parts) == (7, 3)
    assert [photo for number in range(3) for photo in read_part(folder, number)] == PHOTOS
    assert read_part(folder, 2) == PHOTOS[6:]
    assert {*Folder(f"{folder.place}/.plan").names()} == {name.removeprefix(".plan/") for name in plan.names()}


def test_the_same_plan_is_resumed(folder: Folder) -> None:
    plan = make_plan(folder, PHOTOS, SETTINGS, per_part=3)
    written = {name: Path(folder.place, name).stat().st_mtime_ns for name in plan.names()}
    assert make_plan(folder, iter(PHOTOS), dict(SETTINGS), per_part=3) == plan
    assert written == {name: Path(folder.place, name).stat().st_mtime_ns for name in plan.names()}


def test_other_settings_are_refused(folder: Folder) -> None:
    make_plan(folder, PHOTOS, SETTINGS, per_part=3)
    with pytest.raises(DatasetError, match=r"made with largest False \(asked for: True\); give another output"):
        make_plan(folder, PHOTOS, {**SETTINGS, "largest": True}, per_part=3)


@pytest.mark.parametrize("photos", [PHOTOS[:-1], [*PHOTOS, "new.jpg"], PHOTOS[::-1]], ids=["less", "more", "order"])
def test_other_photos_are_refused(folder: Folder, photos: list[str]) -> None:
    make_plan(folder, PHOTOS, SETTINGS, per_part=3)
    with pytest.raises(DatasetError, match=rf"results of 7 other photos \(now there are {len(photos)}, or their names"):
        make_plan(folder, photos, SETTINGS, per_part=3)


def test_a_plan_without_its_header_is_written_again(folder: Folder) -> None:
    folder.write(part_name(0), json.dumps(["another.jpg"]).encode())
    make_plan(folder, PHOTOS, SETTINGS, per_part=3)
    assert read_part(folder, 0) == PHOTOS[:3]


def test_results_without_a_plan_are_refused(folder: Folder) -> None:
    folder.write("part-0000001.npz", b"of other photos")
    with pytest.raises(DatasetError, match=r"contains part-0000001\.npz, but no plan with its photos"):
        make_plan(folder, PHOTOS, SETTINGS, per_part=3)
    assert not folder.exists(part_name(0))


def test_an_incomplete_plan_is_removed(folder: Folder) -> None:
    for name in (part_name(7), ".plan/.facespace-1234.json"):
        folder.write(name, b"[]")
    plan = make_plan(folder, PHOTOS, SETTINGS, per_part=3)
    assert {*folder.inside(".plan").names()} == {name.removeprefix(".plan/") for name in plan.names()}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"settings": 1, "photos": 2}', b"\xff"])
def test_a_damaged_header_is_one_error(folder: Folder, data: bytes) -> None:
    make_plan(folder, PHOTOS, SETTINGS, per_part=3)
    folder.write(".plan/plan.json", data)
    with pytest.raises(DatasetError, match=r"plan\.json: damaged; give another output$"):
        make_plan(folder, PHOTOS, SETTINGS, per_part=3)


@pytest.mark.parametrize("data", [b"", b"[1]", b'{"a": 1}', b"\xff\xff"])
def test_a_damaged_part_is_one_error(folder: Folder, data: bytes) -> None:
    folder.write(part_name(4), data)
    with pytest.raises(DatasetError, match=r"0000004\.json: damaged"):
        read_part(folder, 4)


def test_variables_that_change_results_are_compared(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACESPACE_MAX_PIXELS", raising=False)
    make_plan(folder, PHOTOS, variables(), per_part=3)
    monkeypatch.setenv("FACESPACE_MAX_PIXELS", "1000")
    with pytest.raises(DatasetError, match=r"made with FACESPACE_MAX_PIXELS '' \(asked for: '1000'\)"):
        make_plan(folder, PHOTOS, variables(), per_part=3)


def test_no_photos_are_no_parts() -> None:
    assert Plan(0, 64).n_parts == 0


@pytest.mark.parametrize("entry", ["no JSON", "[1]", "[1, 2, 3]", "1"])
def test_pairs_are_checked(folder: Folder, entry: str) -> None:
    make_plan(folder, ['["a.jpg", 3]', "[0, 5]", entry], {}, per_part=2)
    assert read_pairs(folder, 0) == [("a.jpg", 3), (0, 5)]
    with pytest.raises(DatasetError, match=r"0000001\.json: damaged"):
        read_pairs(folder, 1)
