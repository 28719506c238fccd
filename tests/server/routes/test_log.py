"""The log and undo over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from support.served_people import add_drawn, names, refused
from support.service import running_service


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with running_service(tmp_path) as client:
        yield client


def test_changes_are_listed_and_undone(client):
    ids = add_drawn(client, {"Ada": [1], "Bob": [2]})
    client.patch(f"/v1/people/{ids['Ada']}", json={"name": "Ada <b>"}, headers={"if-match": "*"})
    client.delete(f"/v1/people/{ids['Bob']}", headers={"if-match": "*"})
    changes = client.get("/v1/log").json()["changes"]
    assert [one["kind"] for one in changes] == ["remove", "rename", "enroll", "enroll"]
    assert changes[1]["text"] == "Ada is Ada <b>" and all(one["can_be_undone"] for one in changes)
    assert len(client.get("/v1/log", params={"limit": 1}).json()["changes"]) == 1
    undone = client.post("/v1/undo").json()
    assert (undone["number"], undone["undone"], undone["can_be_undone"]) == (changes[0]["number"], True, False)
    assert names(client) == ["Ada <b>", "Bob"]
    assert client.post("/v1/undo", json={"number": changes[1]["number"]}).json()["kind"] == "rename"
    assert names(client) == ["Ada", "Bob"]
    reply = client.get("/v1/log").json()["changes"]
    assert {one["number"]: one["undone"] for one in reply}[changes[0]["number"]]


def test_what_cannot_be_undone(client):
    refused(client.post("/v1/undo"), 409, "undo_refused")
    add_drawn(client, {"Ada": [1]})
    for number in (999, 2**62):
        refused(client.post("/v1/undo", json={"number": number}), 409, "undo_refused")
    for wrong in ({"number": 0}, {"number": 2**63}, {"number": 10**400}, {"number": "x"}, {"nummer": 1}, [1]):
        assert client.post("/v1/undo", json=wrong).status_code in (400, 422)
    for wrong in ("0", "1001", "x"):
        refused(client.get("/v1/log", params={"limit": wrong}), 422, "invalid")
    assert names(client) == ["Ada"]
