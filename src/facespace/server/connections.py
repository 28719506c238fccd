"""How long a connection may take to send its headers, how long they may be, and how many connections there may be.

uvicorn leaves these three open: a client that sends one byte a minute would keep its connection for ever.
"""

from __future__ import annotations

import asyncio
import importlib.util
from typing import TYPE_CHECKING, Any

from facespace.server.problems import MEDIA_TYPE, PROBLEMS, problem_body

if TYPE_CHECKING:
    from facespace.server.settings import Settings

MAX_HEADER_BYTES = 2**16  # of one request


class Connections:
    """Makes the protocol of each connection for uvicorn: its own, with these limits; fits into a pickle for worker processes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kind: Any = None

    def __call__(self, **given: Any) -> asyncio.Protocol:
        """A connection; by httptools where it is installed, else by h11."""
        if self._kind is None:
            self._kind = _limited(_http_1(), self._settings)
        connection: asyncio.Protocol = self._kind(**given)
        return connection

    def __reduce__(self) -> tuple[type[Connections], tuple[Settings]]:
        return Connections, (self._settings,)


def _http_1() -> Any:
    if importlib.util.find_spec("httptools") is not None:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        return HttpToolsProtocol
    from uvicorn.protocols.http.h11_impl import H11Protocol

    return H11Protocol


def _limited(protocol: Any, settings: Settings) -> type[asyncio.Protocol]:
    class Limited(protocol):  # type: ignore[misc]
        """A connection with limits."""

        _timer: asyncio.TimerHandle | None = None
        _n_header_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > settings.max_connections:
                self._refuse("busy", f"{settings.max_connections} connections are open already", b"retry-after: 1\r\n")
            else:
                self._arm()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:  # a request is being answered
                self._disarm()
                return
            self._n_header_bytes += len(data)
            if self._n_header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self._refuse(
                    "headers_too_large", f"the headers of a request may have at most {MAX_HEADER_BYTES:,} bytes"
                )
            elif self._timer is None:
                self._arm()

        def connection_lost(self, error: Exception | None) -> None:
            self._disarm()
            super().connection_lost(error)

        def send_400_response(self, msg: str) -> None:
            del msg
            self._refuse("malformed", "this is no HTTP request")

        def _arm(self) -> None:
            self._timer = self.loop.call_later(settings.header_seconds, self._late)

        def _disarm(self) -> None:
            self._n_header_bytes = 0
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _late(self) -> None:
            self._timer = None
            if self.cycle is None or self.cycle.response_complete:
                self._refuse("timeout", "the headers of the request did not arrive in time")

        def _refuse(self, code: str, detail: str, headers: bytes = b"") -> None:
            if not self.transport.is_closing():
                self.transport.write(_answer(code, detail, headers))
                self.transport.close()

    return Limited


def _answer(code: str, detail: str, headers: bytes) -> bytes:
    status = PROBLEMS[code][0]
    body = problem_body(status, code, detail, "")
    head = f"HTTP/1.1 {status} \r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    return head.encode() + headers + b"\r\n" + body
