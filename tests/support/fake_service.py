"""A server on loopback with scripted answers, including invalid ones."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass
class Request:
    """A request as received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Handler = http.server.BaseHTTPRequestHandler
Answer = Callable[[Handler, Request], None]


@dataclasses.dataclass
class FakeService:
    """The server at `url`; `answers` are used one after the other, and the last one for all further requests."""

    url: str = ""
    answers: list[Answer] = dataclasses.field(default_factory=list)
    requests: list[Request] = dataclasses.field(default_factory=list)
    closing: threading.Event = dataclasses.field(default_factory=threading.Event)

    def paths(self) -> list[str]:
        return [request.path.partition("?")[0] for request in self.requests]


@contextlib.contextmanager
def fake_service(*answers: Answer) -> Iterator[FakeService]:
    """Run a `FakeService` while the block runs."""
    service = FakeService(answers=list(answers))
    lock = threading.Lock()

    class OneHandler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def handle_one(self) -> None:
            n_bytes = int(self.headers.get("Content-Length") or 0)
            request = Request(
                self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, self.rfile.read(n_bytes)
            )
            with lock:
                service.requests.append(request)
                answer = service.answers.pop(0) if len(service.answers) > 1 else service.answers[0]
            with contextlib.suppress(ConnectionError):
                answer(self, request)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_one

        def log_message(self, *args: Any) -> None:
            del args

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            del request, client_address  # tests include clients that hang up

    server = Server(("127.0.0.1", 0), OneHandler)
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield service
    finally:
        service.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


def answering(
    status: int = 200, body: Any = None, *, media_type: str = "application/json", headers: dict[str, str] | None = None
) -> Answer:
    """Return an answer with this status and body: bytes unchanged, anything else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()

    def answer(handler: Handler, request: Request) -> None:
        del request
        handler.send_response(status)
        handler.send_header("Content-Type", media_type)
        handler.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def problem(status: int, code: str, detail: str, **headers: str) -> Answer:
    """Return an error in the service's format."""
    body = {"type": f"urn:facespace:problem:{code}", "title": "t", "status": status, "detail": detail, "code": code}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answering(status, body, media_type="application/problem+json", headers=named)


def sending(data: bytes) -> Answer:
    """Return an answer of exactly these bytes, including headers, after which the connection closes."""

    def answer(handler: Handler, request: Request) -> None:
        del request
        handler.wfile.write(data)
        handler.close_connection = True

    return answer
