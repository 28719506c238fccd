"""What every store of vectors does: one contract over all implementations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from facespace.errors import GalleryError, UnknownPerson
from facespace.identification.gallery import Gallery
from facespace.identification.stores.protocol import Entry, Store
from facespace.identification.stores.sqlite import SQLiteStore
from support.calibrations import StubEmbedder

# A new store adds a line here: what opens it, made where it is not there yet, at a place of its own below the folder.
STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite": lambda folder: SQLiteStore(folder / "people.gallery", create=True),
}
D = 4


@pytest.fixture(params=STORES)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    return lambda: STORES[request.param](tmp_path)


@pytest.fixture
def store(opener: Callable[[], Store]) -> Iterator[Store]:
    opened = opener()
    yield opened
    opened.close()


def entry(k: int, digest: str = "") -> Entry:
    return Entry(np.eye(D, dtype=np.float32)[k % D], digest or f"{k:064x}", f"photo {k}.jpg", "onnxruntime float32")


def test_an_empty_store(store: Store) -> None:
    assert store.people() == []
    names, owners, vectors, qualities = store.vectors(D)
    assert (names, owners.tolist(), vectors.shape, qualities.shape) == ([], [], (0, D), (0,))
    assert store.setting("embedder") is None
    assert store.name


def test_what_is_added_is_there(store: Store) -> None:
    assert store.add("Ada", entry(0)) and store.add("王小明", entry(1)) and store.add("Ada", entry(2))
    assert [(name, n) for name, n, _ in store.people()] == [("Ada", 2), ("王小明", 1)]
    names, owners, vectors, _ = store.vectors(D)
    assert names == ["Ada", "王小明"], "in the order they were added"
    assert sorted(zip(owners.tolist(), vectors.argmax(axis=1).tolist(), strict=True)) == [(0, 0), (0, 2), (1, 1)]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors.max(axis=1), 1, atol=1e-3)


def test_the_quality_of_a_face_is_kept_or_unknown(store: Store, opener: Callable[[], Store]) -> None:
    store.add("Ada", dataclasses.replace(entry(0), quality=0.25))
    store.add("Bob", entry(1))
    store.add("Bob", dataclasses.replace(entry(2), quality=1.0))
    for opened in (store, opener()):
        found = opened.vectors(D)
        by_axis = dict(zip(found.embeddings.argmax(axis=1).tolist(), found.qualities.tolist(), strict=True))
        assert by_axis[0] == 0.25 and np.isnan(by_axis[1]) and by_axis[2] == 1.0
        if opened is not store:
            opened.close()


def test_a_photo_counts_once_for_a_person(store: Store) -> None:
    assert store.add("Ada", entry(0))
    assert not store.add("Ada", entry(3, digest=f"{0:064x}"))
    assert store.add("Bob", entry(0)), "another person may have it too"
    assert [(name, n) for name, n, _ in store.people()] == [("Ada", 1), ("Bob", 1)]
    assert store.vectors(D)[2].argmax(axis=1).tolist() == [0, 0]


def test_renaming(store: Store) -> None:
    store.add("Ada", entry(0))
    store.add("Bob", entry(1))
    store.rename("Ada", "Zoë")
    assert [name for name, _, _ in store.people()] == ["Bob", "Zoë"]
    assert set(store.vectors(D)[0]) == {"Bob", "Zoë"}
    store.rename("Zoë", "Zoë")
    with pytest.raises(UnknownPerson, match="nobody is called 'Ada'"):
        store.rename("Ada", "Eve")
    with pytest.raises(GalleryError, match="somebody is called 'Bob' already"):
        store.rename("Zoë", "Bob")


def test_removing(store: Store) -> None:
    for k in range(3):
        store.add("Ada", entry(k))
    store.add("Bob", entry(3))
    assert store.remove("Ada") == 3
    assert [name for name, _, _ in store.people()] == ["Bob"]
    assert store.vectors(D)[0] == ["Bob"]
    with pytest.raises(UnknownPerson, match="nobody is called 'Ada'"):
        store.remove("Ada")
    assert store.add("Ada", entry(0)), "a person may come back"


def test_settings(store: Store) -> None:
    assert store.set_once("model", {"name": "a", "size": [1, 2]}) == {"name": "a", "size": [1, 2]}
    assert store.set_once("model", {"name": "b"}) == {"name": "a", "size": [1, 2]}, "the first one holds"
    store.set("model", {"name": "c"})
    assert store.setting("model") == {"name": "c"}


def test_the_version_tells_changes_of_this_and_of_others(opener: Callable[[], Store], store: Store) -> None:
    other = opener()
    seen = [store.version()]

    def changed() -> bool:
        seen.append(store.version())
        return seen[-1] != seen[-2]

    assert not changed(), "nothing has happened"
    store.add("Ada", entry(0))
    assert changed()
    other.add("Bob", entry(1))
    assert changed()
    other.rename("Bob", "Eve")
    assert changed()
    store.remove("Eve")
    assert changed()
    assert not changed()
    other.close()


def test_what_was_acknowledged_is_there_again(opener: Callable[[], Store], store: Store) -> None:
    store.add("Ada", entry(2))
    store.set("rate", 0.01)
    again = opener()
    assert [(name, n) for name, n, _ in again.people()] == [("Ada", 1)]
    assert again.setting("rate") == 0.01
    again.close()


def test_threads_share_it(store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda k: store.add(f"person {k % 5}", entry(k)), range(40)))
    assert all(added)
    assert [n for _, n, _ in store.people()] == [8] * 5
    assert len(store.vectors(D)[1]) == 40


def test_a_gallery_over_it(opener: Callable[[], Store]) -> None:
    """A gallery takes a store in the place of a path, and closes it."""
    embedder = StubEmbedder()
    vectors = np.eye(embedder.dimension, dtype=np.float32)
    crop = np.zeros((embedder.spec.size, embedder.spec.size, 3), np.uint8)
    with Gallery(opener(), embedder, create=True) as gallery:
        gallery.add("Ada", vectors[0], crop)
        gallery.add("Bob", vectors[1], crop)
        assert [match.name for match in gallery.identify(vectors[:3])] == ["Ada", "Bob", None]
    with Gallery(opener(), embedder) as gallery:
        assert [person.name for person in gallery.people()] == ["Ada", "Bob"]
    other = StubEmbedder(fingerprint="0" * 64)
    with pytest.raises(GalleryError, match="cannot be compared"):
        Gallery(opener(), other)
