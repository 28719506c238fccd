"""Addresses of Qdrant servers, and servers that are absent, slow, too old, or restarted."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.stores import qdrant_server
from facespace.identification.stores.qdrant import QdrantStore
from facespace.identification.stores.qdrant_server import KEY_VARIABLE, Address, Server, parse_address
from support.gallery_states import entry
from support.qdrant import SharedClient
from support.qdrant_server import Memory, serving


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("qdrant://host", Address("http://host:6333", "qdrant://host:6333", False)),
        ("qdrant://host:1/", Address("http://host:1", "qdrant://host:1", False)),
        ("qdrants://[::1]:7000", Address("https://[::1]:7000", "qdrants://[::1]:7000", True)),
        (
            "qdrant://host?replicas=3&quantize=binary&timeout=60",
            Address("http://host:6333", "qdrant://host:6333", False, replicas=3, quantize=True, timeout=60),
        ),
    ],
)
def test_addresses(address: str, expected: Address) -> None:
    assert parse_address(address) == expected


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("qdrant://", "must be qdrant://host:port"),
        ("http://host", "must be qdrant://host:port"),
        ("qdrant://host/path", "must be qdrant://host:port"),
        ("qdrant://host:port", "not an address"),
        ("qdrant://host:99999", "not an address"),
        ("qdrant://host?timeout", "not an address"),
        ("qdrant://host?timeout=0", "the options of an address must be .* got 'timeout'"),
        ("qdrant://host?replicas=²", "got 'replicas'"),
        ("qdrant://host?quantize=no", "got 'quantize'"),
        ("qdrant://host?key=secret", "got 'key'"),
        ("qdrant://host?\x1b[2J=1", r"got '\\\\x1b"),
    ],
)
def test_invalid_addresses(address: str, told: str) -> None:
    with pytest.raises(GalleryError, match=told):
        parse_address(address)


def test_a_key_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(GalleryError, match=f"an address must not contain a key; put it into {KEY_VARIABLE}") as caught:
        parse_address("qdrant://user:secret@host")
    assert "secret" not in str(caught.value)


def test_a_server_that_is_absent() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(GalleryError, match=rf"^qdrant://127.0.0.1:{port}: no server answers there \(.*\); start it"):
        QdrantStore(f"qdrant://127.0.0.1:{port}")


@contextlib.contextmanager
def answering(raw: bytes | None) -> Iterator[str]:
    """Yield a server that answers every request with the same bytes, or never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    held = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                held.append(connection)
                if raw is not None:
                    connection.recv(65536)
                    connection.sendall(raw)
                    connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"qdrant://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in held:
            connection.close()


def test_a_server_that_is_slow() -> None:
    with (
        answering(None) as address,
        pytest.raises(GalleryError, match=r"no answer within 1 s; .* \?timeout=2 in the address"),
    ):
        QdrantStore(f"{address}?timeout=1")


