"""Ids, cursors and pages of people, without a service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from facespace.identification.stores.sqlite import SQLiteStore
from facespace.server import people
from facespace.server.problems import Problem
from support.galleries import entry


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    opened = SQLiteStore(tmp_path / "people.gallery", create=True)
    for k, name in enumerate(("Ada", "Bob", "Zoë", "王")):
        opened.add(name, entry(k, crop=b"\x89PNG" if k else None, quality=k / 10))
    opened.add("Ada", entry(9))
    yield opened
    opened.close()


@pytest.mark.parametrize("name", ["Ada", "王小明", "x" * 200, "a b/c?d=e&f", "\u202e", "😀"])
def test_a_cursor_can_contain_any_name(name):
    cursor = people.cursor_of(name)
    assert people.name_of(cursor) == name and cursor.isascii() and cursor.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("cursor", ["", "=", "A", "????", "Zm9v=", "Zm9v ", "\0", "é", "_w", "AA", "Zm9w1"])
def test_invalid_cursors(cursor):
    with pytest.raises(Problem, match="after must be"):
        people.name_of(cursor)


@pytest.mark.parametrize("number", ["", "0", "-1", "01", "1 ", "1.0", "9" * 19, "9" * 40, "１", "None", "1\n"])
def test_invalid_ids(number):
    with pytest.raises(Problem) as caught:
        people.person_number(number)
    assert (caught.value.status, caught.value.code) == (404, "no_such_person") and len(str(caught.value.detail)) < 90
    assert people.photo_number("12") == 12


def test_pages_end_and_say_so(store):
    page = people.people_page(store, after=None, limit=3)
    assert [one.state.name for one in page.people] == ["Ada", "Bob", "Zoë"] and page.next
    rest = people.people_page(store, after=page.next, limit=3)
    assert [one.state.name for one in rest.people] == ["王"] and rest.next is None
    assert people.people_page(store, after=None, limit=4).next is None
    assert [one.state.name for one in people.people_page(store, after=None, limit=1, search=" ZOE ").people] == ["Zoë"]
    assert people.people_page(store, after=None, limit=1, search="a").next is None


def test_the_best_crop_is_the_cover(store):
    (ada, bob) = store.people(limit=2)
    assert people.person_entry(store, ada)["cover"] is None, "no crop was kept"
    assert people.person_entry(store, bob)["cover"] == str(store.photos(bob.id)[0].id)
    assert people.person_with_photos(store, ada.id)["n_photos"] == 2


def request(value: str | None) -> Any:
    return SimpleNamespace(headers={} if value is None else {"if-match": value})


def test_if_match(store):
    gallery: Any = SimpleNamespace(store=store)
    ada = store.people(limit=1)[0]
    tag = people.person_entry(store, ada)["etag"]
    assert people.if_match(request("*"), gallery, ada.id).fingerprint is None
    assert people.if_match(request(f'"{tag}"'), gallery, ada.id).fingerprint == tag
    assert people.if_match(request(f'"x", W/"y", "{tag}"'), gallery, ada.id).fingerprint == tag
    assert people.if_match(request(None), gallery, ada.id, needed=False).fingerprint is None
    for value, status in ((None, 428), ("", 412), (tag, 412), (f'W/"{tag}"', 412), ("\0", 412)):
        with pytest.raises(Problem) as caught:
            people.if_match(request(value), gallery, ada.id)
        assert caught.value.status == status


def test_metadata_that_cannot_be_encoded_is_left_out():
    deep = {"a": 1}
    for _ in range(300):
        deep = {"a": deep}
    assert people.encodable(deep) == {}
    assert people.encodable({"a": [[1]]}) == {"a": [[1]]}
