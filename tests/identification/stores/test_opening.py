"""Addresses of stores, and the list of collections at an address."""

from __future__ import annotations

from pathlib import Path

import pytest

from facespace.errors import GalleryError
from facespace.identification.stores.opening import list_collections, open_store
from facespace.identification.stores.protocol import NoSuchCollection
from facespace.identification.stores.sqlite import SQLiteStore


def test_a_path_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "people of 2026?#%.gallery"
    with pytest.raises(GalleryError, match="no such gallery"):
        open_store(str(path))
    for create in (True, False):
        store = open_store(str(path), create=create)
        assert isinstance(store, SQLiteStore) and store.name == str(path)
        store.close()
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_collections_are_listed_without_the_default_one(tmp_path: Path) -> None:
    path = str(tmp_path / "g")
    for name in ("staff", "guests"):
        open_store(path, collection=name, create=True).close()
    assert list_collections(path) == ["guests", "staff"]
    with pytest.raises(NoSuchCollection, match="no collection 'default'; it has: guests, staff") as refused:
        open_store(path)
    assert refused.value.collections == ["guests", "staff"]
    open_store(path, create=True).close()
    assert list_collections(path) == ["default", "guests", "staff"]


@pytest.mark.parametrize("collection", ["", "a b", "a/b", "x" * 101, "a'b", "\x1b", "../up", "a\n"])
def test_a_collection_is_a_plain_word(tmp_path: Path, collection: str) -> None:
    with pytest.raises(ValueError, match="a collection's name must be letters, digits"):
        open_store(str(tmp_path / "a"), collection=collection, create=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["mysql://host/db", "http://host", "file:///tmp/a"])
def test_other_addresses(address: str) -> None:
    with pytest.raises(GalleryError, match="a gallery must be a file, postgresql:// or qdrant://, got"):
        open_store(address)
