"""Photos over HTTP: added or rejected with a reason, shown as crops, removed."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from starlette.testclient import TestClient

from support.served_people import PNG, add_drawn, names, photos_of, refused, seen
from support.service import running_service, service_behind


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr("facespace.faces.quality.LOW_QUALITY", 0.45)  # the blurred photo has 0.43
    with running_service(tmp_path) as client:
        yield client


@pytest.fixture(scope="module")
def photos(hopper_file: Path, collins_file: Path, cat_file: Path) -> dict[str, bytes]:
    """Hopper, Hopper mirrored, Collins, both side by side, a cat, and a file that is not an image."""
    hopper, collins = Image.open(hopper_file).convert("RGB"), Image.open(collins_file).convert("RGB")
    both = Image.new("RGB", (1024, 512))
    both.paste(hopper.resize((437, 512)), (0, 0))
    both.paste(collins, (512, 0))
    small = collins.filter(ImageFilter.GaussianBlur(8))
    return {
        "hopper": hopper_file.read_bytes(),
        "mirror": encoded(hopper.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        "collins": collins_file.read_bytes(),
        "both": encoded(both),
        "blurred": encoded(small),
        "cat": cat_file.read_bytes(),
        "text": b"no image",
        "empty": b"",
    }


def encoded(picture: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", **options)
    return stream.getvalue()


def files(photos: dict[str, bytes], *which: str) -> list[tuple[str, tuple[str, bytes]]]:
    return [("photo", (f"{one}.png", photos[one])) for one in which]


def codes(answer: Any) -> dict[str, str]:
    assert answer.status_code in (200, 201), answer.text
    return {one["filename"]: one["code"] for one in answer.json()["rejected"]}


def test_each_photo_is_added_or_has_its_reason(client, photos):
    """Two of the photos are added. Each of the others has a code, and the request succeeds."""
    data = {"name": "Grace <b>", "external_id": "g-1", "metadata": json.dumps({"team": ["navy"]})}
    sent = files(photos, "text", "hopper", "hopper", "cat", "mirror", "empty", "blurred")
    made = client.post("/v1/people", data=data, files=sent)
    assert made.status_code == 201
    reply = made.json()
    assert codes(made) == {
        "text.png": "unreadable_image", "hopper.png": "already_known", "cat.png": "no_face", "empty.png": "unreadable_image",
        "blurred.png": "poor_quality",
    }  # fmt: skip
    assert [(one["index"], one["filename"]) for one in reply["added_photos"]] == [(1, "hopper.png"), (4, "mirror.png")]
    assert [one["index"] for one in reply["rejected"]] == [0, 2, 3, 5, 6]
    assert made.headers["location"] == f"/v1/people/{reply['id']}" and made.headers["etag"] == f'"{reply["etag"]}"'
    there = client.get(made.headers["location"]).json()
    assert (there["name"], there["external_id"], there["metadata"]) == ("Grace <b>", "g-1", {"team": ["navy"]})
    assert [photo["id"] for photo in there["photos"]] == [one["photo_id"] for one in reply["added_photos"]]
    found = client.post("/v1/identify", content=photos["hopper"], headers=PNG).json()["faces"][0]
    assert (found["name"], found["person"]["id"]) == ("Grace <b>", reply["id"])


def test_a_name_that_is_taken(client, photos):
    first = client.post("/v1/people", data={"name": "Grace", "external_id": "g"}, files=files(photos, "hopper")).json()
    for data in ({"name": " Grace "}, {"name": "Eileen", "external_id": "g"}):
        reply = refused(client.post("/v1/people", data=data, files=files(photos, "collins")), 409, "name_taken")
        assert reply["other"] == first["id"]
    again = client.post("/v1/enroll", data={"name": "Grace"}, files=files(photos, "mirror")).json()
    assert again["person"]["id"] == first["id"] and again["person"]["n_photos"] == 2
    assert names(client) == ["Grace"]


def test_a_person_needs_a_photo_that_can_be_enrolled(client, photos):
    reply = refused(
        client.post("/v1/people", data={"name": "Cat"}, files=files(photos, "cat", "text")), 422, "photo_needed"
    )
    assert [one["code"] for one in reply["rejected"]] == ["no_face", "unreadable_image"]
    done = client.post("/v1/enroll", data={"name": "Cat"}, files=files(photos, "cat"))
    assert codes(done) == {"cat.png": "no_face"} and done.json()["person"] is None
    assert names(client) == []


def test_photos_of_another_person_and_of_several(client, photos):
    """A photo that resembles another person more is not added, unless the client accepts it."""
    grace = client.post("/v1/people", data={"name": "Grace"}, files=files(photos, "hopper")).json()
    data = {"name": "Somebody"}
    assert codes(client.post("/v1/enroll", data=data, files=files(photos, "hopper", "mirror", "both"))) == {
        "hopper.png": "other_person", "mirror.png": "other_person", "both.png": "several_faces",
    }  # fmt: skip
    added = client.post(f"/v1/people/{grace['id']}/photos", files=files(photos, "both"))
    (one,) = added.json()["added"]
    assert [warned["code"] for warned in one["warnings"]] == ["of_several"] and one["box"][0] < 400
    accepted = client.post("/v1/enroll?accept=other_person", data=data, files=files(photos, "mirror")).json()
    assert [one["code"] for one in accepted["added"][0]["warnings"]] == ["resembles_other"]
    refused(client.post("/v1/enroll?accept=anything", data=data, files=files(photos, "mirror")), 422, "invalid")
    poor = client.post("/v1/enroll?accept=poor_quality", data={"name": "Eileen"}, files=files(photos, "blurred")).json()
    assert [one["code"] for one in poor["added"][0]["warnings"]] == ["low_quality"]
    largest = client.post("/v1/enroll?largest=true", data={"name": "Other"}, files=files(photos, "both")).json()
    assert len(largest["added"]) + len(largest["rejected"]) == 1


def test_a_rejected_photo_never_comes_back(client, photos):
    grace = client.post("/v1/people", data={"name": "Grace"}, files=files(photos, "hopper", "mirror")).json()
    wrong = photos_of(client, grace["id"])[1]
    client.post(f"/v1/people/{grace['id']}/reject", json={"photos": [wrong]}, headers=seen(client, grace["id"]))
    again = client.post(f"/v1/people/{grace['id']}/photos", files=files(photos, "mirror"))
    assert codes(again) == {"mirror.png": "other_person"} and again.json()["person"]["n_photos"] == 1


def test_photos_of_a_person_by_id(client, photos):
    grace = client.post("/v1/people", data={"name": "Grace"}, files=files(photos, "hopper")).json()
    path = f"/v1/people/{grace['id']}/photos"
    raw = client.post(path, content=photos["mirror"], headers=PNG).json()
    assert len(raw["added"]) == 1 and raw["person"]["n_photos"] == 2
    assert [photo["metadata"] for photo in client.get(path).json()["photos"]] == [{}, {}]
    first = client.get(path, params={"limit": 1}).json()
    assert first["total"] == 2 and len(client.get(path, params={"after": first["next"]}).json()["photos"]) == 1
    refused(client.post("/v1/people/999/photos", files=files(photos, "hopper")), 404, "no_such_person")
    refused(client.post(path), 415, "unsupported_media_type")
    refused(client.post(path, content=b"", headers=PNG), 422, "photo_needed")
    for metadata in ("[1]", "{", "x" * 100_000, '{"a": ' + "[" * 30_000, '{"a": "' + "x" * 20_000 + '"}', '{"a": NaN}'):
        sent = client.post(path, data={"metadata": metadata}, files=files(photos, "hopper"))
        assert len(refused(sent, 422, "invalid")["detail"]) < 400
    data = {"metadata": json.dumps({"door": "<img src=x onerror=alert(1)>"})}
    client.post(f"{path}?accept=other_person&largest=true", data=data, files=files(photos, "collins"))
    assert client.get(path).json()["photos"][-1]["metadata"] == {"door": "<img src=x onerror=alert(1)>"}


def test_invalid_names_in_forms(client, photos):
    for name in ("", "  ", "x" * 201, "x" * 2**20, "\0" * 100):
        sent = client.post("/v1/enroll", data={"name": name}, files=files(photos, "hopper"))
        assert sent.status_code in (413, 422) and len(sent.content) < 1000
    refused(client.post("/v1/enroll", files=files(photos, "hopper")), 422, "invalid")
    twice = [*files(photos, "hopper"), ("name", (None, b"A")), ("name", (None, b"B"))]
    refused(client.post("/v1/enroll", files=twice), 422, "invalid")
    refused(
        client.post("/v1/enroll", data={"name": "A"}, files=[("other", ("a.png", photos["hopper"]))]),
        422,
        "photo_needed",
    )
    for name in ("../../etc/passwd", "'; DROP TABLE person; --", "a\0b", "\u202eabc"):
        done = client.post("/v1/enroll?accept=other_person", data={"name": name}, files=files(photos, "hopper")).json()
        assert done["person"]["n_photos"] == 1
    assert len(names(client)) == 4 and "a\\x00b" in names(client)
    evil = [("photo", ("../../../etc/passwd\u202e<script>", photos["mirror"]))]
    done = client.post("/v1/enroll?accept=other_person", data={"name": "a\0b"}, files=evil).json()
    assert len(done["added"]) == 1 and done["added"][0]["filename"].endswith("<script>")


def test_a_box_drawn_by_hand(client, photos):
    """The cat has no face for the detector; in Collins' photo the box chooses one of two."""
    path = "/v1/enroll"
    cat = client.post(path, data={"name": "Cat", "box": "130,50,250,190"}, files=files(photos, "cat")).json()
    (one,) = cat["added"]
    assert one["warnings"][0]["code"] in ("assumed_landmarks", "drawn_box") and one["box"][0] >= 100
    both = client.post(path, data={"name": "Eileen", "box": "690,62,780,176"}, files=files(photos, "both")).json()
    (one,) = both["added"]
    assert [warned["code"] for warned in one["warnings"]] == ["drawn_box"]
    assert client.post("/v1/identify", content=photos["collins"], headers=PNG).json()["faces"][0]["name"] == "Eileen"
    for box in (
        "",
        "1,2,3",
        "1,2,3,x",
        "nan,0,10,10",
        "0,0,inf,10",
        "5,5,5,5",
        "10,10,5,5",
        "900,900,950,950",
        "1," * 10_000,
    ):
        refused(client.post(path, data={"name": "X", "box": box}, files=files(photos, "cat")), 422, "invalid")
    data = {"name": "X", "box": "1,1,50,50"}
    refused(client.post(path, data=data, files=files(photos, "cat", "hopper")), 422, "invalid")
    assert codes(client.post(path, data=data, files=files(photos, "text"))) == {"text.png": "unreadable_image"}


