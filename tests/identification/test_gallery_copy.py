"""Copies of galleries between files and other stores, with counts and checksums."""

from __future__ import annotations

import dataclasses
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification import edits, gallery_copy
from facespace.identification.gallery import Gallery
from facespace.identification.gallery_copy import Copied, begin, contents, copy_gallery, finish, snapshot
from facespace.identification.stores import opening
from facespace.identification.stores.bulk import add_people, people_of
from facespace.identification.stores.sqlite import SQLiteStore
from support.calibrations import StubEmbedder
from support.gallery_people import MODEL, OtherStore, everybody, open_people, person, photo, told


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "people.gallery"
    open_people(target).close()
    return target


def servers(monkeypatch: pytest.MonkeyPatch, folder: Path, stop_after: int | None = None) -> None:
    """Make addresses `other://NAME` open stores that are not files."""
    real = gallery_copy.open_store

    def opened(address: str, *, collection: str = "default", create: bool = False) -> Any:
        if not address.startswith("other://"):
            return real(address, collection=collection, create=create)
        inner = SQLiteStore(folder / address[8:], collection=collection, create=create)
        return OtherStore(inner, stop_after)

    monkeypatch.setattr(gallery_copy, "open_store", opened)
    monkeypatch.setattr(opening, "open_store", opened)


# Counting


def test_the_checksum_does_not_depend_on_order_and_times() -> None:
    people = everybody()
    expected = contents(people)
    assert expected[:3] == (17, 33, sum(photo.entry.crop is not None for one in people for photo in one.photos))
    shuffled = [
        dataclasses.replace(
            one,
            photos=tuple(each._replace(added="2027-01-01T00:00:00Z") for each in reversed(one.photos)),
            added="later",
        )
        for one in people
    ]
    random.Random(0).shuffle(shuffled)
    assert contents(shuffled) == expected


