"""A service to test, in this process or in its own process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from facespace.server.app import create_app
from facespace.server.service import Service
from facespace.server.settings import Settings
from support.networks_once import load_and_compute_once
from support.waiting import wait_until

HOST = "http://127.0.0.1:8000"
_PATIENCE = 60.0


@contextlib.contextmanager
def cached_embedders() -> Iterator[None]:
    """Return a context in which networks load once and compute each input once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        load_and_compute_once(patch)
        yield


@contextlib.contextmanager
def running_service(folder: Path, **settings: Any) -> Iterator[TestClient]:
    """Return a client of a service in this process. Networks are loaded once for all tests.

    `folder` holds its gallery, `people.gallery`. It keeps unknown faces unless `settings` say otherwise. The service itself is `service_behind(client)`.
    """
    given = {"gallery": str(folder / "people.gallery"), "warm": False, "unknowns_days": 30.0, **settings}
    with cached_embedders():
        app = create_app(Settings(**given))
        with TestClient(app, base_url=HOST, raise_server_exceptions=False) as client:
            yield client


def service_behind(client: TestClient) -> Service:
    """Return the service behind a client of `running_service`."""
    return client.app.state.service


class Served:
    """A service in its own process, at `url`. `log` is its stderr."""

    def __init__(self, process: subprocess.Popen[str], url: str, log_file: Path) -> None:
        self.process, self.url, self._log_file = process, url, log_file

    @property
    def log(self) -> str:
        return self._log_file.read_text(encoding="utf-8")

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=_PATIENCE, trust_env=False, **options)

    def end(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.terminate()
        return self.process.wait(_PATIENCE)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(_PATIENCE)


@contextlib.contextmanager
def served(folder: Path, *arguments: str, gallery: Path | None = None, port: int = 0) -> Iterator[Served]:
    """Run `facespace serve` in its own process on a free port. It is ready to answer, and stopped when the block ends."""
    log_file = folder / f"serve-{time.monotonic_ns()}.log"
    command = [
        sys.executable, "-m", "facespace", "serve", "--gallery", str(gallery or folder / "people.gallery"),
        "--port", str(port), "--unknowns-days", "30", *arguments,
    ]  # fmt: skip
    with log_file.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True, env=dict(os.environ)
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+?:\d+", line)
        assert found, f"it printed {line!r}; {log_file.read_text(encoding='utf-8')[-3000:]}"
        there = Served(process, found[0], log_file)
        with there.client() as client:
            wait_until(lambda: _is_ready(client), "the service is not ready")
        yield there
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
