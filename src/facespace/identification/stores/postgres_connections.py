"""A pool of connections to a PostgreSQL server, each used by one thread at a time and reopened after a server restart."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from facespace.errors import GalleryError
from facespace.identification.stores.postgres_address import Address
from facespace.identification.stores.protocol import Conflict
from facespace.identification.stores.sql_tables import Row
from facespace.io.text import one_line

_N_CONNECTIONS = 8  # at most, per process; a server allows 100 in total by default
_KEPT_STATEMENTS = 200  # prepared statements of a connection
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # the protocol's request for TLS
_STARTING = "57P03"  # the server is starting up or shutting down
_LOST = ("57P01", "57P02", _STARTING)  # the server was stopped, crashed, or is starting
_RETRY_SECONDS = 0.1  # between two attempts to connect

# Advice for the user by PostgreSQL's error code, or its first two characters.
_REMEDIES = {
    "28": "the server refuses the user or the password",
    "3D": "there is no such database; create it with createdb",
    "42501": "this user lacks a permission; ask the administrator of the database for it",
    "57014": "the server did not answer within statement_timeout; is another process writing, or is it overloaded?",
    "55P03": "the server waited too long for a lock; try again",
    "53300": "the server has no connection left; close others, or raise its max_connections",
    "53100": "the server's disk is full; make room and start the same command again",
    "25006": "the server is read-only; is it a replica?",
    "23505": "another process was first; try again",
    "42P01": "damaged: a table is missing",
    "42703": "damaged: a column is missing",
}


class Lost(GalleryError):
    """The connection was lost; any statement except a commit can be retried."""


class Cursor:
    """Runs statements on one connection, with `?` as the placeholder for values."""

    def __init__(self, connection: Any, address: Address) -> None:
        self._connection, self._address = connection, address
        self._prepared: dict[str, Any] = {}

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of a SELECT. The statement is prepared: repeated calls send only the values."""
        self._check(values)
        with answers(self._address):
            statement = self._prepared.get(sql)
            if statement is None:
                if len(self._prepared) >= _KEPT_STATEMENTS:  # lists of ids make ever more different statements
                    return self.once(sql, values)
                statement = self._prepared[sql] = self._connection.prepare(_numbered(sql))
            return [tuple(row) for row in statement.run(**_named(values)) or ()]

    def once(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of a statement without preparing it; PostgreSQL cannot prepare some, such as BEGIN."""
        self._check(values)
        with answers(self._address):
            return [tuple(row) for row in self._connection.run(_numbered(sql), **_named(values)) or ()]

    def change(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run an INSERT, UPDATE or DELETE; return the number of rows it changed."""
        return len(self.rows(f"{sql} RETURNING 1", values))

    def insert(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run an INSERT; return the id of the new row."""
        key = self.rows(f"{sql} RETURNING id", values)[0][0]
        assert isinstance(key, int)
        return key

    def _check(self, values: Sequence[Any]) -> None:
        """Raise `GalleryError` for values that cannot be sent; an error amid sending would break the connection."""
        try:
            if any("\0" in value.encode().decode() for value in values if isinstance(value, str)):
                raise GalleryError(f"{self._address.name}: a text with a NUL cannot be stored")
        except UnicodeError:
            raise GalleryError(f"{self._address.name}: a text that is not UTF-8 cannot be stored") from None

    def close(self) -> None:
        """Close the connection, broken or not."""
        with contextlib.suppress(Exception):
            self._connection.close()


class Connections:
    """Up to eight connections of this process; threads wait for a free one. After `fork`, the child opens its own."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.greet: Callable[[Cursor, Address], None] | None = None  # run on every new connection
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._idle: list[Cursor] = []
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(_N_CONNECTIONS)
        self._closed = False
        self._connected = False

    @contextlib.contextmanager
    def lent(self, begin: str) -> Iterator[Cursor]:
        """Lend a connection after running the statement `begin` on it; if the connection is lost, open a new one."""
        if self._pid != os.getpid():
            self._inherited = self._idle  # the parent still uses them, so keep them open and referenced here
            self._begin()
        if not self._free.acquire(timeout=self.address.statement_timeout):
            raise GalleryError(
                f"{self.address.name}: all {_N_CONNECTIONS} connections were busy for too long; try again"
            )
        try:
            cursor = self._take(begin)
            try:
                yield cursor
            except BaseException as error:
                # After any other error an answer may be half read; closing the connection rolls the transaction back.
                if not isinstance(error, GalleryError) or isinstance(error, Lost) or not self._rolled_back(cursor):
                    cursor.close()
                    raise
                self._put_back(cursor)
                raise
            self._put_back(cursor)
        finally:
            self._free.release()

    def _rolled_back(self, cursor: Cursor) -> bool:
        try:
            cursor.once("ROLLBACK")
        except GalleryError:
            return False
        return True

    def _put_back(self, cursor: Cursor) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(cursor)
                return
        cursor.close()

    def _take(self, begin: str) -> Cursor:
        while True:
            with self._lock:
                if self._closed:
                    raise GalleryError(f"{self.address.name}: the gallery was closed; open it again")
                cursor = self._idle.pop() if self._idle else None
            if cursor is None:
                break
            try:
                cursor.once(begin)
            except Lost:
                cursor.close()
            else:
                return cursor
        cursor = self.connect()
        try:
            cursor.once(begin)
        except BaseException:
            cursor.close()
            raise
        return cursor

    def connect(self, *, statement_timeout: float | None = None) -> Cursor:
        """Open another connection, which the caller must close; wait for a server that restarts."""
        deadline = time.monotonic() + self.address.connect_timeout
        while True:
            try:
                cursor = connect(self.address, statement_timeout=statement_timeout)
            except Lost as error:
                # Before the first connection, wait only for a server that reports that it is starting.
                if time.monotonic() > deadline or not (self._connected or error.args[1:] == (_STARTING,)):
                    raise GalleryError(error.args[0]) from None
                time.sleep(_RETRY_SECONDS)
            else:
                break
        self._connected = True
        try:
            if self.greet is not None:
                self.greet(cursor, self.address)
        except BaseException:
            cursor.close()
            raise
        return cursor

    def close(self) -> None:
        """Close idle connections now, and lent connections when they are returned."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._closed, idle, self._idle = True, self._idle, []
        for cursor in idle:
            cursor.close()


def connect(address: Address, *, statement_timeout: float | None = None) -> Cursor:
    """Open a connection; raise `Lost` if the server cannot be reached, `GalleryError` if it refuses.

    `statement_timeout` is in seconds, 0 for none.
    """
    try:
        import pg8000.exceptions
        import pg8000.native
    except ImportError as error:
        raise GalleryError(f"a gallery on PostgreSQL needs {error.name}; pip install 'facespace[postgres]'") from None
    timeout = address.statement_timeout if statement_timeout is None else statement_timeout
    link = _socket(address)
    try:
        with answers(address):
            connection = pg8000.native.Connection(
                address.user, host=address.host, database=address.database, password=address.password or "", sock=link,
                ssl_context=False, application_name=address.application_name,
            )  # fmt: skip
            cursor = Cursor(connection, address)
            # A frozen server does not apply its own statement timeout.
            link.settimeout(timeout + address.connect_timeout if timeout else None)
            values = (
                f"{int(timeout * 1000)}", "hex", "off", "force_custom_plan", "utf8", str(int(address.connect_timeout * 1000))
            )  # fmt: skip
            # Custom plans take the values into account: an index of one collection is useless for others.
            cursor.once(
                "SELECT set_config('statement_timeout', ?, false), set_config('bytea_output', ?, false),"
                " set_config('jit', ?, false), set_config('plan_cache_mode', ?, false), set_config('client_encoding', ?, false),"
                " set_config('tcp_user_timeout', ?, false)",
                values,
            )
            # A commit must be on disk when it is acknowledged, even if the server's default is different.
            cursor.once(
                "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
            )
    except BaseException:
        link.close()
        raise
    return cursor


class _Link(socket.socket):
    """A socket whose `close` also closes the file object that pg8000 made of it.

    As long as an error refers to that file, it would keep the socket open. It may also contain bytes that a lost server
    did not take: closed only when it is deleted, it would try to send them again, and Python would report the failure.
    """

    _file: Any = None

    def makefile(self, *arguments: Any, **options: Any) -> Any:
        self._file = super().makefile(*arguments, **options)
        return self._file

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                self.shutdown(socket.SHUT_RDWR)  # so that the file does not wait for a server that takes nothing
            with contextlib.suppress(OSError):
                file.close()
        super().close()


class _TLSLink(_Link, ssl.SSLSocket):
    """A `_Link` with TLS."""


def _socket(address: Address) -> socket.socket:
    """Return a socket to the server, with TLS if the address asks for it."""
    path = address.socket_path
    try:
        if path is None:
            connected = socket.create_connection((address.host, address.port), address.connect_timeout)
            link = _Link(fileno=connected.detach())
            link.settimeout(address.connect_timeout)
        else:
            link = _Link(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                link.settimeout(address.connect_timeout)
                link.connect(path)
            except BaseException:
                link.close()
                raise
    except (OSError, AttributeError, UnicodeError) as error:  # no AF_UNIX on Windows; an invalid host name
        raise Lost(
            f"{address.name}: cannot be reached ({_reason(error)}); is the server running, and does it listen there?"
        ) from None
    if path is not None or address.sslmode == "disable":
        return link
    try:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        context = _tls(address)
        link.sendall(_SSL_REQUEST)
        answer = link.recv(1)
        if answer == b"S":
            return context.wrap_socket(link, server_hostname=address.host)
        if answer == b"N" and address.sslmode == "prefer":
            return link
    except OSError as error:
        link.close()
        if isinstance(error, (ssl.SSLError, FileNotFoundError, PermissionError)):
            raise GalleryError(
                f"{address.name}: TLS with sslmode {address.sslmode} failed ({_reason(error)})"
            ) from None
        raise Lost(f"{address.name}: cannot be reached ({_reason(error)}); is a PostgreSQL server there?") from None
    except BaseException:
        link.close()
        raise
    link.close()
    if answer == b"N":
        raise GalleryError(f"{address.name}: the server does not support TLS, which sslmode {address.sslmode} requires")
    raise Lost(f"{address.name}: cannot be reached (it closed the connection); is a PostgreSQL server there?")


def _tls(address: Address) -> ssl.SSLContext:
    """Return the TLS context for the address's `sslmode`, whose values mean what they mean in libpq.

    `verify-ca` checks the server's certificate; `verify-full` checks the host name too. `require` only encrypts, but
    with a root certificate it is like `verify-ca`.
    """
    context = ssl.create_default_context()
    context.check_hostname = address.sslmode == "verify-full"
    checked = address.sslmode in ("verify-ca", "verify-full") or (address.sslmode == "require" and address.sslrootcert)
    if not checked:
        context.verify_mode = ssl.CERT_NONE
    elif address.sslrootcert not in ("", "system"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = address.sslmode == "verify-full"
        context.load_verify_locations(address.sslrootcert)
    context.sslsocket_class = _TLSLink
    return context


@contextlib.contextmanager
def answers(address: Address) -> Iterator[None]:
    """Convert the driver's errors to one-line errors: `Lost` for a broken connection, else another `GalleryError`."""
    from pg8000.exceptions import DatabaseError, Error

    try:
        yield
    except (Error, OSError, struct.error) as error:
        refusal: BaseException | None = error
        while refusal is not None and not isinstance(refusal, DatabaseError):
            refusal = refusal.__context__  # after a refusal the driver closes the connection, which may fail
        if refusal is not None:
            raise _refused(address, refusal.args[0] if refusal.args else None) from None
        why = _reason(error.__cause__ if isinstance(error.__cause__, TimeoutError) else error)
        raise Lost(f"{address.name}: the connection broke ({why})") from None


def _refused(address: Address, answer: Any) -> GalleryError:
    """Return the error, with one line, for a server's error message."""
    fields = answer if isinstance(answer, dict) else {}
    code, said = str(fields.get("C", "")), one_line(str(fields.get("M", "")))[:300] or "the server gives no reason"
    remedy = _REMEDIES.get(code) or _REMEDIES.get(code[:2])
    line = f"{address.name}: {said}" + (f"; {remedy}" if remedy else "")
    if code in _LOST or code.startswith("08"):
        return Lost(line, code)
    return Conflict(line) if code == "23505" else GalleryError(line)


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer for too long"
    return one_line(str(getattr(error, "strerror", None) or error))[:200] or type(error).__name__


@functools.lru_cache(maxsize=1000)
def _numbered(sql: str) -> str:
    """Return a statement with `?` replaced by PostgreSQL's `$1`, `$2` …

    >>> _numbered("SELECT ? + ?")
    'SELECT $1 + $2'
    """
    first, *rest = sql.split("?")
    return first + "".join(f"${place}{part}" for place, part in enumerate(rest, 1))


def _named(values: Sequence[Any]) -> dict[str, Any]:
    return {f"v{place}": value for place, value in enumerate(values)}
