"""People in a service to test: generated embeddings in its gallery, and helpers of HTTP clients."""

from __future__ import annotations

from typing import Any

import numpy as np
from starlette.testclient import TestClient

from facespace.embedding.embedder import Embedder
from facespace.identification.gallery import Gallery
from facespace.identification.stores.protocol import Entry
from facespace.io.png import encode_png
from support.service import service_behind

PNG = {"content-type": "image/png"}


def entry(gallery: Gallery, seed: int, **changes: Any) -> Entry:
    """Return a generated photo for a gallery, with a gray crop. Its digest is the number."""
    embedder: Embedder = gallery.embedder
    drawn = np.random.default_rng(seed).standard_normal(embedder.dimension).astype(np.float32)
    crop = encode_png(np.full((4, 4, 3), seed % 256, np.uint8))
    given: dict[str, Any] = {"source": f"{seed}.jpg", "made_by": "test", "quality": 0.8, "crop": crop}
    return Entry(drawn / np.float32(np.linalg.norm(drawn)), f"{seed + 10**9:064x}", **(given | changes))


def add_drawn(client: TestClient, people: dict[str, list[int]], collection: str = "default") -> dict[str, str]:
    """Enroll people with generated photos of these numbers. Return their ids by name."""
    service = service_behind(client)
    gallery = service.galleries.create(collection)
    for name, seeds in people.items():
        for seed in seeds:
            gallery.store.add(name, entry(gallery, seed))
    return {name: str(gallery.store.find(name).id) for name in people}  # type: ignore[union-attr]


def seen(client: TestClient, person: str, **options: Any) -> dict[str, str]:
    """Return the header If-Match for the current state of a person."""
    return {"if-match": client.get(f"/v1/people/{person}", **options).headers["etag"]}


def photos_of(client: TestClient, person: str) -> list[str]:
    return [photo["id"] for photo in client.get(f"/v1/people/{person}").json()["photos"]]


def names(client: TestClient, **query: Any) -> list[str]:
    """Return all people, page by page."""
    found: list[str] = []
    while True:
        page = client.get("/v1/people", params=query).json()
        found += [one["name"] for one in page["people"]]
        if page["next"] is None:
            return found
        query["after"] = page["next"]


def refused(answer: Any, status: int, code: str) -> dict[str, Any]:
    """Return the problem of an answer, and check its status and code."""
    told: dict[str, Any] = answer.json()
    assert (answer.status_code, told["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert told["status"] == status and told["type"] == f"urn:facespace:problem:{code}" and told["detail"]
    return told
