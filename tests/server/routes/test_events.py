"""Events over HTTP: streamed, resumed, filtered, and as a list."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from facespace.server.routes import events as routes
from facespace.server.service import Service
from support.live_service import live_service
from support.waiting import wait_until

ANNA = {"id": "7", "name": "Anna\u2028<script>", "external_id": None}


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[httpx.Client, Service]]:
    with live_service(tmp_path) as found:
        yield found


@pytest.fixture
def client(live: tuple[httpx.Client, Service]) -> httpx.Client:
    return live[0]


@pytest.fixture
def service(live: tuple[httpx.Client, Service]) -> Service:
    return live[1]


def emit(service: Service, kind: str = "enrolled", collection: str = "default", n: int = 1) -> None:
    for _ in range(n):
        service.events.emit(kind, collection, {"person": ANNA, "actor": "key 1"})


class Stream:
    """An open stream, with its events and comments as they come."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.comments: list[str] = []
        self._lines = answer.iter_lines()

    def __iter__(self) -> Iterator[dict[str, str]]:
        event: dict[str, str] = {}
        for line in self._lines:
            if line.startswith(":"):
                self.comments.append(line)
            elif line:
                name, _, value = line.partition(": ")
                event[name] = value
            elif "data" in event:
                yield event
                event = {}
            else:
                event = {}

    def take(self, n: int) -> list[dict[str, str]]:
        return list(itertools.islice(self, n))