def http(status: str, body: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "the connection broke .*; try again when the server is running"),
        (http("200 OK", "<html>"), "the answer is not from Qdrant .*; correct the address"),
        (http("404 Not Found", "{}"), r"not found \(status 404\): this is not a Qdrant server"),
        (http("403 Forbidden", "{}"), rf"does not accept the API key \(status 403\); set {KEY_VARIABLE}"),
        (
            http("500 Oops", '{"status": {"error": "disk\\u001b[2J full"}}'),
            r"refused \(status 500: disk\\x1b\[2J full\); try again later",
        ),
        (http("503 Busy", "[1]"), r"refused \(status 503: \[1\]\); try again later"),
        (http("422 Bad", "no"), r"refused \(status 422: no\); see the server's log"),
        (http("200 OK", '{"title": "q", "version": "1.16.3"}'), "must be Qdrant 1.17 or newer, got 1.16.3"),
        (http("200 OK", '{"title": "q", "version": "dev"}'), "must be Qdrant 1.17 or newer, got dev"),
    ],
)
def test_a_server_that_answers_something_else(raw: bytes, told: str) -> None:
    with answering(raw) as address, pytest.raises(GalleryError, match=told) as caught:
        QdrantStore(address)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_server_that_is_started_again() -> None:
    memory = Memory()
    with serving(memory) as address:
        store = QdrantStore(address, create=True)
        store.add("Ada", entry(0))
        port = int(address.rpartition(":")[2])
    for work in (store.people, lambda: store.add("Bob", entry(1)), lambda: edits.remove(store, "Ada")):
        with pytest.raises(GalleryError, match="no server answers there"):
            work()
    with serving(memory, port):
        assert [one.state.name for one in store.people()] == ["Ada"]
        assert store.add("Bob", entry(1))
        store.close()
        with pytest.raises(GalleryError, match="the gallery was closed; open it again"):
            store.people()
        store.close()


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    memory.key = "secret"
    with serving(memory) as address:
        with pytest.raises(GalleryError, match="does not accept the API key"):
            QdrantStore(address)
        monkeypatch.setenv(KEY_VARIABLE, "wrong")
        with pytest.raises(GalleryError, match="does not accept the API key") as caught:
            QdrantStore(address)
        assert "wrong" not in str(caught.value)
        monkeypatch.setenv(KEY_VARIABLE, "secret")
        store = QdrantStore(address, create=True)
        assert store.remarks == (f"{address}: the API key and the vectors are sent unencrypted; use qdrants://",)
        store.close()


def test_a_deleted_collection() -> None:
    memory = Memory()
    with serving(memory) as address:
        store = QdrantStore(address, create=True)
        memory.client.delete_collection("facespace-default-records")
        with pytest.raises(GalleryError, match="the collection was deleted"):
            store.people()
        store.close()


class Recorded(SharedClient):
    """Records how collections were created and searched."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[str, Any] = {}
        self.searches: list[Any] = []

    def create_collection(self, name: str, **options: Any) -> Any:
        self.made[name] = options
        return self.client.create_collection(name, vectors_config=options["vectors_config"])

    def query_batch_points(self, name: str, requests: Any, **options: Any) -> Any:
        self.searches += [(one.limit, one.params) for one in requests]
        plain = [one.model_copy(update={"params": None}) for one in requests]
        return self.client.query_batch_points(name, plain)


def test_what_a_collection_is_made_with() -> None:
    client = Recorded()
    store = QdrantStore("qdrant://memory?replicas=3&quantize=binary", client=client, create=True)
    store.add("Ada", entry(0))
    store.nearest(entry(1).embedding[None], 2)
    assert {one["replication_factor"] for one in client.made.values()} == {3}
    assert {one["write_consistency_factor"] for one in client.made.values()} == {2}
    people, photos = (client.made[f"facespace-default-{one}"] for one in ("people", "photos"))
    for one in (people, photos):
        assert (one["vectors_config"].datatype, one["vectors_config"].distance) == ("float16", "Dot")
    assert people["quantization_config"].binary.always_ram and photos["quantization_config"] is None
    assert people["hnsw_config"] is None and photos["hnsw_config"].m == 0
    ((limit, params),) = client.searches
    # 256 rows, and 8 for each requested row, are compared exactly.
    assert params.quantization.rescore and params.quantization.oversampling * limit == params.hnsw_ef == 256 + 8 * limit


def test_two_processes_make_a_collection_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    client = SharedClient()
    exists: list[Callable[..., bool]] = [client.client.collection_exists]

    def not_yet(name: str) -> bool:
        """Another process creates it just after this one has checked."""
        monkeypatch.setattr(client.client, "collection_exists", exists[0])
        other.create(name, 4, {}, searched=True)
        return False

    other, server = Server("qdrant://memory", client), Server("qdrant://memory", client)
    monkeypatch.setattr(client.client, "collection_exists", not_yet)
    server.create("faces", 4, {}, searched=True)
    assert server.dimension("faces") == 4 and server.dimension("others") is None


def test_a_newer_client_does_not_look_older() -> None:
    assert qdrant_server._numbers("2.0.1-dev") > qdrant_server._OLDEST
