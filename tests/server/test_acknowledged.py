"""Acknowledged photos are there after the service was killed; the service survives a store that restarts."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import facespace
from facespace.io.png import encode_png
from support.served_people import add_drawn, names, refused
from support.service import Served, running_service, served


def crops(hopper_file: Path, n: int) -> list[bytes]:
    """Return photos of one person, each cropped a little differently."""
    picture = facespace.read(hopper_file)[100:400, 120:420]
    return [encode_png(np.roll(picture, 2 * k, axis=1)) for k in range(n)]


def enroll_until_killed(
    service: Served, name: str, photos: list[bytes], acknowledged: list[str], stop: threading.Event
) -> None:
    with service.client() as client:
        for photo in photos:
            if stop.is_set():
                return
            try:
                answer = client.post(
                    "/v1/enroll?accept=other_person&accept=poor_quality", data={"name": name}, files=[("photo", photo)]
                )
            except httpx.TransportError:
                return
            acknowledged += [one["photo_id"] for one in answer.json().get("added", [])]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path, hopper_file: Path, workers: str) -> None:
    photos = crops(hopper_file, 40)
    acknowledged: list[str] = []
    stop = threading.Event()
    with served(tmp_path, "--workers", workers) as service, concurrent.futures.ThreadPoolExecutor(3) as pool:
        running = [
            pool.submit(enroll_until_killed, service, f"P{k}", photos[k::3], acknowledged, stop) for k in range(3)
        ]
        deadline = time.monotonic() + 60
        while len(acknowledged) < 6 and time.monotonic() < deadline and not all(one.done() for one in running):
            time.sleep(0.01)
        os.killpg(service.process.pid, signal.SIGKILL)  # the workers too
        stop.set()
        for one in running:
            one.result(60)
    assert len(acknowledged) >= 6
    with running_service(tmp_path) as client:
        people = client.get("/v1/people").json()["people"]
        there = {photo["id"] for one in people for photo in client.get(f"/v1/people/{one['id']}").json()["photos"]}
    assert set(acknowledged) <= there


def test_a_store_that_goes_and_comes_back(tmp_path: Path, postgres: Any) -> None:
    """Answers are 503 with Retry-After while the store is away, and all people are there when it is back."""
    with running_service(
        tmp_path, gallery=postgres.gallery(connect_timeout=1), state=str(tmp_path / "state")
    ) as client:
        ids = add_drawn(client, {"Ada": [1, 2], "Bob": [3]})
        postgres.kill()
        answer = client.get("/v1/people")
        refused(answer, 503, "store_unavailable")
        assert int(answer.headers["retry-after"]) > 0
        refused(client.delete(f"/v1/people/{ids['Ada']}", headers={"if-match": "*"}), 503, "store_unavailable")
        assert client.get("/healthz").status_code == 200
        postgres.start()
        deadline = time.monotonic() + 30
        while client.get("/v1/people").status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert names(client) == ["Ada", "Bob"]
        assert client.delete(f"/v1/people/{ids['Ada']}", headers={"if-match": "*"}).status_code == 200
        assert client.post("/v1/collections", json={"name": "two"}).status_code == 201
        assert client.delete("/v1/collections/two").status_code == 204
        assert names(client) == ["Bob"]
