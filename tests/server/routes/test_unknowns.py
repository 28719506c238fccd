"""Unnamed faces over HTTP: kept by identifying, searched, named, ignored, erased."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from support.served_people import PNG, names, refused
from support.service import running_service, service_behind

NOBODY = "e5dd2f7e0c0-f7995abf-0"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with running_service(tmp_path) as client:
        yield client


@pytest.fixture(scope="module")
def collins(collins_file: Path) -> bytes:
    return collins_file.read_bytes()


@pytest.fixture(scope="module")
def hopper(hopper_file: Path) -> bytes:
    return hopper_file.read_bytes()


def look(client: TestClient, photo: bytes, **query: Any) -> dict[str, Any]:
    """Return the only face of a photo, as identified."""
    (face,) = client.post("/v1/identify", content=photo, headers=PNG, params={"largest": True, **query}).json()["faces"]
    return dict(face)


def kept(client: TestClient, **query: Any) -> list[str]:
    return [one["id"] for one in client.get("/v1/unknowns", params=query).json()["unknowns"]]


def test_a_stranger_is_kept_once_and_named(client, collins, hopper):
    first = look(client, collins)
    assert first["unknown"] == {"reason": "nobody_enrolled"}
    assert look(client, collins)["unknown_id"] == first["unknown_id"], "the same face is kept once"
    second = look(client, hopper)
    assert kept(client) == [second["unknown_id"], first["unknown_id"]], "the newest first"
    page = client.get("/v1/unknowns", params={"limit": 1}).json()
    assert page["total"] == 2 and kept(client, after=page["next"]) == [first["unknown_id"]]
    crop = client.get(f"/v1/unknowns/{first['unknown_id']}/crop")
    assert crop.headers["content-type"] == "image/png" and crop.content.startswith(b"\x89PNG")
    done = client.post("/v1/unknowns/name", json={"faces": [first["unknown_id"]], "name": "Eileen <i>"}).json()
    assert done["person"]["name"] == "Eileen <i>" and len(done["added"]) == 1 and done["person"]["cover"]
    named = look(client, collins)
    assert named["name"] == "Eileen <i>" and "unknown_id" not in named
    assert kept(client) == [second["unknown_id"]]
    again = client.post("/v1/unknowns/name", json={"faces": [second["unknown_id"]], "person": done["person"]["id"]})
    assert again.json()["person"]["n_photos"] == 2 and kept(client) == []
    assert [one["kind"] for one in client.get("/v1/log").json()["changes"]] == ["enroll", "enroll"]
    crops = [photo["has_crop"] for photo in client.get(f"/v1/people/{done['person']['id']}").json()["photos"]]
    assert crops == [True, True]


def test_an_ignored_person_stays_ignored(client, collins):
    face = look(client, collins)["unknown_id"]
    assert client.post("/v1/unknowns/ignore", json={"faces": [face]}).json() == {"ignored": 1}
    assert kept(client) == [] and kept(client, ignored=True) == [face]
    reply = look(client, collins)
    assert reply["unknown"] == {"reason": "ignored"} and "unknown_id" not in reply
    assert client.get(f"/v1/unknowns/{face}/crop", params={"ignored": True}).status_code == 200
    assert client.get("/v1/collections/default").json()["n_ignored"] == 1
    assert client.delete(f"/v1/unknowns/{face}", params={"ignored": True}).status_code == 204
    assert look(client, collins)["unknown"] == {"reason": "nobody_enrolled"}


def test_faces_like_those_of_a_photo(client, collins, hopper):
    assert client.post("/v1/unknowns/search", content=collins, headers=PNG).json()["faces"][0]["matches"] == []
    face = look(client, collins)["unknown_id"]
    look(client, hopper)
    (found,) = client.post("/v1/unknowns/search", content=collins, headers=PNG).json()["faces"]
    assert [one["unknown_id"] for one in found["matches"]] == [face]
    assert found["matches"][0]["similarity"] >= found["matches"][0]["threshold"]
    refused(client.post("/v1/unknowns/search", content=b"x", headers=PNG), 422, "unreadable_image")
    refused(client.post("/v1/unknowns/search"), 415, "unsupported_media_type")
    curl = client.post(
        "/v1/unknowns/search", content=b"x", headers={"content-type": "application/x-www-form-urlencoded"}
    )
    refused(curl, 415, "unsupported_media_type")
    assert "-H 'Content-Type: image/jpeg'" in curl.json()["detail"]


def test_a_cluster_with_a_suggestion(client, collins_file, hopper):
    """Three photos of Collins are one cluster. She is suggested for it after another photo of her is enrolled."""
    picture = np.asarray(Image.open(collins_file).convert("RGB"))
    changed = [np.clip(picture * part, 0, 255).astype(np.uint8) for part in (0.7, 0.85, 1.0)]
    ids = [look(client, encoded(one))["unknown_id"] for one in changed]
    loose = look(client, hopper)["unknown_id"]
    reply = client.get("/v1/unknowns/clusters").json()
    (cluster,) = reply["clusters"]
    assert (
        set(cluster["faces"]) == set(ids) and cluster["n"] == 3 and cluster["cover"] in ids and cluster["id"] == ids[0]
    )
    assert reply["loose"] == [loose] and cluster["suggestions"] == []
    mirror = encoded(picture[:, ::-1])
    made = client.post("/v1/people", data={"name": "Eileen"}, files=[("photo", ("m.png", mirror))]).json()
    (cluster,) = client.get("/v1/unknowns/clusters").json()["clusters"]
    (suggestion,) = cluster["suggestions"]
    assert suggestion["person"]["id"] == made["id"] and suggestion["likeness"] == "very likely"
    assert suggestion["similarity"] >= suggestion["threshold"]
    named = client.post("/v1/unknowns/name", json={"faces": cluster["faces"], "person": made["id"]}).json()
    assert named["person"]["n_photos"] == 4 and len(named["added"]) == 3
    assert client.get("/v1/unknowns/clusters").json() == {"clusters": [], "loose": [loose]}


def encoded(pixels: np.ndarray) -> bytes:
    from facespace.io.png import encode_png

    return encode_png(np.ascontiguousarray(pixels))


def test_nothing_is_kept_if_keeping_is_off(tmp_path, collins):
    with running_service(tmp_path, unknowns_days=None) as client:
        assert "unknown_id" not in look(client, collins)
        assert kept(client) == [] and client.get("/v1/unknowns/clusters").json() == {"clusters": [], "loose": []}
        assert service_behind(client).galleries.get().store.collections() == ["default"]
    with running_service(tmp_path) as client:
        assert "unknown_id" not in look(client, collins, keep_unknown=False)
        assert kept(client) == []
        assert "unknown_id" in look(client, collins)


def test_an_enrolled_photo_is_no_longer_an_unnamed_face(client, collins):
    look(client, collins)
    assert len(kept(client)) == 1
    client.post("/v1/enroll", data={"name": "Eileen"}, files=[("photo", ("a.png", collins))])
    assert kept(client) == []


def test_a_rejected_face_cannot_get_the_name_again(client, collins, hopper):
    files = [("photo", ("a.png", collins)), ("photo", ("b.png", hopper))]
    made = client.post("/v1/enroll", data={"name": "Eileen"}, files=files).json()
    wrong = made["added"][1]["photo_id"]
    client.post(f"/v1/people/{made['person']['id']}/reject", json={"photos": [wrong]}, headers={"if-match": "*"})
    face = look(client, hopper)["unknown_id"]
    reply = client.post("/v1/unknowns/name", json={"faces": [face], "name": "Eileen"}).json()
    assert [one["code"] for one in reply["rejected"]] == ["other_person"] and reply["added"] == []
    assert kept(client) == [face], "it still waits for a name"


def test_ids_and_bodies_that_are_wrong(client, collins):
    face = look(client, collins)["unknown_id"]
    for wrong in (NOBODY, "x", "' OR 1=1", "..", face.upper() + "x", face + "0" * 5, "\0", "%"):
        for path, body in (("name", {"name": "X"}), ("ignore", {})):
            sent = client.post(f"/v1/unknowns/{path}", json={"faces": [face, wrong], **body})
            refused(sent, 404, "not_found")
    refused(client.get(f"/v1/unknowns/{NOBODY}/crop"), 404, "not_found")
    refused(client.delete(f"/v1/unknowns/{NOBODY}"), 404, "not_found")
    for body in ({}, {"faces": []}, {"faces": [face]}, {"faces": [face], "name": "X", "person": "1"},
                 {"faces": [face], "name": "  "}, {"faces": [face] * 1001, "name": "X"}, {"faces": ["x" * 41], "name": "X"},
                 {"faces": [face], "name": "x" * 300}):  # fmt: skip
        refused(client.post("/v1/unknowns/name", json=body), 422, "invalid")
    refused(client.post("/v1/unknowns/name", json={"faces": [face], "person": "99"}), 404, "no_such_person")
    assert kept(client) == [face] and names(client) == []
    refused(client.get("/v1/unknowns", params={"after": "\0"}), 422, "invalid")
    assert client.delete(f"/v1/unknowns/{face}").status_code == 204 and kept(client) == []


def test_another_service_on_the_gallery_sees_them(client, collins, tmp_path):
    (tmp_path / "other").mkdir()
    with running_service(tmp_path / "other", gallery=str(tmp_path / "people.gallery"), workers=2) as other:
        face = look(client, collins)["unknown_id"]
        named = other.post("/v1/unknowns/name", json={"faces": [face], "name": "Eileen"})
        assert named.json()["person"]["name"] == "Eileen"
        assert look(client, collins)["name"] == "Eileen"
