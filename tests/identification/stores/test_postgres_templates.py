"""Search on PostgreSQL: proven results without an index, and the index."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.stores import postgres_templates
from facespace.identification.stores.postgres import PostgresStore
from facespace.identification.stores.protocol import Entry
from support.postgres_server import PostgresServer
from support.store_entries import D, entry, vectors


@pytest.fixture
def address(postgres: PostgresServer) -> str:
    return postgres.gallery()


@pytest.fixture
def store(address: str) -> Iterator[PostgresStore]:
    opened = PostgresStore(address, create=True)
    yield opened
    opened.close()


def test_the_nearest_are_proven_to_be(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the rounding of the probe affects the order, candidates are added until no other row can be nearer."""
    monkeypatch.setattr(postgres_templates, "_CANDIDATES", 1)
    rng = np.random.default_rng(50)
    probe = rng.standard_normal(D).astype(np.float32)
    probe /= np.linalg.norm(probe)
    away = rng.standard_normal((100, D)).astype(np.float32)
    away -= (away @ probe)[:, None] * probe
    rows = 0.5 * probe + np.sqrt(0.75) * away / np.linalg.norm(
        away, axis=1, keepdims=True
    )  # all equally near, except for rounding
    for k, row in enumerate(rows):
        store.add(f"person {k}", Entry(row, f"{k:064x}", "", ""))
    kept = rows.astype(np.float16).astype(np.float32)
    nearest = (kept @ probe).argmax()
    rounded = kept @ probe.astype(np.float16).astype(np.float32)
    assert (rounded > rounded[nearest]).sum() > 30, "it is not among the first 5"
    found = store.find(f"person {nearest}")
    assert found is not None
    assert store.nearest(probe[None], 1).people.tolist() == [[found.id]]


def test_a_person_of_more_photos_than_candidates(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_templates, "_CANDIDATES", 1)
    store.set("templates", "best")
    for k in range(30):
        store.add("Ada", Entry(entry(0).embedding, f"{k:064x}", "", ""))
    store.add("Bob", entry(7))
    assert store.build_index(D)
    for indexed in (True, False):
        if not indexed:
            monkeypatch.setattr(postgres_templates, "_index_state", lambda *_: None)
        assert store.nearest(entry(0).embedding[None], 2).people.tolist() == [[1, 2]]


def test_many_probes_and_many_people_asked_for(store: PostgresStore) -> None:
    for k in range(30):
        store.add(f"person {k // 2}", entry(k))
    found = store.nearest(vectors(70, 8), 40)
    assert ((found.people > 0).sum(axis=1) == 15).all()
    assert found.similarities[0, 15] == -np.inf
    assert store.nearest(vectors(0), 2).people.shape == (0, 2)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        store.nearest(vectors(1), 0)


def test_a_template_setting_is_followed_at_once(store: PostgresStore, address: str) -> None:
    for k in range(3):
        store.add("Ada", entry(k))
    store.add("Bob", entry(7))
    probe = entry(0).embedding[None]
    assert store.nearest(probe, 1).n_photos.tolist() == [[3]]
    store.set("templates", "best")
    assert store.nearest(probe, 1).n_photos.tolist() == [[1]]
    np.testing.assert_allclose(store.nearest(probe, 1).similarities, 1, atol=1e-3)
    assert store.set_once("templates", "mean") == "best"
    store.set("templates", "mean")
    assert store.nearest(probe, 1).n_photos.tolist() == [[3]]
    other = PostgresStore(address, collection="other", create=True)
    for k in range(3):
        other.add("Ada", entry(k))
    assert other.set_once("templates", "best") == "best"
    assert other.nearest(probe, 1).n_photos.tolist() == [[1]]
    other.close()


def test_vectors_of_another_length(store: PostgresStore) -> None:
    assert store.nearest(vectors(1, 0, 128), 1).people.tolist() == [[-1]]
    store.add("Ada", entry(1))
    with pytest.raises(GalleryError, match=r"different halfvec dimensions|expected 128 dimensions|not of 128 numbers"):
        store.nearest(vectors(1, 0, 128), 1)
    with pytest.raises(GalleryError, match="not of 128 numbers"):
        store.vectors(128)


def test_a_template_of_another_length_is_damage(store: PostgresStore) -> None:
    store.add("Ada", entry(1))
    with store._write() as cursor:
        cursor.once("UPDATE template SET vector = '[1,0]'")
    with pytest.raises(GalleryError, match="dimensions"):
        store.nearest(vectors(1), 1)


