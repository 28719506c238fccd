"""Tests the registry: finding classes by name, and the error for unknown names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facespace.registry import Registry

PACKAGE = "registered_animals"
REGISTRY_FILE = f"""
from facespace.registry import Registry
ANIMALS = Registry({PACKAGE!r}, one="animal", many="animals", error=LookupError)
"""
CAT = f"""
from {PACKAGE}.names import ANIMALS
@ANIMALS.register("house-cat")
class Cat:
    pass
@ANIMALS.register("wild-cat")
class Wild:
    pass
"""
DOG = f"""
from {PACKAGE}.names import ANIMALS
@ANIMALS.register("dog")
class Dog:
    pass
"""


@pytest.fixture
def animals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[Any]]:
    """The registry of a package of three files: itself, two cats, and a dog."""
    folder = tmp_path / PACKAGE
    folder.mkdir()
    for name, text in (("__init__", ""), ("names", REGISTRY_FILE), ("felines", CAT), ("canines", DOG)):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(f"{PACKAGE}.names").ANIMALS
    for module in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[module]


def test_files_are_imported_when_a_name_is_first_asked_for(animals: Registry[Any]) -> None:
    assert f"{PACKAGE}.felines" not in sys.modules
    assert animals.known() == ("dog", "house-cat", "wild-cat")
    assert f"{PACKAGE}.felines" in sys.modules


def test_finding_a_name_imports_the_files(animals: Registry[Any]) -> None:
    found = animals.find("wild-cat")
    assert (found.__name__, found.__module__) == ("Wild", f"{PACKAGE}.felines")
    assert animals.find("dog").__name__ == "Dog"


def test_a_class_knows_its_name(animals: Registry[Any]) -> None:
    assert [animals.find(name).name for name in animals.known()] == ["dog", "house-cat", "wild-cat"]


def test_files_are_looked_for_once(animals: Registry[Any], tmp_path: Path) -> None:
    animals.known()
    (tmp_path / PACKAGE / "late.py").write_text(DOG.replace("dog", "late").replace("Dog", "Late"))
    assert animals.known() == ("dog", "house-cat", "wild-cat")


def test_a_new_class_needs_only_a_file(animals: Registry[Any], tmp_path: Path) -> None:
    (tmp_path / PACKAGE / "newcomers.py").write_text(DOG.replace("dog", "aardvark").replace("Dog", "Aardvark"))
    importlib.invalidate_caches()
    assert animals.known() == ("aardvark", "dog", "house-cat", "wild-cat")


def test_a_class_made_elsewhere_can_be_registered_too(animals: Registry[Any]) -> None:
    @animals.register("parrot")
    class Parrot:
        pass

    assert Parrot.__name__ == "Parrot"  # the decorator returns the class
    assert animals.find("parrot") is Parrot
    assert animals.known() == ("dog", "house-cat", "parrot", "wild-cat")


def test_two_files_cannot_have_one_name(animals: Registry[Any]) -> None:
    cat = animals.find("house-cat")
    with pytest.raises(ValueError, match="two animals are called house-cat: Cat and Tiger"):

        @animals.register("house-cat")
        class Tiger:
            pass

    assert animals.find("house-cat") is cat


def test_a_file_that_is_run_again_replaces_its_classes(animals: Registry[Any]) -> None:
    before = animals.find("dog")
    module = sys.modules[f"{PACKAGE}.canines"]
    exec(compile(DOG, "canines.py", "exec"), module.__dict__)
    assert animals.find("dog") is module.Dog
    assert animals.find("dog") is not before


@pytest.mark.parametrize(
    ("name", "close"), [("house_cat", "house-cat"), ("DOG", "dog"), ("dgo", "dog"), ("wildcat", "wild-cat")]
)
def test_an_unknown_name_is_answered_with_the_closest(animals: Registry[Any], name: str, close: str) -> None:
    with pytest.raises(LookupError) as caught:
        animals.find(name)
    assert str(caught.value) == (
        f"no animal is called {name!r}, the closest is {close}; there are dog, house-cat, wild-cat"
    )


def test_a_name_like_no_other(animals: Registry[Any]) -> None:
    with pytest.raises(LookupError) as caught:
        animals.find("\n\x1b" + "q" * 500)
    said = str(caught.value)
    assert "closest" not in said
    assert said.isprintable()
    assert len(said) < 200
    assert said.endswith("there are dog, house-cat, wild-cat")


def test_two_registries_are_independent(animals: Registry[Any]) -> None:
    other: Registry[Any] = Registry(PACKAGE, one="plant", many="plants", error=KeyError)
    animals.known()
    assert other.known() == ()
    with pytest.raises(KeyError, match="no plant is called"):
        other.find("dog")
