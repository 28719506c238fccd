"""Servers that are absent, slow, of another kind or refuse the connection, and TLS."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification.stores.opening import open_store
from facespace.identification.stores.postgres import PostgresStore
from facespace.identification.stores.postgres_address import parse_address
from facespace.identification.stores.postgres_connections import _KEPT_STATEMENTS, Connections, connect
from facespace.identification.stores.protocol import Entry
from support.postgres_server import PASSWORD, PostgresServer
from support.tls_relay import certify, tls_relay


def refused(address: str, match: str, *, create: bool = True) -> None:
    """Check that opening raises one line that names the address without its password."""
    with pytest.raises(GalleryError, match=match) as caught:
        PostgresStore(address, create=create).close()
    said = str(caught.value)
    assert said.startswith("postgresql://") and "\n" not in said
    assert PASSWORD not in said and "swordfish" not in said and urllib.parse.quote(PASSWORD) not in said


@contextlib.contextmanager
def served(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """Yield a port where another program than PostgreSQL answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listening.accept()[0] as client:
                        answer(client)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_no_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refused(
        f"postgresql://ada:swordfish@127.0.0.1:{port}/d",
        r"cannot be reached \(Connection refused\); is the server running",
    )
    refused("postgresql:///d?host=/nowhere", r"cannot be reached \(No such file or directory\)")
    refused("postgresql://ada:swordfish@no.such.host.invalid/d", "cannot be reached")
    refused(f"postgresql://ada:swordfish@{'x' * 70}.invalid/d", "cannot be reached")


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
def test_a_server_that_never_answers(sslmode: str) -> None:
    with served(lambda client: client.recv(100) and time.sleep(2)) as port:
        begin = time.monotonic()
        refused(
            f"postgresql://a:swordfish@127.0.0.1:{port}/d?connect_timeout=1&sslmode={sslmode}", "no answer for too long"
        )
        assert time.monotonic() - begin < 30


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"S" * 50, b"N", b"E\0\0\0\4", b"R\0\0\0\x08\0\0\0\x63"]
)
def test_a_server_of_another_kind(answer: bytes, sslmode: str) -> None:
    def say(client: socket.socket) -> None:
        client.settimeout(5)
        with contextlib.suppress(OSError):
            client.recv(100)
            client.sendall(answer)

    with served(say) as port:
        refused(
            f"postgresql://a:swordfish@127.0.0.1:{port}/d?connect_timeout=2&sslmode={sslmode}",
            "PostgreSQL server|the connection broke|not support TLS|TLS with sslmode|no answer|gives no reason",
        )


