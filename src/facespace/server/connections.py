"""Limits of a connection: the size and time of its headers, how slowly its client may read, and how many there may be.

uvicorn has no such limits: a client that sends one byte a minute, or that does not read its answer, would keep its
connection open forever.
"""

from __future__ import annotations

import asyncio
import importlib.util
from typing import TYPE_CHECKING, Any

from facespace.server.problems import MEDIA_TYPE, PROBLEMS, problem_body

if TYPE_CHECKING:
    from facespace.server.settings import Settings

MAX_HEADER_BYTES = 2**16  # of one request; also limits the lines between a body's chunks, and data after the body
MAX_PIPELINED = 16  # requests of one connection that wait for the answer to an earlier one
_LEAST_READ = 1024  # bytes of an answer that a client must read each second


class Connections:
    """Makes the protocol object of each connection: uvicorn's, with these limits. It can be pickled for worker processes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kind: Any = None

    def __call__(self, **given: Any) -> asyncio.Protocol:
        """Return the protocol object of a new connection, based on httptools if it is installed, otherwise on h11."""
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
    counts = hasattr(protocol, "on_headers_complete")

    class Limited(protocol):  # type: ignore[misc]
        """A connection with limits."""

        _timer: asyncio.TimerHandle | None = None
        _reader_timer: asyncio.TimerHandle | None = None
        _n_header_bytes = 0
        _got_on = False  # whether the latest data completed the headers or contained a part of a body

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > settings.max_connections:
                self._refuse("busy", f"{settings.max_connections} connections are open already", b"retry-after: 1\r\n")
            else:
                self._arm()

        def data_received(self, data: bytes) -> None:
            self._got_on = False
            super().data_received(data)
            if self.transport.is_closing():
                return
            answering = self._is_answering()
            if answering:
                self._disarm()
            # h11 bounds its buffer itself. httptools keeps everything that is sent, even while a request is answered.
            self._n_header_bytes = 0 if self._got_on or (answering and not counts) else self._n_header_bytes + len(data)
            if self._n_header_bytes > MAX_HEADER_BYTES or len(getattr(self, "pipeline", ())) > MAX_PIPELINED:
                self._refuse(
                    "headers_too_large", f"the headers of a request may have at most {MAX_HEADER_BYTES:,} bytes"
                )
            elif self._timer is None and not answering:
                self._arm()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch_reader()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._leave_reader()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._watch_reader()

        def connection_lost(self, error: Exception | None) -> None:
            self._disarm()
            self._leave_reader()
            super().connection_lost(error)

        def on_headers_complete(self) -> None:
            self._got_on = True
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._got_on = self._got_on or self._is_answering()
            super().on_body(body)

        def send_400_response(self, msg: str) -> None:
            del msg
            self._refuse("malformed", "this is not an HTTP request")

        def _arm(self) -> None:
            self._timer = self.loop.call_later(settings.header_seconds, self._late)

        def _is_answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _late(self) -> None:
            self._timer = None
            if not self._is_answering():
                self._refuse("timeout", "the headers of the request did not arrive in time")

        def _watch_reader(self) -> None:
            """Begin regular checks that the client reads the answer; abort the connection if it reads too slowly."""
            if self._reader_timer is None:
                self._look_again(self.transport.get_write_buffer_size())

        def _look_again(self, n_bytes: int) -> None:
            self._reader_timer = None
            if n_bytes:
                self._reader_timer = self.loop.call_later(settings.header_seconds, self._look_at_reader, n_bytes)

        def _look_at_reader(self, n_bytes: int) -> None:
            left = self.transport.get_write_buffer_size()
            if left and left > n_bytes - _LEAST_READ * settings.header_seconds:
                self._reader_timer = None
                self.transport.abort()
            else:
                self._look_again(left)

        def _leave_reader(self) -> None:
            if self._reader_timer is not None:
                self._reader_timer.cancel()
                self._reader_timer = None

        def _refuse(self, code: str, detail: str, headers: bytes = b"") -> None:
            if self._is_answering():  # no message can be sent in the middle of another answer
                self.transport.abort()
            elif not self.transport.is_closing():
                self.transport.write(_answer(code, detail, headers))
                self.transport.close()
                self._watch_reader()

    return Limited


def _answer(code: str, detail: str, headers: bytes) -> bytes:
    status = PROBLEMS[code][0]
    body = problem_body(status, code, detail, "")
    head = f"HTTP/1.1 {status} \r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    return head.encode() + headers + b"\r\n" + body
