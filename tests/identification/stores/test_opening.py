"""Addresses of stores, and the collections at one."""

from __future__ import annotations

from pathlib import Path

import pytest

from facespace.errors import GalleryError
from facespace.identification.stores.opening import list_collections, open_store
from facespace.identification.stores.protocol import NoSuchCollection


def test_collections_are_listed_whichever_there_are(tmp_path: Path) -> None:
    path = str(tmp_path / "g")
    for name in ("staff", "guests"):
        open_store(path, collection=name, create=True).close()
    assert list_collections(path) == ["guests", "staff"]
    with pytest.raises(NoSuchCollection, match="no collection 'default'; it has: guests, staff") as refused:
        open_store(path)
    assert refused.value.collections == ["guests", "staff"]
    open_store(path, create=True).close()
    assert list_collections(path) == ["default", "guests", "staff"]


@pytest.mark.parametrize("name", ["", "a b", "x" * 101, "../up", "a\n"])
def test_a_collection_must_have_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="a collection must be letters, digits"):
        open_store(str(tmp_path / "g"), collection=name, create=True)
    assert not (tmp_path / "g").exists()


def test_an_address_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="a gallery is a file, or is at postgresql:// or qdrant://; got mysql://"):
        open_store("mysql://host/people")
