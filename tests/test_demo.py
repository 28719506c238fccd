from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import facespace
from facespace import demo
from facespace.errors import FacespaceError
from facespace.faces.face import Face
from facespace.identification.gallery import Gallery
from facespace.identification.matching import Match
from facespace.pipeline.photos import Photo
from support.commands import Outcome, run_facespace


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, detector: facespace.MTCNN, embedder: facespace.Embedder) -> None:
    monkeypatch.setattr(demo, "create_detector", lambda name: detector)
    monkeypatch.setattr(demo.Embedder, "load", lambda: embedder)


def test_everybody_is_found_and_named_correctly(tmp_path: Path, loaded: None) -> None:
    folder = tmp_path / "deep" / "demo"
    for _ in range(2):  # a second run replaces the results
        result = demo.run(folder)
        assert sorted(str(name) for name in result.expected) == [
            "Eileen Collins", "Eileen Collins", "Grace Hopper", "Grace Hopper", "None",
        ]  # fmt: skip
        assert [match.name for match in result.matches] == result.expected
        with Gallery(result.gallery) as gallery:
            assert [(person.name, person.n_photos) for person in gallery.people()] == [
                ("Eileen Collins", 1),
                ("Grace Hopper", 1),
            ]
    assert sorted(file.name for file in folder.iterdir()) == ["group-named.jpg", "group.jpg", "people.gallery"]
    with Image.open(result.picture) as named, Image.open(folder / "group.jpg") as group:
        assert named.size == group.size == (1260, 840)
        assert named.tobytes() != group.tobytes()


@pytest.mark.parametrize(
    ("centre", "tile"), [((10, 10), 0), ((430, 10), 1), ((1250, 419), 2), ((10, 421), 3), ((1250, 830), 5)]
)
def test_which_tile_a_face_is_in(centre: tuple[int, int], tile: int) -> None:
    x, y = centre
    assert demo._tile_of((x - 5, y - 5, x + 5, y + 5)) == tile


def test_without_the_packages_that_contain_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(FacespaceError, match=r"pip install 'facespace\[demo\]'"):
        demo.run(tmp_path)


def test_a_package_without_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.PORTRAITS, "Grace Hopper", ("matplotlib", "no_such.jpg"))
    with pytest.raises(FacespaceError, match=r"this version of matplotlib has no no_such\.jpg"):
        demo.run(tmp_path)


def test_the_command(tmp_path: Path) -> None:
    outcome = run_facespace("demo", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert "5 of 5 right" in outcome.out
    for name in ("Grace Hopper", "Eileen Collins"):
        named = [line for line in outcome.lines if re.match(rf"  [1-5]     {name} ", line)]
        assert len(named) == 2
        assert all(line.rstrip().endswith(name) for line in named)
    with Image.open(tmp_path / "facespace-demo" / "group-named.jpg") as picture:
        picture.load()


@pytest.mark.parametrize(
    ("named", "expected", "code"),
    [
        (["Grace Hopper", "Eileen Collins", None], ["Grace Hopper", "Eileen Collins", None], 0),
        (["Grace Hopper", "Eileen Collins"], ["Grace Hopper", "Eileen Collins"], 0),
        (["Grace Hopper", None], ["Grace Hopper", None], 1),  # somebody's face was not found
        (["Grace Hopper", None, None], ["Grace Hopper", "Eileen Collins", None], 1),
        (["Grace Hopper", "Eileen Collins", "Grace Hopper"], ["Grace Hopper", "Eileen Collins", None], 1),
        ([], [], 1),
    ],
)
def test_the_exit_code_says_whether_everybody_was_recognised(
    cli: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: list[Any],
    expected: Any,
    code: int,
) -> None:
    face = Face((0, 0, 9, 9), 1.0, ((1.0, 1.0),) * 5)
    result = demo.DemoResult(
        Photo("group.jpg", faces=[face] * len(named)), [Match(name, 0.5, 0.4) for name in named], expected,
        tmp_path / "picture.jpg", tmp_path / "people.gallery",
    )  # fmt: skip
    monkeypatch.setattr(demo, "run", lambda folder: result)
    outcome = cli("demo", "--output", tmp_path)
    assert outcome.code == code
    assert ("did not recognise everybody" in outcome.out) == bool(code)
