"""A service behind a real socket, in a thread: for streamed answers, which a test client would collect to the end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from facespace.server.app import create_app
from facespace.server.service import Service
from facespace.server.settings import Settings
from support.service import cached_embedders
from support.waiting import wait_until


@contextlib.contextmanager
def live_service(folder: Path, **settings: Any) -> Iterator[tuple[httpx.Client, Service]]:
    """Yield a client of a service without networks, with its gallery in that folder, and the service itself."""
    with cached_embedders():
        app = create_app(Settings(**{"gallery": str(folder / "people.gallery"), "warm": False, **settings}))
        server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="on", ws="none")
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_until(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:
                yield client, app.state.service
        finally:
            app.state.service.events.end_streams()
            server.should_exit = True
            thread.join(30)