@pytest.mark.parametrize(
    "changes",
    [{"digest": "0" * 64}, {"source": "x"}, {"made_by": "x"}, {"quality": 0.123}, {"metadata": {"x": 1}}, {"crop": b"x"},
     {"embedding": np.eye(8, dtype=np.float32)[0]}],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_everything_of_a_photo_counts(changes: dict[str, Any]) -> None:
    one = person("Ada", 1, crop=True)
    other = dataclasses.replace(one, photos=(photo(1, **({"crop": True} | changes)),))
    assert contents([one]).checksum != contents([other]).checksum


@pytest.mark.parametrize(
    "changes", [{"external_id": "x"}, {"metadata": {"x": 1}}, {"rejected": ("0" * 64,)}, {"templates": "best"}]
)
def test_everything_of_a_person_counts(changes: dict[str, Any]) -> None:
    assert contents([person("Ada", 1)]).checksum != contents([person("Ada", 1, **changes)]).checksum
    assert contents([person("Ada", 1)]).checksum != contents([person("Bob", 1)]).checksum
    assert contents([person("Ada", 1), person("Bob", 2)]) != contents([person("Ada", 2), person("Bob", 1)])


# From file to file


def test_a_file_is_copied_with_all_that_is_in_it(path: Path, tmp_path: Path) -> None:
    store = SQLiteStore(path)
    edits.remove(store, "Ada")
    open_people(path, [person("Friend", 1)], collection="friends").close()
    target = tmp_path / "copy.gallery"
    done = copy_gallery(str(path), str(target))
    assert [(one.collection, one.changed) for one in done] == [("default", False), ("friends", False)]
    assert done[0].contents == contents(people_of(store))
    assert done[0].contents.n_people == len(everybody()) - 1
    copy = SQLiteStore(target)
    assert [one.id for one in copy.people()] == [one.id for one in store.people()]
    assert copy.log() == store.log()
    edits.undo(copy)
    assert copy.find("Ada") is not None and store.find("Ada") is None


def test_nothing_is_written_over(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gallery"
    open_people(other, [person("Eve", 1)]).close()
    before = other.read_bytes()
    for source in (path, other):
        with pytest.raises(GalleryError, match=r"other.gallery: the collection 'default' already has people"):
            copy_gallery(str(source), str(other))
    assert other.read_bytes() == before
    with pytest.raises(GalleryError, match=r"missing.gallery: no such gallery"):
        copy_gallery(str(tmp_path / "missing.gallery"), str(tmp_path / "new.gallery"))
    assert not (tmp_path / "new.gallery").exists()


def test_a_copy_that_differs_is_reported(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SQLiteStore.copy_to

    def copy_to(self: SQLiteStore, target: Path) -> None:
        real(self, target)
        with SQLiteStore(target)._write() as cursor:
            cursor.change("UPDATE face SET quality = 0.123 WHERE id = 3")

    monkeypatch.setattr(SQLiteStore, "copy_to", copy_to)
    with pytest.raises(GalleryError, match=r"new.gallery: differs from .*people.gallery; delete it and copy again"):
        copy_gallery(str(path), str(tmp_path / "new.gallery"))


def test_copied_while_others_write(tmp_path: Path) -> None:
    """Every copy is one consistent state: it has the first n of the people that are added one after another."""
    path = tmp_path / "people.gallery"
    open_people(path, []).close()
    names = [f"{k:03d}" for k in range(60)]

    def enrol() -> None:
        store = SQLiteStore(path)
        for k, name in enumerate(names):
            add_people(store, [person(name, k, 100 + k)], text="test")
        store.close()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(enrol)
        n = 0
        while not writing.done():
            (done,) = copy_gallery(str(path), str(tmp_path / f"{n}.gallery"))
            held = told(SQLiteStore(tmp_path / f"{n}.gallery"))
            assert held == told([person(name, k, 100 + k) for k, name in enumerate(names)])[: len(held)]
            assert done.contents.n_people == len(held) and done.contents.n_photos == 2 * len(held)
            n += 1
        writing.result()
    (done,) = copy_gallery(str(path), str(tmp_path / "last.gallery"))
    assert (done.contents.n_people, done.changed) == (60, False)


# To other stores


def test_to_a_store_of_another_kind_and_back(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers(monkeypatch, tmp_path)
    store = SQLiteStore(path)
    store.set("templates", "best")
    store.set("retention_days", 30)
    expected = Copied("default", contents(people_of(store)), False)
    assert copy_gallery(str(path), "other://server") == [expected]
    server = SQLiteStore(tmp_path / "server")
    assert server.setting("embedder") == MODEL and server.setting("templates") == "best"
    assert server.setting("retention_days") == 30
    assert copy_gallery("other://server", str(tmp_path / "back.gallery")) == [expected]
    back = SQLiteStore(tmp_path / "back.gallery")
    assert contents(people_of(back)) == expected.contents
    assert not list(tmp_path.glob(".facespace-*")), "the temporary copy was deleted"


def test_a_copy_is_encrypted_if_there_is_a_key(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_people(path, [person("Friend", 1)], collection="friends").close()
    before = told(SQLiteStore(path))
    monkeypatch.setenv("FACESPACE_GALLERY_KEY", "correct horse battery")
    target = tmp_path / "copy.gallery"
    assert [one.collection for one in copy_gallery(str(path), str(target))] == ["default", "friends"]
    data = target.read_bytes()
    assert "王小明".encode() not in data and photo(1).entry.embedding.astype("<f2").tobytes() not in data
    assert told(SQLiteStore(target)) == before
    again = tmp_path / "again.gallery"
    (first, _) = copy_gallery(str(target), str(again))
    assert first.contents == contents(people_of(SQLiteStore(target))) and told(SQLiteStore(again)) == before
    monkeypatch.delenv("FACESPACE_GALLERY_KEY")
    with pytest.raises(GalleryError, match=r"copy.gallery: encrypted; set the variable"):
        copy_gallery(str(target), str(tmp_path / "plain.gallery"))


def test_one_collection_of_a_file(path: Path, tmp_path: Path) -> None:
    friends = open_people(path, [person("Friend", 1)], collection="friends")
    SQLiteStore(path, collection="empty", create=True).close()
    target = tmp_path / "friends.gallery"
    (done,) = copy_gallery(str(path), str(target), collection="friends")
    copy = SQLiteStore(target, collection="friends")
    assert (done.collection, copy.collections()) == ("friends", ["friends"])
    assert told(copy) == told(friends)
    both = copy_gallery(str(path), str(tmp_path / "existing.gallery"))
    assert [one.collection for one in both] == ["default", "empty", "friends"]
    with pytest.raises(GalleryError, match="no collection 'enemies'; it has: default, empty, friends"):
        copy_gallery(str(path), str(tmp_path / "x.gallery"), collection="enemies")


def test_a_gallery_without_the_collection_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers(monkeypatch, tmp_path)
    path = tmp_path / "a.gallery"
    store = open_people(path, [person("Friend", 1)], collection="friends")
    for target in (str(tmp_path / "b.gallery"), "other://server"):
        assert copy_gallery(str(path), target) == [Copied("friends", contents(people_of(store)), False)]


def test_an_empty_collection_of_a_file_is_left_out_elsewhere(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers(monkeypatch, tmp_path)
    SQLiteStore(path, collection="empty", create=True).close()
    assert [one.collection for one in copy_gallery(str(path), "other://server")] == ["default"]


def test_stopped_at_any_change_and_started_again(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = contents(everybody())
    for stop in range(0, 40, 13):
        name = f"server{stop}"
        with pytest.MonkeyPatch.context() as patch:
            servers(patch, tmp_path, stop)
            with pytest.raises(ConnectionError):
                copy_gallery(str(path), f"other://{name}")
        with pytest.raises(GalleryError, match="not whole yet: start the same command again"):
            Gallery(SQLiteStore(tmp_path / name), StubEmbedder())  # type: ignore[arg-type]
        with pytest.MonkeyPatch.context() as patch:
            servers(patch, tmp_path)
            (done,) = copy_gallery(str(path), f"other://{name}")
        assert done.contents == expected
        Gallery(SQLiteStore(tmp_path / name), StubEmbedder()).close()  # type: ignore[arg-type]


def test_an_original_that_was_changed_since_the_copy_was_begun(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        servers(patch, tmp_path, 30)
        with pytest.raises(ConnectionError):
            copy_gallery(str(path), "other://server")
    edits.rename(SQLiteStore(path), "Ada", "Zuse")
    servers(monkeypatch, tmp_path)
    with pytest.raises(GalleryError, match=r"has 18 people and .* but .*people.gallery has 17 .*copy to another place"):
        copy_gallery(str(path), "other://server")


def test_a_collection_that_is_being_filled_with_something_else(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "a.gallery", create=True)
    begin(store, MODEL, "a copy of a")
    begin(store, MODEL, "a copy of b")  # it was empty
    add_people(store, [person("Ada", 1)], text="test")
    begin(store, MODEL, "a copy of b")
    with pytest.raises(GalleryError, match="already has people"):
        begin(store, MODEL, "a copy of c")
    finish(store, MODEL)
    with pytest.raises(GalleryError, match="already has people"):
        begin(store, MODEL, "a copy of b")


def test_errors_name_the_gallery_and_not_the_copy_that_is_read(path: Path, tmp_path: Path) -> None:
    store = SQLiteStore(path)
    with store._write() as cursor:
        cursor.change("UPDATE face SET digest = 5 WHERE id = 3")
    with pytest.raises(GalleryError, match=f"^{path}: damaged"), snapshot(store, tmp_path) as still:
        list(people_of(still))
    other = OtherStore(store)
    with snapshot(other, None) as still:  # type: ignore[arg-type]
        assert still is other  # type: ignore[comparison-overlap]
