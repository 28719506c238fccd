"""Unnamed faces in clusters, of generated people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from facespace.embedding.compatibility import model_of
from facespace.embedding.vectors import Embeddings
from facespace.faces.face import Face
from facespace.pipeline.photos import Photo
from facespace.server import unknown_clusters as module
from facespace.server.unknown_clusters import grouped, like_each, suggestions
from support.served_people import entry
from support.service import running_service, service_behind

POINTS = ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with running_service(tmp_path) as client:
        yield client


def direction(client: TestClient, seed: int) -> np.ndarray:
    gallery = service_behind(client).galleries.get()
    return np.asarray(entry(gallery, seed).embedding)


def near(client: TestClient, seed: int, number: int, noise: float = 0.35) -> np.ndarray:
    """Return an embedding similar to the person with that number."""
    vector = direction(client, seed)
    other = direction(client, 10_000 + 100 * seed + number)
    mixed = vector + noise * other
    return np.asarray(mixed / np.linalg.norm(mixed), np.float32)


def embeddings_of(client: TestClient, vectors: list[np.ndarray]) -> Embeddings:
    embedder = service_behind(client).galleries.get().embedder
    quality = np.full(len(vectors), 0.9, np.float32)
    return Embeddings(np.stack(vectors), made_by="represent", model=model_of(embedder), quality=quality)


def keep(client: TestClient, *photos: list[np.ndarray]) -> list[list[str]]:
    """Keep photos with these faces, and return their ids."""
    unknowns, found, shade = service_behind(client).unknowns, [], 0
    for vectors in photos:
        faces = [Face((0, 0, 100, 120), 0.9, POINTS, quality=0.9) for _ in vectors]
        crops = np.stack([np.full((112, 112, 3), shade + k, np.uint8) for k in range(len(vectors))])
        shade += len(vectors)
        kept = unknowns.keep(
            "default",
            Photo("x", faces=faces, crops=crops, embeddings=embeddings_of(client, vectors)),
            range(len(vectors)),
        )
        found.append([kept[k] for k in range(len(vectors))])
    return found


def clusters(client: TestClient) -> module.Clusters:
    service = service_behind(client)
    return service.grouping.of("default", service.galleries.get())


def test_one_cluster_for_each_person(client):
    photos = keep(client, *([near(client, 1, k), near(client, 2, k)] for k in range(3)), [near(client, 3, 0)])
    found = clusters(client)
    people = [{photo[0] for photo in photos[:3]}, {photo[1] for photo in photos[:3]}]
    assert [set(one.faces) for one in found.clusters] in (people, people[::-1])
    assert found.loose == photos[3] and all(one.cover in one.faces and one.id in one.faces for one in found.clusters)


def test_faces_of_one_photo_are_two_people(client):
    """This is so even if they are very similar."""
    (both,) = keep(client, [near(client, 1, 1), near(client, 1, 2)])
    assert clusters(client).clusters == [] and set(clusters(client).loose) == set(both)


def test_only_similar_people_are_suggested(client):
    gallery = service_behind(client).galleries.get()
    gallery.store.add("Ada", entry(gallery, 1))
    gallery.store.add("Bob", entry(gallery, 2))
    keep(client, *([near(client, 1, k)] for k in range(3)), *([near(client, 5, k)] for k in range(3)))
    found = {len(one.suggestions): one for one in clusters(client).clusters}
    assert set(found) == {0, 1}, "no person is suggested for a stranger"
    (one,) = found[1].suggestions
    assert one.person["name"] == "Ada" and one.likeness == "very likely" and one.similarity >= one.threshold


def test_a_single_face_is_a_cluster_if_a_person_is_suggested(client):
    alone, stranger = keep(client, [near(client, 1, 0)], [near(client, 3, 0)])
    assert clusters(client).clusters == [] and set(clusters(client).loose) == {*alone, *stranger}
    gallery = service_behind(client).galleries.get()
    gallery.store.add("Ada", entry(gallery, 1))
    found = clusters(client)
    (one,) = found.clusters
    assert (one.id, one.faces, one.cover) == (alone[0], alone, alone[0])
    assert [each.person["name"] for each in one.suggestions] == ["Ada"]
    assert found.loose == stranger
    unknowns = service_behind(client).unknowns
    unknowns.erase("default", unknowns.find("default", stranger))
    assert clusters(client) == module.Clusters([one], []), "also if it is the only face"


def test_suggestions_reach_the_threshold(client):
    gallery = service_behind(client).galleries.get()
    gallery.store.add("Ada", entry(gallery, 1))
    least = float(gallery.thresholds_for(1, 0.8, 0.9, among=1))
    other = direction(client, 2) - direction(client, 2) @ direction(client, 1) * direction(client, 1)
    other /= np.linalg.norm(other)
    for similarity, n in ((least - 0.01, 0), (least + 0.01, 1)):
        vector = similarity * direction(client, 1) + np.sqrt(1 - similarity**2) * other
        (found,) = suggestions(gallery, embeddings_of(client, [vector.astype(np.float32)]))
        assert len(found) == n
        if found:
            assert found[0].likeness in ("possible", "likely")
        alike = like_each(gallery, embeddings_of(client, [vector.astype(np.float32)]), 5)
        assert len(alike[0]) == n


def test_clusters_are_computed_again_only_after_a_change(client, monkeypatch):
    calls = []

    def counted(*arguments: object) -> module.Clusters:
        calls.append(1)
        return grouped(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "grouped", counted)
    keep(client, [near(client, 1, 1)])
    assert clusters(client) == clusters(client) and len(calls) == 1
    gallery = service_behind(client).galleries.get()
    gallery.store.add("Ada", entry(gallery, 1))
    clusters(client)
    assert len(calls) == 2


def test_only_the_newest_faces_are_clustered(client, monkeypatch):
    monkeypatch.setattr(module, "MAX_CLUSTERED", 2)
    photos = keep(client, [near(client, 1, 1)], [near(client, 2, 1)], [near(client, 3, 1)])
    assert len(clusters(client).loose) == 2 and set(clusters(client).loose) <= {photo[0] for photo in photos}
