"""How a request's photos are enrolled, in addition to the HTTP tests in tests/server/routes/test_photos.py."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from facespace.identification import edits
from facespace.server.bodies import Form
from facespace.server.enrolling import metadata_of
from facespace.server.problems import Problem
from support.served_people import names, refused
from support.service import running_service, service_behind


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with running_service(tmp_path) as client:
        yield client


def test_metadata_of_a_form():
    assert metadata_of(Form()) is None
    assert metadata_of(Form({}, {"metadata": ['{"a": [1]}']})) == {"a": [1]}
    for text in (
        "",
        "[]",
        "1",
        "null",
        "{",
        '{"a":' * 10_000,
        "x" * 70_000,
        '{"a": Infinity}',
        '{"a": "%s"}' % ("é" * 9000),
    ):
        with pytest.raises(Problem) as caught:
            metadata_of(Form({}, {"metadata": [text]}))
        assert caught.value.code == "invalid" and len(str(caught.value.detail)) < 350
    with pytest.raises(Problem, match="once"):
        metadata_of(Form({}, {"metadata": ["{}", "{}"]}))


def test_of_two_requests_for_one_name_one_is_refused(client, hopper_file, collins_file):
    """Both requests pass the first check; the store decides."""
    sent = [hopper_file.read_bytes(), collins_file.read_bytes()]

    def make(data: bytes) -> int:
        answer = client.post("/v1/people", data={"name": "Somebody"}, files=[("photo", ("a", data))])
        return int(answer.status_code)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(make, sent)) == [201, 409]
    (person,) = client.get("/v1/people").json()["people"]
    assert person["n_photos"] == 1


def test_a_person_who_is_renamed_meanwhile_gets_the_photo(client, hopper_file, collins_file, monkeypatch):
    made = client.post("/v1/people", data={"name": "Grace"}, files=[("photo", hopper_file.read_bytes())]).json()
    store = service_behind(client).galleries.get().store
    real, done = type(store).add, []

    def add(self, name, entry, person=None):  # type: ignore[no-untyped-def]
        if not done:
            done.append(edits.rename(self, "Grace", "Grace Hopper"))
        return real(self, name, entry, person)

    monkeypatch.setattr(type(store), "add", add)
    answer = client.post(f"/v1/people/{made['id']}/photos", files=[("photo", collins_file.read_bytes())])
    assert len(answer.json()["added"]) == 1 and answer.json()["person"]["name"] == "Grace Hopper"
    assert names(client) == ["Grace Hopper"]


def test_a_person_who_is_removed_meanwhile_is_not_made_again(client, hopper_file, collins_file, monkeypatch):
    made = client.post("/v1/people", data={"name": "Grace"}, files=[("photo", hopper_file.read_bytes())]).json()
    store = service_behind(client).galleries.get().store
    real, done = type(store).add, []

    def add(self, name, entry, person=None):  # type: ignore[no-untyped-def]
        if not done:
            done.append(edits.remove(self, "Grace"))
        return real(self, name, entry, person)

    monkeypatch.setattr(type(store), "add", add)
    answer = client.post(f"/v1/people/{made['id']}/photos", files=[("photo", collins_file.read_bytes())])
    refused(answer, 404, "no_such_person")
    assert names(client) == []


def test_an_enrolment_is_an_event_and_its_key_is_in_the_log(client, hopper_file):
    data = {"name": "Grace", "metadata": json.dumps({"door": 1})}
    done = client.post("/v1/enroll", data=data, files=[("photo", ("a.jpg", hopper_file.read_bytes()))]).json()
    (photo,) = client.get(f"/v1/people/{done['person']['id']}").json()["photos"]
    assert photo["metadata"] == {"door": 1} and photo["actor"].endswith("over HTTP") and photo["source"] == "a.jpg"
    (event,) = [one for one in client.get("/v1/events/list").json()["events"] if one["kind"] == "enrolled"]
    assert "Grace" in json.dumps(event)


def test_crops_are_kept_by_choice(client, hopper_file):
    service = service_behind(client)
    service.choices.change(service.galleries.get(), {"keep_crops": False})
    done = client.post("/v1/enroll", data={"name": "Grace"}, files=[("photo", hopper_file.read_bytes())]).json()
    (photo,) = client.get(f"/v1/people/{done['person']['id']}").json()["photos"]
    assert photo["has_crop"] is False and done["person"]["cover"] is None
    answer = client.get(f"/v1/people/{done['person']['id']}/photos/{photo['id']}/crop")
    refused(answer, 404, "no_such_photo")