@contextlib.contextmanager
def stream(client: httpx.Client, headers: dict[str, str] | None = None, **params: Any) -> Iterator[Stream]:
    with client.stream("GET", "/v1/events", params=params, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        yield Stream(answer)


def test_events_come_as_they_happen(client: httpx.Client, service: Service) -> None:
    emit(service)  # before there is a listener
    with stream(client) as listening:
        assert listening.answer.headers["content-type"].startswith("text/event-stream")
        assert listening.answer.headers["cache-control"] == "no-store"
        wait_until(lambda: service.events._listeners)
        emit(service, "known")
        emit(service, "removed")
        first, second = sorted(listening.take(2), key=lambda event: event["event"])
        assert listening.comments == []  # they did not wait for the heartbeat
    assert (first["event"], second["event"]) == ("known", "removed")
    found = json.loads(second["data"])
    assert found["id"] == second["id"]
    assert found["person"] == ANNA
    assert "\u2028" not in second["data"] and found["actor"] == "key 1"
    wait_until(lambda: not service.events._listeners)


def test_a_stream_begins_after_all_events_in_the_file(
    client: httpx.Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr(service.events, "_take_new", lambda: None)  # this worker is slow to read the event
        emit(service, "enrolled")
        with stream(client) as listening:
            context.undo()
            emit(service, "removed")
            assert listening.take(1)[0]["event"] == "removed"


def test_a_client_that_comes_back_misses_nothing(client: httpx.Client, service: Service) -> None:
    begin = service.events.newest()
    emit(service, n=3)
    wait_until(lambda: service.events.newest() == begin + 3)
    with stream(client, {"Last-Event-ID": str(begin + 1)}) as listening:
        assert [event["id"] for event in listening.take(2)] == [str(begin + 2), str(begin + 3)]
    with stream(client, after=str(begin), wait=0) as listening:
        assert len(listening.take(100)) == 3
    service.state.set("nothing", 1)
    with service.state.transaction() as connection:
        connection.execute("INSERT INTO event_mark VALUES ('pruned', ?)", (begin + 2,))
    with stream(client, {"Last-Event-ID": str(begin + 1)}, wait=0) as listening:
        assert listening.take(1)[0]["event"] == "missed"


def test_a_stream_ends_after_its_time(client: httpx.Client) -> None:
    begun = time.monotonic()
    with stream(client, wait=0.3) as listening:
        assert listening.take(1) == []
    assert 0.25 < time.monotonic() - begun < 5


def test_only_what_was_asked_for(client: httpx.Client, service: Service) -> None:
    begin = service.events.newest()
    emit(service, "enrolled")
    emit(service, "removed", "staff")
    emit(service, "changed")
    wait_until(lambda: service.events.newest() == begin + 3)

    def kinds(**params: str) -> list[str]:
        with stream(client, after=str(begin), wait=0, **params) as listening:
            return [event["event"] for event in listening]

    assert kinds() == ["enrolled", "removed", "changed"]
    assert kinds(kinds="changed, enrolled") == ["enrolled", "changed"]
    assert kinds(collection="staff") == ["removed"]
    assert kinds(collection="staff", kinds="known") == []


@pytest.mark.parametrize(
    ("params", "headers"),
    [
        ({"kinds": "seen"}, {}),
        ({"after": "x"}, {}),
        ({"after": "1" * 30}, {}),
        ({"wait": "-1"}, {}),
        ({}, {"Last-Event-ID": "nonsense"}),
        ({}, {"Last-Event-ID": "9" * 30}),
    ],
)
def test_what_is_not_valid(client: httpx.Client, params: dict[str, str], headers: dict[str, str]) -> None:
    answer = client.get("/v1/events", params=params, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid"


def test_a_comment_keeps_the_connection_open(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_HEARTBEAT", 0.1)
    with stream(client, wait=0.55) as listening:
        listening.take(1)
    assert 2 <= len(listening.comments) <= 6


def test_many_listeners_get_every_event(client: httpx.Client, service: Service) -> None:
    """One of them does not read for a while, but misses no event."""
    n_listeners, n_events = 30, 300
    begin = service.events.newest()
    found: list[list[str]] = []

    def listen() -> None:
        with httpx.Client(base_url=client.base_url, timeout=30, trust_env=False) as own, stream(own) as listening:
            found.append([event["id"] for event in listening.take(n_events)])

    threads = [threading.Thread(target=listen) for _ in range(n_listeners)]
    with stream(client) as slow:
        for thread in threads:
            thread.start()
        wait_until(lambda: len(service.events._listeners) == n_listeners + 1)
        emit(service, n=n_events)
        for thread in threads:
            thread.join(30)
        expected = [str(begin + 1 + k) for k in range(n_events)]
        assert found == [expected] * n_listeners
        assert [event["id"] for event in slow.take(n_events)] == expected


def test_streams_end_when_the_service_does(client: httpx.Client, service: Service) -> None:
    with stream(client) as listening:
        wait_until(lambda: service.events._listeners)
        service.events.end_streams()
        assert listening.take(1) == []
    answer = client.get("/v1/events")
    assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")


def test_a_key_sees_only_its_own_collection(client: httpx.Client, service: Service) -> None:
    key = service.keys.create("read", collection="staff").text
    begin = service.events.newest()
    emit(service, "enrolled")
    emit(service, "removed", "staff")
    wait_until(lambda: service.events.newest() == begin + 2)
    headers = {"Authorization": f"Bearer {key}"}
    with stream(client, headers, after=str(begin), wait=0) as listening:
        assert [event["event"] for event in listening.take(9)] == ["removed"]
    listed = client.get("/v1/events/list", params={"after": str(begin)}, headers=headers).json()
    assert [event["collection"] for event in listed["events"]] == ["staff"]
    for path in ("/v1/events", "/v1/events/list"):
        answer = client.get(path, params={"collection": "default"}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "other_collection")
        answer = client.get(path)
        assert answer.status_code == 401
        identify = service.keys.create("identify").text
        answer = client.get(path, headers={"Authorization": f"Bearer {identify}"})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_a_stream_ends_when_its_key_is_revoked(
    client: httpx.Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_CHECK", 0.1)
    new = service.keys.create("read")
    with stream(client, {"Authorization": f"Bearer {new.text}"}) as listening:
        wait_until(lambda: service.events._listeners)
        service.keys.revoke(new.id)
        assert listening.take(1) == []


def test_the_list(client: httpx.Client, service: Service) -> None:
    begin = service.events.newest()
    emit(service, n=3)
    wait_until(lambda: service.events.newest() == begin + 3)
    first = client.get("/v1/events/list", params={"after": str(begin), "limit": 2}).json()
    assert [event["id"] for event in first["events"]] == [str(begin + 1), str(begin + 2)]
    assert routes.EventList.model_validate(first).next == str(begin + 2)
    second = client.get("/v1/events/list", params={"after": first["next"], "limit": 2}).json()
    assert [event["id"] for event in second["events"]] == [str(begin + 3)]
    assert client.get("/v1/events/list", params={"after": second["next"]}).json() == {
        "events": [],
        "next": second["next"],
    }
    emit(service, "known")  # a request for the list counts as a listener
    wait_until(lambda: client.get("/v1/events/list", params={"after": second["next"]}).json()["events"])
