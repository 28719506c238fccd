"""Photos read in file order give the same people as row by row, on one core and on two, and damage is detected."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.people_index import PeopleIndex
from facespace.identification.stores import sqlite_rows, sqlite_scan
from facespace.identification.stores.protocol import Entry
from facespace.identification.stores.sqlite import SQLiteStore

DIMENSION = 16
N_PEOPLE = 60


def entry(seed: int, quality: float | None = None) -> Entry:
    vector = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    digest = hashlib.sha256(str(seed).encode()).hexdigest()
    return Entry(vector / np.linalg.norm(vector), digest, "", "onnxruntime float32", quality)


@pytest.fixture(params=[1, 2], ids=["one core", "two cores"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SQLiteStore]:
    """Sixty people with one photo, two with several, one removed, and one whose photo is out of order."""
    monkeypatch.setattr(sqlite_scan, "usable_cores", lambda: request.param)
    monkeypatch.setattr(sqlite_scan, "_BATCH", 7)
    monkeypatch.setattr(sqlite_rows, "_BATCH", 7)
    with_people = SQLiteStore(tmp_path / "people.gallery", create=True)
    for seed in range(N_PEOPLE):
        with_people.add(f"person {seed}", entry(seed, None if seed % 3 else seed / N_PEOPLE))
    with_people.add("person 5", entry(1000))
    with_people.add("person 40", entry(1001, 0.25))
    edits.remove(with_people, "person 9")
    other = with_people.find("person 11")
    assert other is not None
    with_people.add("person 11", entry(1002))
    edits.remove_photos(with_people, "person 11", [with_people.photos(other.id)[0].id])
    yield with_people
    with_people.close()


def answers(index: PeopleIndex) -> list[list[object]]:
    probes = np.stack([entry(seed).embedding for seed in (*range(N_PEOPLE), 1000, 1001, 1002)])
    people, similarities, n_photos, qualities = index.nearest(probes, 3)
    return [people.tolist(), similarities.tolist(), n_photos.tolist(), np.round(qualities, 6).tolist()]


def test_it_finds_what_reading_row_by_row_finds(store: SQLiteStore) -> None:
    with store._read() as cursor:
        whole = PeopleIndex.build(DIMENSION, sqlite_rows.people_rows(store, cursor, DIMENSION))
        quick = PeopleIndex.build(
            DIMENSION, sqlite_rows._rows_in_file_order(store, cursor, DIMENSION, store._second_cursor)
        )
    assert (len(quick), quick.n_rows) == (len(whole), whole.n_rows) == (N_PEOPLE - 1, N_PEOPLE - 1)
    assert answers(quick) == answers(whole)


def test_a_search_reads_so(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_rows, "people_rows", lambda *_: pytest.fail("read row by row"))
    found = store.nearest(entry(20).embedding[None], 1)
    assert [one.state.name for one in store.get(found.people[0].tolist())] == ["person 20"]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE face SET vector = 7 WHERE id = 33", "an embedding is not of 16 numbers"),
        ("UPDATE face SET vector = zeroblob(30) WHERE id = 33", "an embedding is not of 16 numbers"),
        ("UPDATE face SET vector = zeroblob(32) WHERE id = 33", "an embedding is not of length 1"),
        ("UPDATE face SET vector = CAST(vector AS TEXT) WHERE id = 33", "a text in it is not UTF-8"),
        ("UPDATE face SET quality = 1.5 WHERE id = 50", "the quality of a face is not between 0 and 1"),
        ("UPDATE face SET quality = 'good' WHERE id = 50", "the quality of a face is not between 0 and 1"),
        ("UPDATE face SET person = 3 WHERE id = 33", "people and"),
        ("DELETE FROM face WHERE id = 33", "people and"),
    ],
)
def test_damage_is_reported(store: SQLiteStore, statement: str, message: str) -> None:
    connection = sqlite3.connect(store.path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(GalleryError, match=message):
        store.nearest(entry(1).embedding[None], 1)


def test_bytes_of_every_kind_are_joined_as_they_are(store: SQLiteStore) -> None:
    with store._read() as cursor:
        pieces = list(sqlite_scan.scan(cursor, store._collection_id, DIMENSION, store._second_cursor))
        held = dict(cursor.rows("SELECT id, vector FROM face"))
    read = {key: row.tobytes() for piece in pieces for key, row in zip(piece.ids.tolist(), piece.vectors, strict=True)}
    assert len(read) == N_PEOPLE + 1
    assert read == {key: held[key] for key in read}
    assert any(b"\0" in row for row in read.values())


def test_an_abandoned_scan_leaves_no_thread(store: SQLiteStore) -> None:
    import threading

    before = threading.active_count()
    with store._read() as cursor:
        pieces = sqlite_scan.scan(cursor, store._collection_id, DIMENSION, store._second_cursor)
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert store.count() == N_PEOPLE - 1


def test_a_file_that_was_replaced_is_read_by_one_thread(store: SQLiteStore, tmp_path: Path) -> None:
    other = SQLiteStore(tmp_path / "other.gallery", create=True)
    other.add("somebody", entry(1))
    other.close()
    with store._read() as cursor:
        (second := store._second_cursor(cursor)).close()  # type: ignore[union-attr]
        (tmp_path / "other.gallery").replace(store.path)
        assert second is not None and store._second_cursor(cursor) is None
