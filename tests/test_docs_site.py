"""The pages of the API reference name what the packages export; `make docs` tries the rest of the site."""

from __future__ import annotations

import doctest
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from support.absent import need_packages

SOURCE = Path(__file__).parents[1] / "docs" / "_extensions" / "api_pages.py"
if not SOURCE.is_file():
    pytest.skip("needs the clone, not the tests alone", allow_module_level=True)


@pytest.fixture(scope="module")
def api_pages() -> ModuleType:
    need_packages("sphinx", "torch")
    spec = importlib.util.spec_from_file_location("api_pages", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_exported_name_is_documented_once(api_pages: ModuleType) -> None:
    packages = api_pages.packages()
    places = api_pages.homes(packages)
    assert {"facespace", "facespace.metrics", "facespace.training.losses"} <= {one.__name__ for one in packages}
    pages = {one.__name__: api_pages.page(one, places) for one in packages}
    for package in packages:
        for name in package.__all__:
            home = places.get(id(getattr(package, name)), package.__name__)
            assert home in api_pages.MODULES or f":: {home}.{name}\n" in pages[home]
    assert ".. autofunction:: facespace.metrics.evaluate\n" in pages["facespace.metrics"]
    assert ":py:obj:`evaluate <facespace.metrics.evaluate>`" in pages["facespace"]
    assert ":py:obj:`ImageError <facespace.errors.ImageError>`" in pages["facespace"]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("(x: ~numpy.ndarray[tuple[~typing.Any, ...], ~numpy.dtype[~numpy.uint8]])", "(x: ~numpy.typing.NDArray[~numpy.uint8])"),
        ("(n: ~typing.Annotated[int | None, ~annotated_types.Ge(ge=1)] = 3)", "(n: int | None = 3)"),
        (None, None),
    ],
)  # fmt: skip
def test_types_are_shown_as_the_code_writes_them(api_pages: ModuleType, written: str | None, shown: str | None) -> None:
    assert api_pages.shorten_types(None, "", "", None, None, written, None) == (shown, None)


def test_the_doctests_of_the_extension(api_pages: ModuleType) -> None:
    assert doctest.testmod(api_pages).failed == 0
