"""Files that installed packages carry."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from facespace.io.package_files import file_of_distribution, json_tables


def test_a_file_is_found_by_its_name() -> None:
    path = file_of_distribution("numpy", "METADATA")
    assert path.is_file()
    assert path.parent.name.startswith("numpy-")


def test_a_distribution_that_is_not_installed() -> None:
    with pytest.raises(importlib.metadata.PackageNotFoundError, match="facespace-no-such-package"):
        file_of_distribution("facespace-no-such-package", "METADATA")


def test_a_distribution_without_the_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"^numpy has no file no_such\.onnx$"):
        file_of_distribution("numpy", "no_such.onnx")


@pytest.mark.parametrize("listed", [None, ["gone.onnx"]])
def test_a_list_of_files_that_is_missing_or_wrong(
    listed: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(importlib.metadata.PackagePath):
        def locate(self) -> Path:
            return tmp_path / self.name

    class Distribution:
        files = None if listed is None else [Gone(name) for name in listed]

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution)
    with pytest.raises(FileNotFoundError, match=r"^other has no file gone\.onnx$"):
        file_of_distribution("other", "gone.onnx")


def test_tables_are_the_json_files_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tables_of_a_test" / "measured"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "a.json").write_text('{"name": "Zoë"}', encoding="utf-8")
    (folder / "b.json").write_text('{"name": "b"}', encoding="utf-8")
    (folder / "README.md").write_text("not a table")
    monkeypatch.syspath_prepend(tmp_path)
    tables = json_tables("tables_of_a_test", "measured")
    assert sorted(table["name"] for table in tables) == ["Zoë", "b"]
    assert json_tables("tables_of_a_test", "measured") is tables  # read once
