"""Events reach a target on loopback: retried, by one worker, and none is lost when that worker is killed."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from facespace.server.delivering import Delivering
from facespace.server.events import Events
from facespace.server.state import State
from facespace.server.webhooks import Webhooks
from support.waiting import wait_until
from support.webhook_server import WebhookServer, webhook_server

ANNA = {"id": "7", "name": "Anna", "external_id": None}


class Worker:
    """The state, events and delivery of one worker."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.state = State(folder)
        self.events = Events(self.state)
        self.webhooks = Webhooks(self.state, self.events, allow_private=True)
        options = {"allow_private": True, "delays": (0.05, 0.05), **options}
        self.delivering = Delivering(self.state, self.events, self.webhooks, **options)

    def emit(self, n: int = 1) -> None:
        for _ in range(n):
            self.events.emit("enrolled", "default", {"person": ANNA})

    def close(self) -> None:
        self.delivering.close()
        self.events.close()
        self.state.close()


@pytest.fixture
def target() -> Iterator[WebhookServer]:
    with webhook_server() as server:
        yield server


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(**options: Any) -> Worker:
        workers.append(Worker(tmp_path / "state", **options))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def ids(target: WebhookServer) -> list[str]:
    return [headers["X-Facespace-Event-Id"] for headers, _ in target.requests]


def test_an_event_arrives_once(start: Callable[..., Worker], target: WebhookServer) -> None:
    worker = start()
    worker.webhooks.create(target.url)
    worker.emit(5)
    wait_until(lambda: not worker.state.rows("SELECT 1 FROM webhook_delivery") and len(target.requests) >= 5)
    found = [json.loads(body) for body in target.bodies()]
    assert [event["person"] for event in found] == [ANNA] * 5
    assert [event["id"] for event in found] == ids(target)
    assert ids(target) == sorted(set(ids(target)))
    assert worker.webhooks.all()[0].delivered is not None


def test_a_delivery_that_fails_is_tried_again(
    start: Callable[..., Worker], target: WebhookServer, caplog: pytest.LogCaptureFixture
) -> None:
    worker = start()
    new = worker.webhooks.create(target.url)
    target.answers += [500, b"nonsense\r\n"]
    with caplog.at_level(logging.WARNING, "facespace.webhooks"):
        worker.emit()
        wait_until(lambda: worker.webhooks.all()[0].delivered)
    assert len(target.requests) == 3 and len(set(ids(target))) == 1
    assert "it answered 500" in caplog.text
    assert new.secret not in caplog.text and "Anna" not in caplog.text


def test_dead_letters_are_sent_again_when_asked(start: Callable[..., Worker], target: WebhookServer) -> None:
    worker = start()
    new = worker.webhooks.create(target.url)
    target.answers += [503] * 3
    worker.emit()
    (letter,) = wait_until(lambda: worker.webhooks.dead(new.id))
    assert len(target.requests) == 3
    worker.webhooks.retry(new.id, letter.number)
    worker.delivering.wake()
    wait_until(lambda: worker.webhooks.all()[0].delivered)
    assert ids(target) == [letter.event["id"]] * 4
    assert worker.webhooks.dead(new.id) == []


def test_a_target_that_hangs_does_not_delay_others(start: Callable[..., Worker], target: WebhookServer) -> None:
    worker = start()
    release = threading.Event()
    with webhook_server() as slow:
        slow.answers += [lambda handler: release.wait(30)] * 2
        worker.webhooks.create(slow.url)
        worker.emit()
        wait_until(lambda: slow.requests)
        worker.webhooks.create(target.url)
        worker.emit(3)
        wait_until(lambda: len(target.requests) == 3)
        assert len(slow.requests) == 1
        release.set()
        wait_until(lambda: not worker.state.rows("SELECT 1 FROM webhook_delivery"))


def test_a_private_target_is_refused_unless_allowed(start: Callable[..., Worker], target: WebhookServer) -> None:
    """This includes a target that was added while it was allowed."""
    worker = start(allow_private=False)
    new = worker.webhooks.create(target.url)
    worker.emit()
    (letter,) = wait_until(lambda: worker.webhooks.dead(new.id))
    assert "not a public address" in letter.error
    assert target.requests == []


def test_one_worker_delivers_and_another_takes_over(start: Callable[..., Worker], target: WebhookServer) -> None:
    first = start()
    wait_until(lambda: first.delivering.delivers)
    second = start()
    second.webhooks.create(target.url)
    second.emit(3)
    wait_until(lambda: len(target.requests) == 3)
    assert not second.delivering.delivers
    first.delivering.close()
    wait_until(lambda: second.delivering.delivers)
    second.emit(2)
    wait_until(lambda: len(target.requests) == 5)
    time.sleep(0.2)
    assert len(target.requests) == 5


CODE = """
import sys, time
from facespace.server.delivering import Delivering
from facespace.server.events import Events
from facespace.server.state import State
from facespace.server.webhooks import Webhooks
state = State(sys.argv[1])
events = Events(state)
webhooks = Webhooks(state, events, allow_private=True)
delivering = Delivering(state, events, webhooks, allow_private=True)
webhooks.create(sys.argv[2])
for k in range(20):
    events.emit("enrolled", "default", {"person": {"id": str(k), "name": "Anna", "external_id": None}})
print("emitted", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_nothing_is_lost_by_kill_9(start: Callable[..., Worker], target: WebhookServer, tmp_path: Path) -> None:
    """A worker killed during a delivery: acknowledged events are sent, and the interrupted ones are sent again."""
    release = threading.Event()
    target.answers += [204, 204, 204, lambda handler: release.wait(30)]
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(tmp_path / "state"), target.url], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "emitted\n"
        wait_until(lambda: len(target.requests) == 4)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
    release.set()
    worker = start()
    wait_until(lambda: worker.delivering.delivers, seconds=5)  # the lock is free at once
    wait_until(lambda: len(set(ids(target))) == 20)
    wait_until(lambda: not worker.state.rows("SELECT 1 FROM webhook_delivery"))
    assert {json.loads(body)["person"]["id"] for body in target.bodies()} == {str(k) for k in range(20)}
    assert 20 < len(target.requests) <= 22, "only interrupted deliveries are sent twice"


def test_a_full_disk_does_not_stop_delivery(
    start: Callable[..., Worker], target: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facespace.server.state import StateError

    worker = start()
    worker.webhooks.create(target.url)
    wait_until(lambda: worker.delivering.delivers)
    spread, failures = worker.webhooks.spread, [StateError("full"), StateError("full")]

    def failing() -> bool:
        if failures:
            raise failures.pop()
        return spread()

    monkeypatch.setattr(worker.webhooks, "spread", failing)
    worker.emit()
    wait_until(lambda: target.requests)
    assert not failures
