"""Requests that are refused before any work is done for them."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from facespace.server import admission
from facespace.server.admission import Admission
from facespace.server.problems import Problem
from facespace.server.settings import Settings
from support.service import running_service, service_behind

PHOTO = [(b"content-type", b"image/jpeg")]


class Exchange:
    """One request to an application behind `Admission`, and its answer."""

    def __init__(self, app: Any, parts: list[bytes], *, length: int | None = None, pause: float = 0, **settings: Any):
        self.parts, self.pause = list(parts), pause
        self.sent: list[dict[str, Any]] = []
        self.n_read = 0
        headers = [*PHOTO, (b"content-length", str(length).encode()) if length else (b"transfer-encoding", b"chunked")]
        self.scope = {"type": "http", "method": "POST", "path": "/v1/detect", "headers": headers}
        service = SimpleNamespace(is_closing=False, engine=SimpleNamespace(check_queue=lambda n: None))
        self.layer = Admission(app, Settings("x", **settings), lambda: service)

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(self.pause if self.n_read else 0)
        self.n_read += 1
        if not self.parts:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": self.parts.pop(0), "more_body": bool(self.parts)}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def run(self) -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
        asyncio.run(asyncio.wait_for(self.layer(self.scope, self.receive, self.send), 20))
        body = b"".join(message.get("body", b"") for message in self.sent[1:])
        return self.sent[0]["status"], dict(self.sent[0]["headers"]), json.loads(body) if body else {}


async def reads_all(scope: Any, receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps({"size": size}).encode()})


async def takes_long(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["more_body"]:
        pass
    await asyncio.sleep(3600)


async def never_called(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the request should have been refused")


def test_a_request_passes():
    assert Exchange(reads_all, [b"ab", b"c"], length=3).run()[::2] == (200, {"size": 3})


def test_a_content_length_beyond_the_limit_is_refused_unread(monkeypatch):
    monkeypatch.setattr(admission, "_DRAIN_SECONDS", 0.01)
    asked = Exchange(never_called, [], length=10**6, max_body=1000)
    status, headers, problem = asked.run()
    assert (status, problem["code"], headers[b"connection"]) == (413, "too_large", b"close")
    assert asked.sent[-1] == {"type": "http.response.body", "body": b""}


def test_a_chunked_body_is_counted(tmp_path):
    def endless() -> Any:
        for _ in range(1000):
            yield b"x" * 1000

    with running_service(tmp_path, max_body=5000) as client:
        answer = client.post("/v1/detect", content=endless(), headers={"content-type": "image/jpeg"})
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[" * 500_000, 400, "malformed"),
        (b'{"name":' * 100_000, 400, "malformed"),
        (b'{"role": ' + b"9" * 50_000 + b"}", 400, "malformed"),
        (b"[" + b"0," * 600_000 + b"0]", 413, "too_large"),
        (b"\xff\xfe", 400, "malformed"),
    ],
    ids=range(5),
)
def test_json_bombs(tmp_path, body, status, code):
    with running_service(tmp_path) as client:
        answer = client.post("/v1/keys", content=body, headers={"content-type": "application/json"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_slow_body_is_cut():
    status, headers, problem = Exchange(
        reads_all, [b"a"] * 100, length=100, pause=0.3, header_seconds=0.05, max_body=1000
    ).run()
    assert (status, problem["code"], headers[b"connection"]) == (408, "timeout", b"close")


def test_a_body_that_trickles_is_cut_by_the_time_of_the_request():
    begun = time.monotonic()
    asked = Exchange(reads_all, [b"a"] * 1000, length=1000, pause=0.02, header_seconds=5, request_seconds=0.2)
    status, _, problem = asked.run()
    assert (status, problem["code"]) == (408, "timeout")
    assert time.monotonic() - begun < 5


def test_work_that_takes_too_long_is_answered_as_busy():
    status, headers, problem = Exchange(takes_long, [b"abc"], length=3, request_seconds=0.1).run()
    assert (status, problem["code"], headers[b"retry-after"]) == (503, "busy", b"5")


def test_an_event_stream_may_take_longer():
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await asyncio.sleep(0.3)
        await send({"type": "http.response.body", "body": b"{}"})

    assert Exchange(stream, [b"abc"], length=3, request_seconds=0.1).run()[::2] == (200, {})


def test_bodies_together_are_bounded(monkeypatch):
    monkeypatch.setattr(admission, "MAX_HELD_BODIES", 1000)
    layer = Admission(reads_all, Settings("x", max_body=500), lambda: None)
    layer.hold(900)
    with pytest.raises(Problem) as refused:
        layer.hold(200)
    assert (refused.value.status, refused.value.code) == (503, "busy")
    assert Exchange(reads_all, [b"abc"], length=3).run()[0] == 200
    asked = Exchange(reads_all, [b"abc"], length=3)
    asked.run()
    asked.layer.hold(1000)  # the bytes that the request held were released


def test_a_full_queue_refuses_at_once(tmp_path, hopper_file):
    with running_service(tmp_path, queue=4) as client:
        service = service_behind(client)
        service.engine.waiting = 4
        begun = time.monotonic()
        answer = client.post("/v1/identify", content=hopper_file.read_bytes(), headers={"content-type": "image/jpeg"})
        assert time.monotonic() - begun < 0.5
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "busy", "1")
        assert client.get("/healthz").status_code == 200
        service.engine.waiting = 0
        answer = client.post("/v1/identify", content=hopper_file.read_bytes(), headers={"content-type": "image/jpeg"})
        assert answer.status_code == 200


def test_a_closing_service_refuses(tmp_path):
    with running_service(tmp_path) as client:
        service_behind(client).begin_closing()
        answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
    assert answer.headers["retry-after"]
