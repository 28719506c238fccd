"""facespace dataset check: a dataset is checked, its list edited and carried out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Outcome

Cli = Callable[..., Outcome]


@pytest.fixture
def data(shared: Path, tmp_path: Path) -> Path:
    """Four people of five crops; one label is wrong, one file damaged, one there twice."""
    root = tmp_path / "data"
    for folder in sorted((shared / "data" / "train_182").iterdir())[:4]:
        (root / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:5]:
            shutil.copy(file, root / folder.name)
    one, two, three, _ = sorted(root.iterdir())
    sorted(one.iterdir())[0].rename(two / "wrong.jpg")
    shutil.copy(sorted(three.iterdir())[0], three / "zz copy.jpg")
    (three / "bad.jpg").write_bytes(b"")
    return root


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.mark.shared
def test_from_check_to_clean(cli: Cli, data: Path, tmp_path: Path) -> None:
    before = tree(data)
    done = cli("dataset", "check", data)
    assert (done.code, done.err) == (0, "")
    assert tree(data) == before
    assert "     22  images" in done.lines
    assert "      1  unreadable" in done.lines
    assert not any("evaluation" in line for line in done.lines)
    report = tmp_path / "data-check"
    assert done.lines[-2:] == [
        f"report: {report / 'report.html'}", f"to edit, then --apply: {report / 'keep_drop.csv'}",
    ]  # fmt: skip
    counts = json.loads((report / "report.json").read_text())["counts"]
    assert counts["exact copies"] == 1
    assert counts["likely wrong labels"] >= 1

    done = cli("dataset", "check", data, "--apply", report / "keep_drop.csv")
    assert done.code == 0
    dropped = tree(tmp_path / "data-dropped")
    assert {name.split("/")[1] for name in dropped} >= {"wrong.jpg", "zz copy.jpg", "bad.jpg"}
    assert len(dropped) == counts["proposed to drop"]
    assert tree(data) | dropped == before
    assert not tree(data) & dropped
    assert done.lines == [f"{len(dropped)} files moved to {tmp_path / 'data-dropped'}; {22 - len(dropped)} kept"]

    again = cli("dataset", "check", data, "--apply", report / "keep_drop.csv")
    assert again.code == 0
    assert f"{len(dropped)} moved before" in again.out

    done = cli("dataset", "check", data, "--output", tmp_path / "second")
    assert "      0  unreadable" in done.lines
    assert "      0  exact copies" in done.lines


@pytest.mark.shared
def test_people_of_an_evaluation_set(cli: Cli, data: Path, tmp_path: Path) -> None:
    folder = sorted(data.iterdir())[3]
    (tmp_path / "evaluation").mkdir()
    (data / "extra").mkdir()
    folder.rename(tmp_path / "evaluation" / "somebody")
    folder.mkdir()
    for file in sorted((tmp_path / "evaluation" / "somebody").iterdir())[3:]:
        file.rename(folder / file.name)
    done = cli("dataset", "check", data, "--against", tmp_path / "evaluation", "--against-crops")
    assert done.code == 0
    assert "      1  people in evaluation set" in done.lines
    (shared,) = json.loads((tmp_path / "data-check" / "report.json").read_text())["shared_people"]
    assert (shared["name"], shared["other"], shared["match"]) == (folder.name, "somebody", True)
    done = cli(
        "dataset", "check", data, "--against", tmp_path / "evaluation", "--against-crops", "--threshold", "0.999"
    )
    assert "      0  people in evaluation set" in done.lines


def test_moved_to_and_failures(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "1.png").write_text("1")
    (tmp_path / "list.csv").write_text("action,file\ndrop,a/1.png\ndrop,a/2.png\n")
    done = cli("dataset", "check", tmp_path / "data", "--apply", tmp_path / "list.csv", "--moved-to", tmp_path / "x")
    assert done.code == 1
    assert done.errors == ["facespace: a/2.png: listed, but neither in the dataset nor among what was moved"]
    assert (tmp_path / "x" / "a" / "1.png").read_text() == "1"


def test_what_is_refused_before_any_work(cli: Cli, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "a").mkdir(parents=True)
    for options, said in (
        (["--output", data / "report"], "must not lie inside DIR"),
        (["--threshold", "0.5"], "is for --against"),
        (["--against-crops"], "is for --against"),
        (["--moved-to", tmp_path / "x"], "is for --apply"),
    ):
        done = cli("dataset", "check", data, *options)
        assert done.code == 2
        assert said in done.err
    assert cli("dataset", "check", tmp_path / "missing").errors == [f"facespace: {tmp_path / 'missing'}: not a folder"]
    assert cli("dataset", "check", data).errors == [f"facespace: {data}: no image in it could be read"]
    assert cli("dataset", "check", data, "--apply", tmp_path / "no.csv").code == 1
    assert tree(tmp_path) == set()
