"""Limits of connections, seen from a plain socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from facespace.server.connections import MAX_HEADER_BYTES, Connections
from facespace.server.settings import Settings
from support.waiting import wait_until

LARGE = 2**25  # bytes; more than the system buffers for a connection


async def hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/slow":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hi", "more_body": True})
        with contextlib.suppress(asyncio.TimeoutError):  # until the client is gone
            while (await asyncio.wait_for(receive(), 3))["type"] != "http.disconnect":
                pass
        return
    if scope["path"] == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a" * LARGE})
        return
    if scope["path"] == "/endless":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10_000):
            await send({"type": "http.response.body", "body": b"a" * 2**16, "more_body": True})
            await asyncio.sleep(0)
        return
    if scope["path"] == "/all":
        n_bytes, more = 0, True
        while more:
            message = await receive()
            n_bytes, more = n_bytes + len(message["body"]), message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]})
        await send({"type": "http.response.body", "body": str(n_bytes).encode()})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


@pytest.fixture(scope="module", params=["httptools", "h11"])
def server(request: pytest.FixtureRequest) -> Iterator[uvicorn.Server]:
    connections = Connections(Settings("x", header_seconds=0.5, max_connections=3))
    if request.param == "h11":
        import importlib.util as util

        found = util.find_spec
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(util, "find_spec", lambda name: None if name == "httptools" else found(name))
            from facespace.server.connections import _http_1, _limited

            connections._kind = _limited(_http_1(), connections._settings)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(hello, http=connections, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    wait_until(lambda: server.started, "the server did not start")
    yield server
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def port(server: uvicorn.Server) -> int:
    number: int = server.servers[0].sockets[0].getsockname()[1]
    return number


def connected(port: int) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", port), timeout=20)
    one.settimeout(20)
    return one


def all_of(one: socket.socket) -> bytes:
    """Return all bytes until the other side closes."""
    parts = []
    while part := one.recv(65536):
        parts.append(part)
    return b"".join(parts)


def problem_in(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return int(head.split()[1]), json.loads(body)["code"]


def test_a_request_is_answered_and_the_next_one_too(port):
    with connected(port) as one:
        for _ in range(2):
            one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = one.recv(65536)
            while not answer.endswith(b"hi"):
                answer += one.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")


def test_headers_must_arrive_in_time(port):
    with connected(port) as one:
        assert problem_in(all_of(one)) == (408, "timeout")
    with connected(port) as one:
        one.sendall(b"GET / HTTP/1.1\r\nHost:")
        assert problem_in(all_of(one)) == (408, "timeout")


def test_headers_are_bounded(port):
    with connected(port) as one:
        start = b"GET / HTTP/1.1\r\nA: "
        one.sendall(start + b"b" * (MAX_HEADER_BYTES - len(start)))
        one.settimeout(0.1)
        try:
            answer = all_of(one)  # h11 has its own, lower limit
        except TimeoutError:
            one.settimeout(20)
            one.sendall(b"b")
            answer = all_of(one)
        assert problem_in(answer) in ((400, "malformed"), (431, "headers_too_large"))


def test_data_that_is_not_http(port):
    with connected(port) as one:
        one.sendall(b"\x16\x03\x01 no request\r\n\r\n")
        assert problem_in(all_of(one)) == (400, "malformed")


def test_connections_are_bounded(port):
    several = [connected(port) for _ in range(3)]
    try:
        with connected(port) as one_more:
            answer = all_of(one_more)
        assert problem_in(answer) == (503, "busy")
        assert b"retry-after" in answer
    finally:
        for one in several:
            one.close()


def test_it_fits_into_a_pickle():
    again = pickle.loads(pickle.dumps(Connections(Settings("x", max_connections=7))))
    assert again._settings.max_connections == 7


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 4, id="headers of the next request"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 20, id="one header of the next request"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", id="whole requests"),
    ],
)
def test_what_is_sent_while_a_request_is_answered_is_bounded(request, port, flood):
    start, _, rest = flood.partition(b"Host: a\r\n")
    piece = flood if rest == b"\r\n" else rest
    with connected(port) as one:
        one.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" + (b"" if piece is flood else start + b"Host: a\r\n"))
        assert one.recv(65536).startswith(b"HTTP/1.1 200")
        # h11 stops reading then, so no buffer grows
        assert is_cut_off(one, piece * (2**16 // len(piece)), or_waits="h11" in request.node.name)


def test_what_follows_a_body_is_bounded(port):
    with connected(port) as one:
        one.sendall(b"POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n")
        assert one.recv(65536).startswith(b"HTTP/1.1 200")
        assert is_cut_off(one, b"A: b\r\n" * 10_000, or_waits=True)


def test_a_long_body_is_no_header(port):
    with connected(port) as one:
        one.sendall(b"POST /all HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        for _ in range(100):
            one.sendall(b"a" * 10_000)
        answer = one.recv(65536)
        while not answer.endswith(b"1000000"):
            answer += one.recv(65536)


@pytest.mark.parametrize("path", ["/large", "/endless"])
def test_a_client_that_does_not_read_its_answer_is_disconnected(server, port, path):
    wait_until(lambda: not server.server_state.connections, "connections of other tests are open")
    with connected(port) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: len(server.server_state.connections) == 1, "it was not connected")
        wait_until(lambda: not server.server_state.connections, "the connection is still open", seconds=20)


def test_a_slow_reader_gets_the_whole_answer(port):
    with connected(port) as one:
        one.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        n_bytes = 0
        while n_bytes < LARGE:
            part = one.recv(2**20)
            assert part
            n_bytes += len(part)
            threading.Event().wait(0.02)


def is_cut_off(one: socket.socket, flood: bytes, *, or_waits: bool) -> bool:
    """Return whether the other side closes the connection, or stops reading, long before it has read 64 MiB."""
    one.settimeout(1)
    try:
        for _ in range(2**26 // len(flood)):
            one.sendall(flood)
    except TimeoutError:
        return or_waits
    except OSError:
        return True
    return False
