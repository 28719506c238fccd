"""Signals end event streams before the server waits for them; real processes of `facespace serve`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from facespace.server.stopping import calling_at_stop
from support.service import served
from support.waiting import wait_until
from support.webhook_server import webhook_server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")


def test_the_function_is_called_before_the_existing_handler() -> None:
    called: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: called.append("handler"))
    try:
        with calling_at_stop(lambda: called.append("function")):
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until(lambda: len(called) == 2)
        assert called == ["function", "handler"]
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: len(called) == 3)
        assert called[2] == "handler", "the earlier handler is restored"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_are_not_affected() -> None:
    before = signal.getsignal(signal.SIGTERM)
    found: list[object] = []

    def run() -> None:
        with calling_at_stop(lambda: None):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert found == [before]


def listen(url: str, n: int, found: list[list[str]], ready: threading.Semaphore) -> None:
    """Collect the kinds of the first `n` events of a stream, and any that follow until it ends."""
    kinds: list[str] = []
    with httpx.Client(timeout=60, trust_env=False) as client, client.stream("GET", f"{url}/v1/events") as answer:
        for line in answer.iter_lines():
            if line.startswith("retry"):
                ready.release()
            if line.startswith("event: "):
                kinds.append(line[7:])
                if len(kinds) == n:
                    found.append(kinds)


def test_streams_of_two_workers(tmp_path: Path, hopper_file: Path, collins_file: Path) -> None:
    """All listeners get each event, from any worker. SIGTERM ends their streams at once."""
    found: list[list[str]] = []
    ready = threading.Semaphore(0)
    with served(tmp_path, "--workers", "2") as service:
        listeners = [threading.Thread(target=listen, args=(service.url, 2, found, ready)) for _ in range(6)]
        for listener in listeners:
            listener.start()
        for _ in listeners:
            assert ready.acquire(timeout=30)
        time.sleep(0.5)  # so that the workers know of each other's listeners
        with service.client() as client:
            photo = {"photo": ("h.jpg", hopper_file.read_bytes(), "image/jpeg")}
            assert client.post("/v1/enroll", data={"name": "Grace"}, files=photo).status_code == 200
            answer = client.post(
                "/v1/identify", content=collins_file.read_bytes(), headers={"content-type": "image/png"}
            )
            assert answer.status_code == 200
        wait_until(lambda: len(found) == len(listeners), seconds=20)
        begun = time.monotonic()
        assert service.end() == 0
        assert time.monotonic() - begun < 10
        for listener in listeners:
            listener.join(10)
    assert found == [["enrolled", "unknown"]] * 6


def test_no_event_of_an_acknowledged_enrolment_is_lost_by_kill_9(
    tmp_path: Path, hopper_file: Path, collins_file: Path
) -> None:
    """The service is killed while a webhook hangs. After the restart, the webhook gets the unacknowledged events."""
    release = threading.Event()
    photos = [(f"p{k}", file) for k, file in enumerate((hopper_file, collins_file))]
    with webhook_server() as target:
        target.answers.append(lambda handler: release.wait(30))
        with served(tmp_path, "--allow-private-webhooks") as service, service.client() as client:
            client.post("/v1/webhooks", json={"url": target.url, "kinds": ["enrolled"]}).raise_for_status()
            for name, file in photos:
                photo = {"photo": (name, file.read_bytes(), "image/jpeg")}
                client.post("/v1/enroll", data={"name": name}, files=photo).raise_for_status()
            wait_until(lambda: target.requests)
            service.kill()
        release.set()
        with served(tmp_path, "--allow-private-webhooks"):
            wait_until(lambda: len({json.loads(body)["id"] for body in target.bodies()}) == 2, seconds=20)
    names = [json.loads(body)["person"]["name"] for body in target.bodies()]
    assert sorted(set(names)) == ["p0", "p1"]
    assert len(names) <= 3, "only interrupted deliveries are sent twice"
