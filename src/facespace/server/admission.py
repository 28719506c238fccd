"""Limits on a request's body, its time, and the number of waiting photos, applied before any work is done for it.

Every request is refused as early as possible: by its Content-Length, by the number of photos that wait, and otherwise while
its body arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facespace.server.problems import MEDIA_TYPE, Problem, busy, problem_body
from facespace.server.service import Service
from facespace.server.settings import Settings

MAX_HELD_BODIES = 2**28  # bytes of all bodies in memory together
MAX_TEXT = 2**20  # bytes of a body without photos, such as JSON
MAX_DRAINED = 2**22  # bytes of a refused body that are still read, so that the client sees the answer
MAX_IMPORT = 4 * 2**30  # bytes of an imported gallery file, which is written to the disk while it arrives
_FILE = re.compile(r"/v1/collections/[^/]+/(import|export)")  # larger files than other bodies, without a time limit
_DRAIN_SECONDS = 1.0
_SMALL_BODY = 2**16  # bytes; a body this small usually arrives together with its headers
_SMALL_BODY_SECONDS = 0.02
_PHOTO_TYPES = (b"image/", b"multipart/", b"application/octet-stream")


class Admission:
    """ASGI middleware that limits the size, time and memory of requests. `service` returns None before its start."""

    def __init__(self, app: ASGIApp, settings: Settings, service: Callable[[], Service | None]) -> None:
        self._app = app
        self._settings = settings
        self._service = service
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why it is refused."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passage = _Passage(self, self._settings, scope, receive, send)
        try:
            try:
                self._refuse(passage)
            except Problem as problem:
                await passage.answer(problem)
                return
            await passage.run(self._app)
        finally:
            self._held -= passage.n_held
            passage.end()

    def hold(self, n_bytes: int) -> None:
        """Count bytes of a body. Raise `Problem` 503 if all bodies together would be too large."""
        if self._held and self._held + n_bytes > max(MAX_HELD_BODIES, self._settings.max_body):
            raise busy("too many large requests at once; try again")
        self._held += n_bytes

    def _refuse(self, passage: _Passage) -> None:
        """Raise `Problem` if the headers alone show that the request must be refused."""
        service = self._service()
        if service is None or service.is_closing:
            raise Problem(503, "shutting_down", "the service is not serving", headers={"Retry-After": "5"})
        if not passage.has_body:
            return
        if passage.n_expected > passage.max_body:
            raise too_large(passage.max_body)
        if passage.is_file:
            return
        if passage.content_type.startswith(_PHOTO_TYPES):
            service.engine.check_queue(1)
        self.hold(passage.n_expected)
        passage.n_held = passage.n_expected


def too_large(max_body: int) -> Problem:
    """Return `Problem` 413 for a body of more than `max_body` bytes."""
    return Problem(413, "too_large", f"a request may have at most {max_body:,} bytes")


class _Passage:
    """One request and its answer, with their limits."""

    def __init__(self, admission: Admission, settings: Settings, scope: Scope, receive: Receive, send: Send) -> None:
        self._admission, self._settings, self._scope = admission, settings, scope
        self._receive, self._send = receive, send
        headers: dict[bytes, bytes] = dict(scope["headers"])
        self.content_type = headers.get(b"content-type", b"").lower()
        length = headers.get(b"content-length", b"0")
        self.n_expected = int(length) if length.isdigit() and len(length) < 20 else 0
        self.has_body = self.n_expected > 0 or b"transfer-encoding" in headers
        self.n_held = self._n_read = 0
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        self.is_file = _FILE.fullmatch(path) is not None
        has_photos = self.content_type.startswith(_PHOTO_TYPES)
        most = settings.max_body if has_photos else min(MAX_TEXT, settings.max_body)
        self.max_body = MAX_IMPORT if self.is_file else most
        self._is_read = not self.has_body
        self._is_started = False
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._fired = ""
        self._task = asyncio.current_task()

    async def run(self, app: ASGIApp) -> None:
        """Pass the request on. Answer 408 or 503 if it takes too long."""
        self._arm()
        try:
            await app(self._scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self._fired:
                raise
            uncancel = getattr(self._task, "uncancel", None)  # from Python 3.11 on
            if uncancel is not None:
                uncancel()
            if not self._is_started:
                await self.answer(self._late())

    def end(self) -> None:
        """Cancel the timer of the time limit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def answer(self, problem: Problem) -> None:
        """Send a problem as the answer."""
        self.end()
        if not self._is_read and self.n_expected <= _SMALL_BODY:  # read it, so that the connection can stay open
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._drain(), _SMALL_BODY_SECONDS)
        body = problem_body(
            problem.status,
            problem.code,
            str(problem.detail),
            str(self._scope.get("request_id", "")),
            errors=problem.errors,
        )
        headers = [(name.lower().encode(), value.encode()) for name, value in (problem.headers or {}).items()]
        headers += [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def receive(self) -> Message:
        """Return the next part of the body, and count its bytes."""
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        self._n_read += len(message.get("body", b""))
        self._is_read = not message.get("more_body", False)
        if self._n_read > self.max_body:
            raise too_large(self.max_body)
        if not self.is_file and (more := self._n_read - self.n_held) > 0:
            self._admission.hold(more)
            self.n_held += more
        if not self._is_started:
            self._arm()
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer. If part of the request was not read, close the connection after the answer."""
        if message["type"] == "http.response.start":
            self._is_started = True
            if not self._is_read:
                message.setdefault("headers", []).append((b"connection", b"close"))
            if not _is_stream(message):
                self._arm()
            else:
                self.end()
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.end()
            if not self._is_read:
                await self._send({**message, "more_body": True})
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._drain(), _DRAIN_SECONDS)
                message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _drain(self) -> None:
        """Read the rest of the body and drop it: if the connection closes too early, the answer is lost."""
        n_read = 0
        while not self._is_read and n_read < MAX_DRAINED:
            message = await self._receive()
            if message["type"] != "http.request":
                return
            n_read += len(message.get("body", b""))
            self._is_read = not message.get("more_body", False)

    def _arm(self) -> None:
        """Set the time by which the next part of the body, or the whole answer, must have arrived."""
        if self._timer is not None:
            self._timer.cancel()
        due = math.inf if self.is_file else self._begun + self._settings.request_seconds
        if not self._is_read:
            due = min(due, self._loop.time() + self._settings.header_seconds)
        self._timer = self._loop.call_at(due, self._fire) if math.isfinite(due) else None

    def _fire(self) -> None:
        self._timer = None
        self._fired = "work" if self._is_read else "body"
        if self._task is not None:
            self._task.cancel()

    def _late(self) -> Problem:
        if self._fired == "body":
            return Problem(408, "timeout", "the body of the request did not arrive in time")
        return busy(f"the request took more than {self._settings.request_seconds:g} seconds; try again", 5)


def _is_stream(message: Any) -> bool:
    return any(name == b"content-type" and b"event-stream" in value for name, value in message.get("headers", ()))
