"""The outermost layer of every request: its id, its log line, its metrics, and the headers of its answer.

It answers an unhandled error with a 500 that reveals nothing about the cause.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facespace.server.logs import log
from facespace.server.metrics import Metrics
from facespace.server.problems import MEDIA_TYPE, problem_body
from facespace.server.security_headers import security_headers

_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Tracing:
    """ASGI middleware. `metrics` returns the metrics, or None before the service has started.

    Paths may begin with `root_path` or not: some proxies remove `root_path`, others keep it.
    """

    def __init__(self, app: ASGIApp, metrics: Callable[[], Metrics | None], root_path: str = "") -> None:
        self._app = app
        self._root_path = root_path
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        request_id = _given_id(scope) or secrets.token_hex(8)
        scope["request_id"] = request_id
        if self._root_path:
            scope["root_path"] = self._root_path
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                headers += security_headers(scope["path"].removeprefix(scope.get("root_path", "")), headers)
                headers.append((b"x-request-id", request_id.encode()))
            await send(message)

        error: Exception | None = None
        try:
            await self._app(scope, receive, answer)
        except Exception as unexpected:
            error = unexpected
            if not status:
                await _fail(answer, request_id)
        finally:
            self._note(scope, status, time.perf_counter() - begun, request_id, error)

    def _note(self, scope: Scope, status: int, seconds: float, request_id: str, error: Exception | None) -> None:
        route = scope.get("route")
        operation = getattr(route, "operation_id", None) or "none"
        if metrics := self._metrics():
            metrics.requests.labels(operation, str(status)).inc()
            metrics.seconds.labels(operation).observe(seconds)
        caller = scope.get("state", {}).get("caller")
        log(
            "request failed" if error else "request", level=logging.ERROR if error else logging.INFO, error=error,
            request_id=request_id, method=scope["method"][:10], operation=operation, status=status,
            seconds=round(seconds, 4), key=getattr(caller, "key_id", ""),
        )  # fmt: skip


async def _fail(send: Send, request_id: str) -> None:
    body = problem_body(500, "internal_error", "the service failed; search its log for this request id", request_id)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _given_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value, "ascii")
    return ""
