"""Which unnamed faces are kept, for how long, and how many."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from facespace.embedding.compatibility import model_of
from facespace.embedding.vectors import Embeddings
from facespace.errors import GalleryError
from facespace.faces.face import Face
from facespace.pipeline.photos import Photo
from facespace.server import unknowns as module
from facespace.server.problems import Problem
from facespace.server.unknowns import Unknowns
from support.served_people import add_drawn
from support.service import running_service, service_behind
from support.waiting import wait_until

POINTS = ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with running_service(tmp_path) as client:
        yield client


@pytest.fixture
def unknowns(client: TestClient) -> Unknowns:
    return service_behind(client).unknowns


def drawn(client: TestClient, *seeds: int) -> Photo:
    """Return an analysed photo with a generated face for each seed."""
    embedder = service_behind(client).galleries.get().embedder
    vectors = np.stack([np.random.default_rng(seed).standard_normal(embedder.dimension) for seed in seeds])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    quality = np.full(len(seeds), 0.8, np.float32)
    embeddings = Embeddings(vectors.astype(np.float32), made_by="represent", model=model_of(embedder), quality=quality)
    faces = [Face((0, 0, 100, 120), 0.9, POINTS, quality=0.8) for _ in seeds]
    crops = np.stack([np.full((112, 112, 3), seed % 256, np.uint8) for seed in seeds])
    return Photo("<upload>", faces=faces, crops=crops, embeddings=embeddings)


def ids(unknowns: Unknowns, **options: bool) -> list[str]:
    return [one.id for one in unknowns.page("default", limit=100, **options)[0]]


def test_faces_are_on_the_disk_a_moment_later(client, unknowns):
    kept_ids = unknowns.keep("default", drawn(client, 1, 2), [0, 1], source="a.jpg")
    assert sorted(kept_ids) == [0, 1]
    wait_until(lambda: "default-unknowns" in service_behind(client).galleries.get().store.collections(), "not written")
    wait_until(lambda: unknowns.count("default") == 2, "not written")
    (first, second), following = unknowns.page("default", limit=10)
    assert following is None and {first.id, second.id} == set(kept_ids.values())
    assert first.source == "a.jpg" and first.box == [0, 0, 100, 120] and first.quality == 0.8 and first.has_crop
    assert unknowns.keep("default", drawn(client, 2, 3), [0, 1])[0] == kept_ids[1], "the same crop is kept once"
    assert unknowns.count("default") + len(unknowns._waiting) == 3


def test_old_faces_are_erased(client, unknowns):
    service = service_behind(client)
    unknowns.keep("default", drawn(client, 1), [0])
    assert len(ids(unknowns)) == 1
    assert unknowns.expire() == 0
    assert unknowns.expire(time.time() + 29 * 86_400) == 0
    assert unknowns.expire(time.time() + 31 * 86_400) == 1
    assert ids(unknowns) == []
    store = service.galleries.get("default-unknowns", hidden=True).store
    assert store.erase() == 0, "the faces were erased already, not only removed"
    unknowns.keep("default", drawn(client, 2), [0])
    service.choices.change(service.galleries.get(), {"unknowns_days": 0})
    unknowns.flush()
    assert unknowns.keep("default", drawn(client, 3), [0]) == {}
    assert unknowns.expire() == 1


def test_removed_people_are_erased_while_the_service_runs(client, unknowns):
    service = service_behind(client)
    for collection in ("default", "staff"):
        add_drawn(client, {"Ada": [1]}, collection=collection)
        gallery = service.galleries.get(collection)
        gallery.set_retention(10)
        client.delete(f"/v1/people/{gallery.store.find('Ada').id}?collection={collection}", headers={"if-match": "*"})
    assert unknowns.erase_removed() == 0
    assert unknowns.erase_removed(time.time() + 11 * 86_400) == 2
    assert unknowns.erase_removed(time.time() + 11 * 86_400) == 0


def test_the_oldest_are_erased_if_there_are_too_many(client, unknowns, monkeypatch):
    monkeypatch.setattr(module, "MAX_UNKNOWNS", 10)
    for seed in range(12):
        unknowns.keep("default", drawn(client, seed), [0])
        unknowns.flush()
        time.sleep(0.002)  # so that the ids have different times
    everybody = ids(unknowns)
    assert len(everybody) == 12 and unknowns.expire() == 3
    assert ids(unknowns) == everybody[:9]


def test_more_than_can_be_written_are_not_kept(client, unknowns, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING_FACES", 2)
    with unknowns._writing:  # a slow disk
        assert len(unknowns.keep("default", drawn(client, 1, 2), [0, 1])) == 2
        assert unknowns.keep("default", drawn(client, 3), [0]) == {} or not unknowns._waiting


def test_a_failing_store_loses_only_faces(client, unknowns, monkeypatch):
    tried = threading.Event()

    def fails(*_: object, **__: object) -> None:
        tried.set()
        raise GalleryError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(module, "add_people", fails)
        unknowns.keep("default", drawn(client, 1), [0])
        assert tried.wait(10)
        with unknowns._writing:  # until the write has ended
            pass
    assert ids(unknowns) == []
    unknowns.keep("default", drawn(client, 1), [0])
    assert len(ids(unknowns)) == 1


def test_everything_of_one_photo_is_kept_by_many_threads(client, unknowns):
    photo = drawn(client, *range(30))
    threads = [threading.Thread(target=unknowns.keep, args=("default", photo, [k])) for k in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids(unknowns)) == 30


def test_ignored_faces_are_recognised(client, unknowns):
    photo = drawn(client, 1, 2)
    kept_ids = unknowns.keep("default", photo, [0, 1])
    assert unknowns.ignored("default", photo, [0, 1]) == set()
    assert unknowns.ignore("default", [kept_ids[0]]) == 1
    assert unknowns.ignored("default", photo, [0, 1]) == {0} and unknowns.ignored("default", photo, [1]) == set()
    assert ids(unknowns) == [kept_ids[1]] and ids(unknowns, ignored=True) == [kept_ids[0]]
    with pytest.raises(Problem, match="no unnamed face"):
        unknowns.ignore("default", [kept_ids[0]])


def test_what_waits_is_written_at_the_end(tmp_path):
    with running_service(tmp_path) as client:
        kept_ids = service_behind(client).unknowns.keep("default", drawn(client, 1), [0])
    with running_service(tmp_path) as client:
        assert ids(service_behind(client).unknowns) == list(kept_ids.values())


def test_an_enrolled_crop_is_no_longer_an_unknown_face(client, unknowns):
    kept_ids = unknowns.keep("default", drawn(client, 1, 2), [0, 1])
    (one,) = unknowns.find("default", [kept_ids[0]])
    unknowns.named("default", [one.photo.digest, "0" * 64])
    assert ids(unknowns) == [kept_ids[1]]


def test_a_removed_collection_is_made_again(client, unknowns, tmp_path):
    """After another process removed the collection of unnamed faces, new faces are kept in a new one."""
    unknowns.keep("default", drawn(client, 1), [0])
    unknowns.flush()
    from facespace.identification.stores.sqlite import SQLiteStore

    with contextlib.closing(SQLiteStore(tmp_path / "people.gallery", collection="default-unknowns")) as elsewhere:
        elsewhere.drop()
    unknowns._waiting.clear()
    unknowns.keep("default", drawn(client, 2), [0])
    assert len(ids(unknowns)) == 1
