"""The address of a PostgreSQL server."""

from __future__ import annotations

import getpass

import pytest

from facespace.errors import GalleryError
from facespace.identification.stores.opening import open_store
from facespace.identification.stores.postgres_address import Address, parse_address


def test_all_of_an_address() -> None:
    text = "postgresql://ad%40a:s%2Fe:c@db.example:6000/my%20faces?sslmode=verify-ca&sslrootcert=/etc/ca.crt&connect_timeout=3"
    assert parse_address(f"{text}&statement_timeout=7&application_name=door&schema=people") == Address(
        "db.example", 6000, "ad@a", "my faces", "s/e:c", "verify-ca", "/etc/ca.crt", 3, 7, "door", "people"
    )


def test_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "of the environment")
    assert parse_address("postgresql://") == Address(
        "localhost", 5432, getpass.getuser(), getpass.getuser(), "of the environment"
    )
    assert parse_address("postgresql://ada:own@h").password == "own"
    assert parse_address("postgresql://ada@h").database == "ada"
    monkeypatch.delenv("PGPASSWORD")
    assert parse_address("postgresql://ada@h").password is None


def test_a_socket_and_parameters_in_the_place_of_parts() -> None:
    address = parse_address("postgresql:///faces?host=/run/postgresql&port=5433&user=ada&password=a&dbname=other")
    assert (address.socket_path, address.user, address.database) == ("/run/postgresql/.s.PGSQL.5433", "ada", "other")
    assert address.name == "postgresql://ada@/other?host=/run/postgresql"
    assert parse_address("postgresql://ada@[::1]/faces?schema=x").name == "postgresql://ada@[::1]:5432/faces?schema=x"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("postgresql://ada:secret@h:99999/d", "must be %-encoded"),
        ("postgresql://ada:sec/secret@h/d", "must be %-encoded"),
        ("postgresql://ada:sec%ffsecret@h/d", "must be %-encoded"),
        ("postgresql://ada:[secret@h/d", "must be %-encoded"),
        ("postgresql://ada:se#secret@h/d", "#"),
        ("postgresql://ada:secret@h/d?sslmode", "must be %-encoded"),
        ("postgresql://ada:secret@h/d?sslmode=allow", "sslmode of disable, prefer, require"),
        ("postgresql://ada:secret@h/d?options=-c", "schema, got 'options'"),
        ("postgresql://ada:secret@h1,h2/d", "a single host"),
        ("postgresql://ada:secret@h/d?port=0", "a port from 1 to 65535"),
        ("postgresql://ada:secret@h/d?connect_timeout=soon", "a connect_timeout from 1 to 86400"),
        ("postgresql://ada:secret@h/d?schema=pg_catalog", "does not begin with pg_"),
        (f"postgresql://ada:secret@h/d?schema={'x' * 64}", "a schema of at most 63 bytes"),
        ("postgresql://ada:secret@h/d%00", "NUL"),
    ],
)
def test_errors_do_not_contain_the_password(text: str, told: str) -> None:
    with pytest.raises(GalleryError) as caught:
        parse_address(text)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_password_is_nowhere() -> None:
    address = parse_address("postgresql://ada:secret@h/d?host=/run")
    assert "secret" not in address.name + repr(address) + str(address)
    with pytest.raises(GalleryError, match="a gallery must be a file, postgresql:// or qdrant://") as caught:
        open_store("mysql://ada:secret@h/d")
    assert "secret" not in str(caught.value)


def test_a_name_has_no_controls() -> None:
    assert parse_address("postgresql://a%1b%5b2Jda@h/d%0ae").name == r"postgresql://a\x1b[2Jda@h:5432/d\ne"