def test_what_a_lost_server_did_not_take_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver leaves its file open; deleted later, the file would try to send its last bytes again."""
    files: list[Any] = []
    makefile = socket.socket.makefile

    def noted(self: socket.socket, *arguments: Any, **options: Any) -> Any:
        files.append(makefile(self, *arguments, **options))
        return files[-1]

    def reset(client: socket.socket) -> None:
        client.recv(100)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    monkeypatch.setattr(socket.socket, "makefile", noted)
    with served(reset) as port:
        refused(f"postgresql://a@127.0.0.1:{port}/d?connect_timeout=2&sslmode=disable", "the connection broke")
    assert [file.closed for file in files] == [True]


def test_a_frozen_server(postgres: PostgresServer) -> None:
    address = postgres.gallery(statement_timeout=1, connect_timeout=1)
    store = PostgresStore(address, create=True)
    with store._read() as cursor:
        ((pid,),) = cursor.rows("SELECT pg_backend_pid()")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert store.people() == [], "another connection answers"
    finally:
        os.kill(pid, signal.SIGCONT)
    store.close()


def test_missing_permissions(postgres: PostgresServer) -> None:
    quoted = urllib.parse.quote(PASSWORD, safe="")
    postgres.sql(f"CREATE ROLE secretive LOGIN PASSWORD '{PASSWORD}'")
    tcp = f"postgresql://secretive:%s@127.0.0.1:{postgres.port}/%s?schema=of_secretive"
    try:
        refused(
            tcp % ("swordfish", "postgres"), 'password authentication failed for user "secretive"; the server refuses'
        )
        refused(
            f"postgresql://secretive@127.0.0.1:{postgres.port}/postgres",
            "the server asks for a password|the server refuses",
        )
        refused(tcp % (quoted, "nowhere"), 'database "nowhere" does not exist; there is no such database')
        refused(tcp % (quoted, "postgres"), "permission denied for database postgres; this user lacks a permission")
        refused(postgres.address(user="nobody_here"), 'role "nobody_here" does not exist; the server refuses')
        postgres.sql("GRANT CREATE ON DATABASE postgres TO secretive")
        store = PostgresStore(tcp % (quoted, "postgres"), create=True)
        assert PASSWORD not in store.name and quoted not in store.name
        store.add("Ada", Entry(np.eye(4, dtype=np.float32)[0], "0" * 64, "", ""))
        store.close()
        reader = postgres.address(user="reader", schema="of_secretive")
        postgres.sql("CREATE ROLE reader LOGIN")
        refused(
            reader, "this user has no USAGE permission for the schema of_secretive; ask the administrator", create=False
        )
        postgres.sql("GRANT USAGE ON SCHEMA of_secretive TO reader")
        refused(reader, "permission denied for table migration; this user lacks a permission", create=False)
        postgres.sql("GRANT SELECT ON ALL TABLES IN SCHEMA of_secretive TO reader")
        store = PostgresStore(reader)
        assert [one.state.name for one in store.people()] == ["Ada"]
        assert store.nearest(np.eye(4, dtype=np.float32)[:1], 1).people[0, 0] > 0
        with pytest.raises(GalleryError, match=r"permission denied for table .*; this user lacks a permission"):
            store.add("Bob", Entry(np.eye(4, dtype=np.float32)[1], "1" * 64, "", ""))
        store.close()
    finally:
        for sql in ("DROP SCHEMA IF EXISTS of_secretive CASCADE", "REVOKE ALL ON DATABASE postgres FROM secretive",
                    "DROP ROLE IF EXISTS reader", "DROP ROLE secretive"):  # fmt: skip
            postgres.sql(sql)


def test_a_password_of_the_environment(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    postgres.sql(f"CREATE ROLE secretive LOGIN PASSWORD '{PASSWORD}'")
    try:
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        connect(parse_address(f"postgresql://secretive@127.0.0.1:{postgres.port}/postgres")).close()
    finally:
        postgres.sql("DROP ROLE secretive")


def test_a_server_that_only_reads(postgres: PostgresServer) -> None:
    store = PostgresStore(postgres.gallery(), create=True)
    with store._connections.lent("BEGIN") as cursor:
        cursor.once("SET default_transaction_read_only = on")
        cursor.once("COMMIT")
    with (
        pytest.raises(GalleryError, match=r"the server is read-only; is it a replica\?"),
        store._write() as cursor,
    ):
        raise AssertionError
    store.close()


def test_no_tls_here(postgres: PostgresServer) -> None:
    for sslmode in ("require", "verify-ca", "verify-full"):
        refused(postgres.address(tcp=True, sslmode=sslmode), f"does not support TLS, which sslmode {sslmode} requires")
    for sslmode in ("disable", "prefer"):
        connect(parse_address(postgres.address(tcp=True, sslmode=sslmode))).close()


def test_tls(postgres: PostgresServer, tmp_path: Path) -> None:
    own, other = certify(tmp_path, "127.0.0.1"), certify(tmp_path, "another.example")
    with tls_relay(postgres.port, own) as port:
        for parameters in (
            "sslmode=prefer", "sslmode=require", f"sslmode=require&sslrootcert={own}",
            f"sslmode=verify-ca&sslrootcert={own}", f"sslmode=verify-full&sslrootcert={own}",
        ):  # fmt: skip
            cursor = connect(parse_address(f"postgresql://postgres@127.0.0.1:{port}/postgres?{parameters}"))
            assert cursor.rows("SELECT 1") == [(1,)]
            cursor.close()
        for sslmode in ("require", "verify-ca", "verify-full"):
            refused(
                f"postgresql://postgres@127.0.0.1:{port}/d?sslmode={sslmode}&sslrootcert={other}",
                f"TLS with sslmode {sslmode} failed .*certificate",
            )
        refused(
            f"postgresql://postgres@127.0.0.1:{port}/d?sslmode=verify-full",
            "TLS with sslmode verify-full failed .*certificate",
        )
        refused(
            f"postgresql://postgres@127.0.0.1:{port}/d?sslmode=verify-full&sslrootcert={tmp_path}/no",
            "TLS with sslmode verify-full failed .*No such file",
        )
    with tls_relay(postgres.port, other) as port:
        connect(
            parse_address(f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=verify-ca&sslrootcert={other}")
        ).close()
        refused(
            f"postgresql://postgres@127.0.0.1:{port}/d?sslmode=verify-full&sslrootcert={other}",
            "TLS with sslmode verify-full failed .*mismatch",
        )


def test_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pg8000.native", None)
    with pytest.raises(
        GalleryError, match=r"a gallery on PostgreSQL needs pg8000.*; pip install 'facespace\[postgres\]'"
    ):
        open_store("postgresql://ada@127.0.0.1:1/d")


def test_no_more_than_eight_connections(postgres: PostgresServer) -> None:
    connections = Connections(parse_address(postgres.address(statement_timeout=1)))
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connections.lent("BEGIN"))
        with pytest.raises(GalleryError, match="all 8 connections were busy for too long"), connections.lent("BEGIN"):
            pass
    assert len(connections._idle) == 8
    connections.close()


def test_statements_are_kept_but_not_without_end(postgres: PostgresServer) -> None:
    cursor = connect(parse_address(postgres.address()))
    for k in range(_KEPT_STATEMENTS + 20):
        assert cursor.rows(f"SELECT ? + {k}::int", (1,)) == [(k + 1,)]
    assert cursor.rows("SELECT count(*) FROM pg_prepared_statements") == [(_KEPT_STATEMENTS,)]
    cursor.close()


def test_commits_are_on_the_disk_whatever_the_default(postgres: PostgresServer) -> None:
    postgres.sql("ALTER DATABASE postgres SET synchronous_commit = off")
    try:
        assert postgres.sql("SHOW synchronous_commit") == [("on",)]
        postgres.sql("ALTER DATABASE postgres SET synchronous_commit = remote_apply")
        assert postgres.sql("SHOW synchronous_commit") == [("remote_apply",)]
    finally:
        postgres.sql("ALTER DATABASE postgres RESET synchronous_commit")
