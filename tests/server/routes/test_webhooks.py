"""Webhooks over HTTP."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from facespace.server.service import Service
from support.live_service import live_service
from support.waiting import wait_until
from support.webhook_server import WebhookServer, webhook_server

ANNA = {"id": "7", "name": "Anna", "external_id": None}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Service]]:
    with live_service(tmp_path_factory.mktemp("service"), allow_private_webhooks=True) as found:
        yield found


@pytest.fixture
def client(live: tuple[httpx.Client, Service]) -> httpx.Client:
    return live[0]


@pytest.fixture
def service(live: tuple[httpx.Client, Service]) -> Service:
    return live[1]


@pytest.fixture
def target() -> Iterator[WebhookServer]:
    with webhook_server() as server:
        yield server


def create(client: httpx.Client, url: str, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/webhooks", json={"url": url, **fields})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_event_comes_signed(client: httpx.Client, service: Service, target: WebhookServer) -> None:
    made = create(client, target.url, kinds=["enrolled"], label="door")
    service.events.emit("removed", "default", {"person": ANNA})
    service.events.emit("enrolled", "default", {"person": ANNA})
    ((headers, body),) = wait_until(lambda: list(target.requests))
    at, _, given = headers["X-Facespace-Signature"].partition(",")
    signed = f"{at.removeprefix('t=')}.".encode() + body
    assert given == "v1=" + hmac.new(made["secret"].encode(), signed, hashlib.sha256).hexdigest()
    assert json.loads(body)["kind"] == "enrolled"
    there = wait_until(lambda: (one := client.get(f"/v1/webhooks/{made['id']}").json())["delivered"] and one)
    assert "secret" not in there
    assert (there["label"], there["waiting"], there["dead"], there["error"]) == ("door", 0, 0, None)
    listed = client.get("/v1/webhooks")
    assert made["secret"] not in listed.text
    assert there in listed.json()["webhooks"]
    assert client.delete(f"/v1/webhooks/{made['id']}").status_code == 204
    for answer in (client.delete(f"/v1/webhooks/{made['id']}"), client.get(f"/v1/webhooks/{made['id']}")):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_dead_letters(client: httpx.Client, service: Service, target: WebhookServer, monkeypatch: Any) -> None:
    monkeypatch.setattr(service.delivering, "_delays", ())
    target.answers += [500]
    made = create(client, target.url)
    path = f"/v1/webhooks/{made['id']}/dead"
    service.events.emit("enrolled", "default", {"person": ANNA})
    (letter,) = wait_until(lambda: client.get(path).json()["dead"])
    assert (letter["attempts"], letter["error"], letter["event"]["person"]) == (1, "it answered 500", ANNA)
    assert client.get(path, params={"after": letter["number"]}).json() == {"dead": [], "next": None}
    assert client.get(path, params={"limit": 1}).json()["next"] == letter["number"]
    assert client.post(f"{path}/{letter['number']}/retry").status_code == 204
    wait_until(lambda: len(target.requests) == 2)
    assert target.requests[0][1] == target.requests[1][1]
    answer = client.post(f"{path}/{letter['number']}/retry")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert client.get("/v1/webhooks/wh_none/dead").status_code == 404
    client.delete(f"/v1/webhooks/{made['id']}")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"url": "ftp://example.com"}, "body.url"),
        ({"url": "http://224.0.0.1/"}, "body.url"),
        ({"url": "https://example.com/" + "a" * 5000}, "body.url"),
        ({"url": 7}, "body.url"),
        ({}, "body.url"),
        ({"url": "https://example.com", "kinds": ["seen"]}, "body.kinds.0"),
        ({"url": "https://example.com", "secret": "mine"}, "body.secret"),
        ({"url": "https://example.com", "label": "x" * 500}, "body.label"),
    ],
)
def test_what_is_not_valid(client: httpx.Client, body: dict[str, Any], where: str) -> None:
    answer = client.post("/v1/webhooks", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert answer.json()["errors"][0]["where"] == where


def test_private_targets_are_refused_unless_allowed(tmp_path: Path, target: WebhookServer) -> None:
    with live_service(tmp_path) as (client, _):
        for url in (target.url, "http://localhost/", "http://[::ffff:127.0.0.1]/", "http://169.254.169.254/"):
            answer = client.post("/v1/webhooks", json={"url": url})
            assert answer.status_code == 422, url
            assert "refused" in answer.json()["detail"]


def test_keys(tmp_path: Path) -> None:
    """Only admins may use webhooks; an admin of one collection sees only the webhooks of that collection."""
    with live_service(tmp_path) as (client, service):
        url = "https://example.com/"
        admin, staff, enroll = (
            {"Authorization": f"Bearer {service.keys.create(role, collection=collection).text}"}
            for role, collection in (("admin", None), ("admin", "staff"), ("enroll", None))
        )
        assert client.post("/v1/webhooks", json={"url": url}).status_code == 401
        assert client.post("/v1/webhooks", json={"url": url}, headers=enroll).status_code == 403
        all_ = client.post("/v1/webhooks", json={"url": url}, headers=admin).json()
        own = client.post("/v1/webhooks", json={"url": url}, headers=staff).json()
        assert (all_["collection"], own["collection"]) == (None, "staff")
        answer = client.post("/v1/webhooks", json={"url": url, "collection": "default"}, headers=staff)
        assert (answer.status_code, answer.json()["code"]) == (403, "other_collection")
        assert [one["id"] for one in client.get("/v1/webhooks", headers=staff).json()["webhooks"]] == [own["id"]]
        assert len(client.get("/v1/webhooks", headers=admin).json()["webhooks"]) == 2
        assert client.delete(f"/v1/webhooks/{all_['id']}", headers=staff).status_code == 404
        assert client.delete(f"/v1/webhooks/{own['id']}", headers=staff).status_code == 204
