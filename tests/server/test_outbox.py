"""Events that `watch` posts to a webhook without a service."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from facespace.server import outbox as module
from facespace.server.outbox import Outbox
from facespace.server.webhook_targets import TargetRefused
from support.waiting import wait_until
from support.webhook_server import WebhookServer, webhook_server


@pytest.fixture
def target() -> Iterator[WebhookServer]:
    with webhook_server() as server:
        yield server


def test_events_arrive_in_order_and_signed(target: WebhookServer) -> None:
    outbox = Outbox(target.url, secret="shared")
    for k in range(5):
        outbox.post(str(k), f'{{"id":"{k}"}}')
    assert outbox.close() == 0
    assert target.bodies() == [b'{"id":"%d"}' % k for k in range(5)]
    assert all("X-Facespace-Signature" in headers for headers, _ in target.requests)


def test_an_event_is_retried_and_trouble_reported_once(target: WebhookServer) -> None:
    reported: list[str] = []
    target.answers += [500, 500, 302]
    outbox = Outbox(target.url, trouble=reported.append, delays=(0.01,))
    outbox.post("1", "{}")
    outbox.post("2", "{}")
    assert outbox.close() == 0
    assert [headers["X-Facespace-Event-Id"] for headers, _ in target.requests] == ["1", "1", "1", "1", "2"]
    assert [line.partition(": ")[2] for line in reported] == [
        "it answered 500; trying again",
        "it answered 302; redirects are not followed; trying again",
    ]


def test_the_oldest_are_dropped_when_too_many_wait(target: WebhookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_POSTED", 3)
    release, reported = threading.Event(), []
    target.answers.append(lambda handler: release.wait(20))
    outbox = Outbox(target.url, trouble=reported.append, delays=(0.01,))
    outbox.post("0", "{}")
    wait_until(lambda: target.requests)
    for k in range(1, 6):
        outbox.post(str(k), "{}")
    assert outbox.n_waiting == 3
    assert reported and "1 events were dropped" in reported[0]
    release.set()
    wait_until(lambda: not outbox.n_waiting)
    outbox.close()
    assert [headers["X-Facespace-Event-Id"] for headers, _ in target.requests][-3:] == ["3", "4", "5"]


def test_lost_events_are_counted() -> None:
    outbox = Outbox("http://127.0.0.1:9/", delays=(0.01,))
    outbox.post("1", "{}")
    assert outbox.close(0.2) == 1


def test_an_invalid_target() -> None:
    with pytest.raises(TargetRefused, match="must begin with https"):
        Outbox("ftp://example.com")
