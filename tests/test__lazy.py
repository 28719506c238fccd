"""Lazy exports: when a module is imported, and the error for other names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from facespace._lazy import attach

PACKAGE = "lazy_package"
INIT = """
from facespace._lazy import attach
__getattr__, __dir__, __all__ = attach(__name__, {"shapes.round": ["circle", "Ball"], "numbers": ["two"]})
own = "own"
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package with a module, a package with another module, and three names that it takes from them."""
    files = {
        "__init__.py": INIT,
        "numbers.py": "two = 2\nthree = 3\n",
        "shapes/__init__.py": "",
        "shapes/round.py": "circle = object()\nclass Ball:\n    pass\n",
    }
    for name, text in files.items():
        path = tmp_path / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(PACKAGE)
    for module in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[module]


def loaded() -> set[str]:
    return {name.removeprefix(f"{PACKAGE}.") for name in sys.modules if name.startswith(f"{PACKAGE}.")}


def test_a_module_is_imported_when_a_name_of_it_is_used(package: ModuleType) -> None:
    assert loaded() == set()
    assert package.two == 2
    assert loaded() == {"numbers"}
    assert package.Ball is sys.modules[f"{PACKAGE}.shapes.round"].Ball
    assert loaded() == {"numbers", "shapes", "shapes.round"}


def test_a_name_is_kept_once_it_was_used(package: ModuleType) -> None:
    circle = package.circle
    assert vars(package)["circle"] is circle
    assert "Ball" not in vars(package)
    sys.modules[f"{PACKAGE}.shapes.round"].circle = "another"  # type: ignore[attr-defined]
    assert package.circle is circle


def test_the_public_names_are_the_listed_ones(package: ModuleType) -> None:
    assert package.__all__ == ["Ball", "circle", "two"]
    assert dir(package) == ["Ball", "circle", "two"]
    assert loaded() == set()


def test_a_star_import_imports_all_names(package: ModuleType) -> None:
    names: dict[str, object] = {}
    exec(f"from {PACKAGE} import *", names)
    assert {name for name in names if not name.startswith("__")} == {"Ball", "circle", "two"}


def test_names_can_be_imported_from_the_package(package: ModuleType) -> None:
    names: dict[str, object] = {}
    exec(f"from {PACKAGE} import two", names)
    assert names["two"] == 2


@pytest.mark.parametrize("name", ["three", "round", "four", "_two", ""])
def test_other_names_are_an_attribute_error(package: ModuleType, name: str) -> None:
    with pytest.raises(AttributeError, match=f"^module '{PACKAGE}' has no attribute '{name}'$"):
        getattr(package, name)
    assert not hasattr(package, name)
    assert loaded() == set()


def test_a_name_missing_in_its_module(package: ModuleType) -> None:
    get, _, public = attach(PACKAGE, {"numbers": ["seven"]})
    assert public == ["seven"]
    with pytest.raises(AttributeError, match="seven"):
        get("seven")


def test_modules_of_other_packages_are_not_mixed_up(package: ModuleType) -> None:
    """`numbers` is a module of the standard library, too."""
    get, _, _ = attach(PACKAGE, {"numbers": ["Number", "two"]})
    assert get("two") == 2
    with pytest.raises(AttributeError):
        get("Number")
