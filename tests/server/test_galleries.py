"""Collections are opened once, and those of the service itself are hidden."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from facespace.errors import GalleryError
from facespace.server.engine import Engine
from facespace.server.galleries import Galleries, is_hidden
from facespace.server.metrics import Metrics
from facespace.server.problems import Problem
from facespace.server.settings import Settings
from support.service import cached_embedders


@pytest.fixture
def galleries(tmp_path) -> Iterator[Galleries]:
    settings = Settings(str(tmp_path / "people.gallery"))
    with cached_embedders():
        engine = Engine(settings, Metrics())
        there = Galleries(settings, engine)
        yield there
        there.close()
        engine.close()


def test_a_collection_is_opened_once(galleries):
    found = []
    threads = [threading.Thread(target=lambda: found.append(galleries.get())) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len({id(gallery) for gallery in found}) == 1
    assert galleries.opened("default") is found[0]
    assert galleries.model("default") == "sface"


def test_collections_are_made_and_listed(galleries):
    galleries.get()
    galleries.create("visitors")
    galleries.create("visitors-unknowns")
    assert sorted(galleries.names()) == ["default", "visitors"]
    with pytest.raises(Problem) as refused:
        galleries.get("visitors-unknowns")
    assert refused.value.code == "no_such_collection"
    assert galleries.opened("visitors-unknowns") is None
    assert is_hidden("a-ignored")


@pytest.mark.parametrize("name", ["missing", "Default"])
def test_a_collection_that_does_not_exist(galleries, name):
    galleries.get()
    with pytest.raises(Problem) as refused:
        galleries.get(name)
    assert (refused.value.status, refused.value.code) == (404, "no_such_collection")


@pytest.mark.parametrize("name", ["a b", "../x", "", "x" * 200])
def test_an_invalid_name(galleries, name):
    galleries.get()
    with pytest.raises(Problem) as refused:
        galleries.get(name)
    assert refused.value.status in (404, 422)


def test_a_forgotten_collection_is_opened_again(galleries):
    first = galleries.get()
    galleries.forget("default")
    assert galleries.opened("default") is None
    with pytest.raises(GalleryError):
        len(first)
    assert galleries.get() is not first