# The index


@pytest.fixture
def small_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_templates, "INDEXED_FROM", 40)


def scans(store: PostgresStore) -> int:
    with store._read() as cursor:
        rows = cursor.once(
            "SELECT coalesce(sum(idx_scan), 0) FROM pg_stat_user_indexes WHERE schemaname = current_schema()"
            " AND indexrelname LIKE 'template\\_%\\_%' AND indexrelname <> 'template_pkey'"
        )
    return int(rows[0][0])


@pytest.mark.usefixtures("small_index")
def test_a_large_collection_gets_an_index(postgres: PostgresServer, store: PostgresStore, address: str) -> None:
    for k in range(39):
        store.add(f"person {k}", entry(k))
    store.nearest(vectors(1), 1)
    assert store._builder is None
    store.add("person 39", entry(39))
    store.add("person 39", entry(40))
    exact = store.nearest(vectors(20, 5), 4)
    assert store._builder is not None
    store._builder.join(60)
    assert store.remarks == ()
    postgres.restart()
    again = PostgresStore(address)
    before = scans(again)
    found = again.nearest(vectors(20, 5), 4)
    again.close()  # the server's statistics are updated when the connection is closed
    deadline = time.monotonic() + 20
    while scans(store) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert scans(store) > before
    np.testing.assert_array_equal(found.people, exact.people)
    np.testing.assert_array_equal(found.similarities, exact.similarities)
    # Changes are in the index at once, and removed rows do not reduce the number of results.
    for k in range(30):
        edits.remove(store, f"person {k}")
    store.add("new", entry(77))
    (new,) = store.nearest(entry(77).embedding[None], 20).people[:, 0]
    assert new == store.find("new").id  # type: ignore[union-attr]
    assert (store.nearest(vectors(3), 20).people > 0).sum(axis=1).tolist() == [11] * 3
    assert again._builder is None


@pytest.mark.usefixtures("small_index")
def test_an_index_that_was_left_unfinished_is_made_again(store: PostgresStore) -> None:
    for k in range(45):
        store.add(f"person {k}", entry(k))
    name = postgres_templates._index_name(store, D)
    assert store.build_index(D) and store.build_index(D)
    with store._write() as cursor:
        cursor.once(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{name}'::regclass")
    with store._read() as cursor:
        assert postgres_templates._index_state(cursor, name) is False
    assert (store.nearest(vectors(2), 50).people[:, 44] > 0).all(), "meanwhile all people are compared"
    assert store._builder is not None
    store._builder.join(60)
    with store._read() as cursor:
        assert postgres_templates._index_state(cursor, name) is True


def test_one_process_builds_the_index_and_others_do_not_wait(store: PostgresStore, address: str) -> None:
    for k in range(20):
        store.add(f"person {k}", entry(k))
    other = PostgresStore(f"{address}&statement_timeout=5")
    holding = store._connections.connect(statement_timeout=0)
    holding.once("BEGIN ISOLATION LEVEL REPEATABLE READ")
    holding.rows("SELECT count(*) FROM template")  # an index is complete only after such readers have ended
    making = threading.Thread(target=store.build_index, args=(D,))
    making.start()
    name = postgres_templates._index_name(store, D)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with other._read() as cursor:
            if postgres_templates._index_state(cursor, name) is False:
                break
        time.sleep(0.02)
    assert other.add("meanwhile", entry(50))
    assert not other.build_index(D)
    assert making.is_alive()
    holding.once("COMMIT")
    holding.close()
    making.join(60)
    assert not making.is_alive()
    assert other.nearest(entry(50).embedding[None], 1).people.tolist() == [[other.find("meanwhile").id]]  # type: ignore[union-attr]
    other.close()


@pytest.mark.usefixtures("small_index")
def test_a_remark_says_why_no_index_could_be_built(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(45):
        store.add(f"person {k}", entry(k))

    def no(*_: Any) -> bool:
        raise GalleryError("no right")

    monkeypatch.setattr(postgres_templates, "build_index", no)
    for _ in range(2):
        assert store.nearest(vectors(1), 1).people[0, 0] > 0
        assert store._builder is not None
        store._builder.join(60)
    assert store.remarks == ("no right (no search index could be built; searches compare with all people)",)
