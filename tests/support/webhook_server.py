"""A webhook's target on loopback, with answers chosen by the test."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class WebhookServer:
    """The received requests, as (headers, body). `answers` are the statuses of the next answers; after them all are 204.

    An answer may also be bytes that are sent unchanged, or a function of the handler.
    """

    port: int = 0
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def bodies(self) -> list[bytes]:
        return [body for _, body in self.requests]


@contextlib.contextmanager
def webhook_server(certificate: Path | None = None) -> Iterator[WebhookServer]:
    """Run a server until the block ends, with TLS if a certificate is given."""
    found = WebhookServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.requests.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            answer = found.answers.pop(0) if found.answers else 204
            if callable(answer):
                answer(self)
            elif isinstance(answer, bytes):
                self.wfile.write(answer)
            else:
                self.send_response(answer)
                self.send_header("Location", f"http://127.0.0.1:{found.port}/elsewhere")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