def test_a_crop_is_a_png(client, photos):
    grace = client.post("/v1/people", data={"name": "Grace"}, files=files(photos, "hopper")).json()
    path = f"/v1/people/{grace['id']}/photos/{grace['cover']}/crop"
    crop = client.get(path)
    assert crop.headers["content-type"] == "image/png"
    assert np.asarray(Image.open(io.BytesIO(crop.content))).shape == (112, 112, 3)
    assert client.get(path, headers={"if-none-match": crop.headers["etag"]}).status_code == 304
    for wrong in ("0", "x", "99", "9" * 30, "1.png", "%2e%2e"):
        assert client.get(f"/v1/people/{grace['id']}/photos/{wrong}/crop").status_code == 404
    ids = add_drawn(client, {"Ada": [1]})
    store = service_behind(client).galleries.get().store
    gallery_photo = store.photos(int(ids["Ada"]))[0].id
    refused(client.get(f"/v1/people/{grace['id']}/photos/{gallery_photo}/crop"), 404, "no_such_photo")


def test_a_photo_is_removed(client):
    ids = add_drawn(client, {"Ada": [1, 2]})
    first, second = photos_of(client, ids["Ada"])
    path = f"/v1/people/{ids['Ada']}/photos"
    old = seen(client, ids["Ada"])
    gone = client.delete(f"{path}/{first}", headers=old).json()
    assert gone["person"]["n_photos"] == 1
    refused(client.delete(f"{path}/{second}", headers=old), 412, "stale")
    refused(client.delete(f"{path}/{first}"), 404, "no_such_photo")
    assert client.delete(f"{path}/{second}").json()["person"] is None
    assert names(client) == []
    client.post("/v1/undo")
    assert names(client) == ["Ada"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX alone")
def test_photos_are_not_reported_as_added_if_the_store_cannot_write(client, photos, monkeypatch):
    """A full disk gives 503 and adds nothing. When there is space again, requests succeed."""
    from facespace.identification.stores import sqlite

    store = service_behind(client).galleries.get().store
    real = type(store).add
    full = True

    def add(self: Any, *arguments: Any) -> bool:
        if full:
            raise sqlite.GalleryError(f"{self.name}: cannot be written (database or disk is full)")
        return real(self, *arguments)

    monkeypatch.setattr(type(store), "add", add)
    sent = files(photos, "hopper")
    answer = client.post("/v1/enroll", data={"name": "Grace"}, files=sent)
    refused(answer, 503, "store_unavailable")
    assert answer.headers["retry-after"] and names(client) == []
    full = False
    assert len(client.post("/v1/enroll", data={"name": "Grace"}, files=sent).json()["added"]) == 1
    assert names(client) == ["Grace"]


def test_the_same_request_again_adds_nothing_twice(client, photos):
    """With an Idempotency-Key the first answer is repeated. Without it, the photos are already known."""
    headers = {"Idempotency-Key": "one"}
    first = client.post("/v1/people", data={"name": "Grace"}, files=files(photos, "hopper"), headers=headers)
    again = client.post("/v1/people", data={"name": "Grace"}, files=files(photos, "hopper"), headers=headers)
    assert first.status_code == again.status_code == 201 and again.json() == first.json()
    assert again.headers["location"] == first.headers["location"] and again.headers["etag"] == first.headers["etag"]
    path = f"/v1/people/{first.json()['id']}/photos"
    assert codes(client.post(path, files=files(photos, "hopper"))) == {"hopper.png": "already_known"}
    assert len(client.get("/v1/log").json()["changes"]) == 1
