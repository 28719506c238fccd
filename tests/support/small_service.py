"""The real application with a service without networks and galleries, for tests of keys, limits and logs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from fastapi import Depends, FastAPI, Request

from facespace.identification.stores.actors import actor_name
from facespace.server.access import allowed
from facespace.server.answers import Answers
from facespace.server.app import create_app
from facespace.server.audit import Audit
from facespace.server.keys import Keys, Role
from facespace.server.problems import Problem
from facespace.server.rates import Rates
from facespace.server.settings import Settings
from facespace.server.state import State

ADDRESS = "http://127.0.0.1:8000"


class SmallService:
    """Stands in for the service at `app.state.service`, with the parts that these tests need."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state = State(settings.state)
        self.keys = Keys(self.state)
        self.audit = Audit(self.state)
        self.answers = Answers(self.state)
        self.rates = Rates(settings.rate_per_second, burst=settings.burst)
        self.engine = self
        self.is_closing = False

    async def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """`Engine.run`."""
        return await asyncio.to_thread(function, *args, **options)

    def check_queue(self, n_photos: int) -> None:
        """`Engine.check_queue`: the queue is never full."""

    def close(self) -> None:
        self.state.close()


def small_app(folder: Path, **settings: Any) -> FastAPI:
    """Return the application with its middleware and routes, and four more below /v1/try. The caller closes the service."""
    chosen = Settings(str(folder / "people.gallery"), state=str(folder / "state"), **settings)
    app = create_app(chosen)
    app.state.service = SmallService(chosen)
    n_changes = itertools.count(1)

    @app.get("/v1/try", dependencies=[Depends(allowed("read"))])
    async def look() -> dict[str, str]:
        return {"actor": actor_name()}

    @app.post("/v1/try", dependencies=[Depends(allowed("enroll"))], status_code=201)
    async def change(request: Request, fail: int = 0) -> dict[str, Any]:
        if fail:
            raise Problem(fail, "busy", "as asked")
        return {"n": next(n_changes), "n_bytes": len(await request.body())}

    @app.post("/v1/try/{person}/erase", dependencies=[Depends(allowed("admin"))])
    async def erase(person: str) -> dict[str, str]:
        return {"erased": person}

    @app.get("/v1/collections/{name}/try-export", operation_id="export_try", dependencies=[Depends(allowed("admin"))])
    async def export(name: str) -> dict[str, str]:
        return {"collection": name}

    return app


class Client:
    """Sends requests to an application in this process, each in its own event loop."""

    def __init__(self, app: FastAPI, headers: dict[str, str]) -> None:
        self._app = app
        self._headers = headers

    async def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request, for tests that send several at once."""
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False, client=("127.0.0.1", 50_000))
        async with httpx.AsyncClient(transport=transport, base_url=ADDRESS, headers=self._headers) as sender:
            return await sender.request(method, path, **options)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self.send(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def patch(self, path: str, **options: Any) -> httpx.Response:
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        return self.request("DELETE", path, **options)


def client(app: FastAPI, key: str | None = None) -> Client:
    """Return a client at the loopback address, with a key."""
    return Client(app, {} if key is None else {"Authorization": f"Bearer {key}"})


def new_key(app: FastAPI, role: Role, collection: str | None = None) -> str:
    """Return the text of a new key."""
    return app.state.service.keys.create(role, collection, label=f"for {role}").text
