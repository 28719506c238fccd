"""Limits of connections, seen from a plain socket."""

from __future__ import annotations

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
from support.service import wait_until


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


@pytest.fixture(scope="module", params=["httptools", "h11"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
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
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()
    listener.close()


def connected(port: int) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", port), timeout=20)
    one.settimeout(20)
    return one


def all_of(one: socket.socket) -> bytes:
    """What comes until the other side closes."""
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


def test_headers_that_do_not_come_are_not_waited_for(port):
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
            answer = all_of(one)  # h11 has a limit of its own, which comes first
        except TimeoutError:
            one.settimeout(20)
            one.sendall(b"b")
            answer = all_of(one)
        assert problem_in(answer) in ((400, "malformed"), (431, "headers_too_large"))


def test_what_is_no_http(port):
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
