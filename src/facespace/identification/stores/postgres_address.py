"""Parses the address of a PostgreSQL server, in the format of libpq."""

from __future__ import annotations

import getpass
import os
import urllib.parse
from dataclasses import dataclass, field

from facespace.errors import GalleryError
from facespace.io.text import one_line

SSL_MODES = ("disable", "prefer", "require", "verify-ca", "verify-full")
_PARTS = ("user", "password", "host", "port", "dbname")  # in the address itself, or as parameters after "?"
_OPTIONS = ("sslmode", "sslrootcert", "connect_timeout", "statement_timeout", "application_name", "schema")
_MAX_SECONDS = 86_400
_MAX_SCHEMA = 63  # bytes, PostgreSQL's limit for a name


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server and the user's credentials; timeouts are in seconds.

    `password` does not appear in messages or in `repr`.
    """

    host: str
    port: int
    user: str
    database: str
    password: str | None = field(default=None, repr=False)
    sslmode: str = "prefer"
    sslrootcert: str = ""
    connect_timeout: float = 10
    statement_timeout: float = 60
    application_name: str = "facespace"
    schema: str = "facespace"

    @property
    def socket_path(self) -> str | None:
        """The path of the Unix socket if `host` is a folder, otherwise None."""
        return f"{self.host}/.s.PGSQL.{self.port}" if self.host.startswith("/") else None

    @property
    def name(self) -> str:
        """The address without its password, for messages."""
        if self.socket_path is not None:
            shown = f"postgresql://{self.user}@/{self.database}?host={self.host}"
        else:
            host = f"[{self.host}]" if ":" in self.host else self.host
            shown = f"postgresql://{self.user}@{host}:{self.port}/{self.database}"
        if self.schema != "facespace":
            shown += f"{'&' if '?' in shown else '?'}schema={self.schema}"
        return one_line(shown)


def parse_address(text: str) -> Address:
    """Parse `postgresql://[user[:password]@][host][:port][/dbname][?parameter=value&…]`.

    The parameters are `user`, `password`, `host` (a name, or the folder of a Unix socket), `port`, `dbname`, `sslmode`,
    `sslrootcert`, `connect_timeout` and `application_name`, all as in libpq, `statement_timeout` (in seconds, by default
    60), and `schema`, the schema of the gallery's tables (by default `facespace`). The default user is the system's user,
    the default database has the user's name, the default host is `localhost`, and the default password is the environment
    variable `PGPASSWORD`. Raise `GalleryError` for anything else. No message repeats the address, which may contain a
    password.

    >>> address = parse_address("postgresql://ada:secret@db.example:5433/faces?sslmode=verify-full")
    >>> address.name, address.password, address.sslmode
    ('postgresql://ada@db.example:5433/faces', 'secret', 'verify-full')
    """
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
        options = urllib.parse.parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        given = {key: urllib.parse.unquote(value or "", errors="strict") for key, value in (
            ("user", parts.username), ("password", parts.password), ("host", parts.hostname),
            ("dbname", parts.path.removeprefix("/")),
        )}  # fmt: skip
    except ValueError:  # also for an invalid port, which may be part of a password
        raise _wrong("cannot be parsed; :/@?#%[] in a user, password or name must be %-encoded") from None
    if parts.fragment:
        raise _wrong("must not have a #; write %23 for one in a password")
    known = (*_PARTS, *_OPTIONS)
    for key, value in options:
        if key not in known:
            raise _wrong(f"must have only the parameters {', '.join(known)}, got {one_line(key)[:40]!r}")
        given[key] = value
    if port is not None:
        given.setdefault("port", str(port))
    if any("\0" in value for value in given.values()):
        raise _wrong("must not contain a NUL character")
    user = given["user"] or _system_user()
    schema = given.get("schema", "") or "facespace"
    if len(schema.encode()) > _MAX_SCHEMA or schema.startswith("pg_"):
        raise _wrong(f"must have a schema of at most {_MAX_SCHEMA} bytes that does not begin with pg_")
    host = given["host"] or "localhost"
    if "," in host:
        raise _wrong("must name a single host")
    sslmode = given.get("sslmode", "") or "prefer"
    if sslmode not in SSL_MODES:
        raise _wrong(f"must have an sslmode of {', '.join(SSL_MODES)}")
    return Address(
        host.rstrip("/") if host.startswith("/") else host,
        int(_number(given.get("port", ""), "port", 5432, 65_535)),
        user,
        given["dbname"] or user,
        given["password"] or os.environ.get("PGPASSWORD") or None,
        sslmode,
        given.get("sslrootcert", ""),
        _number(given.get("connect_timeout", ""), "connect_timeout", 10, _MAX_SECONDS),
        _number(given.get("statement_timeout", ""), "statement_timeout", 60, _MAX_SECONDS),
        given.get("application_name", "") or "facespace",
        schema,
    )


def _number(text: str, what: str, default: int, most: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= most):
        raise _wrong(f"must have a {what} from 1 to {most}")
    return int(text)


def _system_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        raise _wrong("must name a user, as the system's user has no name") from None


def _wrong(what: str) -> GalleryError:
    return GalleryError(f"the address postgresql://… {what}")
