"""`cluster` interrupted at any point and run again with more photos: one folder per person, and nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from facespace.clustering import folders
from support.commands import Outcome
from support.tutorial_people import write_photos

Cli = Callable[..., Outcome]


def held(out: Path) -> dict[str, dict[str, int]]:
    """Return the number of pictures of each person in each folder."""
    counts: dict[str, dict[str, int]] = {}
    for picture in sorted(out.glob("*/*.jpg")):
        if picture.parent.name != "faces":
            of_folder = counts.setdefault(picture.parent.name, {})
            of_folder[picture.name[0]] = of_folder.get(picture.name[0], 0) + 1
    return counts


@pytest.mark.parametrize("place", ["write_folders", "_link_or_copy", "write_table", "write_sheet", "_mark"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device"), ValueError("x")])
def test_stopped_and_started_again_with_more_photos(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hopper_file: Path,
    collins_file: Path,
    place: str,
    failure: BaseException,
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, {"Grace": hopper_file}, 3)

    def stops(*_: object, **__: object) -> None:
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(folders, place, stops)
        stopped = cli("cluster", photos, "--output", out)
    assert stopped.code != 0
    write_photos(photos, {"Eileen": collins_file}, 4)
    done = cli("cluster", photos, "--output", out)
    assert done.code == 0, done.err
    found = held(out)
    assert sorted(found) == ["person-0001", "person-0002"]
    assert sorted(found.values(), key=str) == [{"E": 4}, {"G": 3}]
    assert not list(out.rglob(".facespace-*"))


def test_two_at_once_do_not_mix(cli: Cli, tmp_path: Path, hopper_file: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, {"Grace": hopper_file}, 1)
    out.mkdir()
    with FileLock(out / ".cluster.lock"):
        refused = cli("cluster", photos, "--output", out)
    assert refused.code == 1
    assert refused.errors == [
        f"facespace: {out}: another `facespace cluster` is using this folder; wait until it has ended"
    ]
    assert os.listdir(out) == [".cluster.lock"]
    assert cli("cluster", photos, "--output", out).code == 0
