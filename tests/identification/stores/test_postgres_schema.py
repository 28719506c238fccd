"""The tables of a gallery on PostgreSQL: created once, migrated, and refused if they are another program's."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification.stores import postgres_schema
from facespace.identification.stores.opening import open_store
from facespace.identification.stores.postgres import PostgresStore
from facespace.identification.stores.postgres_address import parse_address
from facespace.identification.stores.protocol import Entry
from support.postgres_server import PostgresServer


def refused(address: str, match: str, *, create: bool = True) -> None:
    with pytest.raises(GalleryError, match=match) as caught:
        PostgresStore(address, create=create).close()
    assert str(caught.value).startswith(parse_address(address).name) and "\n" not in str(caught.value)


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    name = f"d{uuid.uuid4().hex[:12]}"
    postgres.sql(f"CREATE DATABASE {name}")
    yield name
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


def test_it_is_made_when_somebody_enrols(postgres: PostgresServer, database: str) -> None:
    address = postgres.address(database=database)
    refused(address, "no gallery there; create one with facespace enroll", create=False)
    store = open_store(address, create=True)
    store.add("Ada", Entry(np.eye(4, dtype=np.float32)[0], "0" * 64, "", ""))
    store.close()
    store = open_store(address)
    assert store.count() == 1
    store.close()
    found = postgres.sql(
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'facespace'::regnamespace AND relkind = 'r'", database
    )
    assert found == [(len(postgres_schema._NAMES),)]


def test_eight_processes_create_it_at_once(postgres: PostgresServer, database: str) -> None:
    def make(_: int) -> list[str]:
        store = PostgresStore(postgres.address(database=database), create=True)
        try:
            return store.collections()
        finally:
            store.close()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(make, range(8))) == [["default"]] * 8
    assert postgres.sql("SELECT version FROM facespace.migration", database) == [(postgres_schema.VERSION,)]


@pytest.mark.parametrize("schema", ['We"ird. näme', "select"])
def test_a_schema_of_any_name(postgres: PostgresServer, schema: str) -> None:
    address = postgres.address(schema=schema)
    store = PostgresStore(address, create=True)
    store.add("Ada", Entry(np.eye(4, dtype=np.float32)[0], "0" * 64, "", ""))
    assert store.nearest(np.eye(4, dtype=np.float32)[:1], 1).people.tolist() == [[1]]
    assert store.build_index(4)
    store.close()
    store = PostgresStore(address)
    assert store.count() == 1
    store.close()
    quoted = schema.replace('"', '""')
    postgres.sql(f'DROP SCHEMA "{quoted}" CASCADE')


def test_tables_of_before_are_brought_up_to_date_and_newer_ones_are_refused(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = postgres.gallery()
    PostgresStore(address, create=True).close()
    before = postgres_schema.VERSION
    with monkeypatch.context() as later:
        later.setattr(
            postgres_schema, "MIGRATIONS", (*postgres_schema.MIGRATIONS, ("ALTER TABLE person ADD age integer",))
        )
        later.setattr(postgres_schema, "VERSION", before + 1)

        def opened(_: int) -> tuple[str, ...]:
            store = PostgresStore(address)
            assert store.people() == []
            with store._read() as cursor:
                assert cursor.rows("SELECT age FROM person") == []
            store.close()
            return store.remarks

        with ThreadPoolExecutor(4) as pool:
            remarks = list(pool.map(opened, range(4)))
        assert [one for one in remarks if one] == [
            (f"{parse_address(address).name}: its tables were converted from version {before} to {before + 1}",)
        ]
        with monkeypatch.context() as wrong:
            wrong.setattr(postgres_schema, "VERSION", before + 2)
            wrong.setattr(
                postgres_schema,
                "MIGRATIONS",
                (*postgres_schema.MIGRATIONS, ("ALTER TABLE person ADD x integer", "no SQL")),
            )
            refused(address, "syntax error")
        assert opened(0) == ()
        assert not _has_x(postgres, address), "a migration is atomic"
    refused(address, f"newer facespace \\(version {before + 1}, this one knows up to {before}\\); upgrade")


def _has_x(postgres: PostgresServer, address: str) -> bool:
    schema = parse_address(address).schema
    return bool(
        postgres.sql(f"SELECT 1 FROM information_schema.columns WHERE table_schema = '{schema}' AND column_name = 'x'")
    )


@pytest.mark.parametrize(
    ("sql", "match"),
    [
        (
            "CREATE TABLE {}.customers (id integer)",
            "tables or views that are not facespace's \\('customers'\\); choose another",
        ),
        ("CREATE TABLE {}.person (id integer)", "has tables, but no gallery of facespace; choose another one with"),
        ("CREATE VIEW {}.person AS SELECT 1", "not facespace's \\('person'\\)"),
        ("CREATE TABLE {}.migration AS SELECT 1 AS version, now() AS at", "damaged \\(the table collection is missing"),
    ],
)
def test_the_schema_of_another_program(postgres: PostgresServer, sql: str, match: str) -> None:
    PostgresStore(postgres.gallery(), create=True).close()  # makes the extension, if this is the server's first test
    address = postgres.gallery()
    schema = parse_address(address).schema
    postgres.sql(f"CREATE SCHEMA {schema}")
    postgres.sql(sql.format(schema))
    for create in (False, True):
        refused(address, match, create=create)
    postgres.sql(f"DROP SCHEMA {schema} CASCADE")


def test_an_empty_schema_is_taken(postgres: PostgresServer) -> None:
    address = postgres.gallery()
    postgres.sql(f"CREATE SCHEMA {parse_address(address).schema}")
    PostgresStore(address, create=True).close()
    PostgresStore(address).close()


def test_without_the_extension(postgres: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = postgres.address(database=database)
    PostgresStore(address, create=True).close()
    postgres.sql("DROP EXTENSION vector CASCADE", database)
    refused(address, r"the database has no extension vector \(pgvector\); install it .* CREATE EXTENSION vector")


def test_a_user_who_may_not_make_the_extension(postgres: PostgresServer, database: str) -> None:
    postgres.sql("CREATE ROLE little LOGIN")
    postgres.sql("CREATE SCHEMA facespace AUTHORIZATION little", database)
    try:
        refused(
            postgres.address(user="little", database=database),
            "permission denied to create extension .*lacks a permission",
        )
    finally:
        postgres.sql("DROP OWNED BY little CASCADE", database)
        postgres.sql("DROP ROLE little")


def test_an_extension_elsewhere_and_an_old_one(
    postgres: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.sql("CREATE SCHEMA extensions", database)
    postgres.sql("CREATE EXTENSION vector SCHEMA extensions", database)
    address = postgres.address(database=database)
    store = PostgresStore(address, create=True)
    store.add("Ada", Entry(np.eye(4, dtype=np.float32)[0], "0" * 64, "", ""))
    assert store.nearest(np.eye(4, dtype=np.float32)[:1], 1).people.tolist() == [[1]]
    store.close()
    postgres.sql("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'", database)
    refused(address, "pgvector must be 0.8 or later, got 0.7.4")


def test_a_database_of_another_encoding(postgres: PostgresServer) -> None:
    postgres.sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        refused(postgres.address(database="latin"), "ENCODING must be 'UTF8', got LATIN1; create another one")
    finally:
        postgres.sql("DROP DATABASE latin WITH (FORCE)")


def test_a_server_that_is_too_old(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_schema, "_OLDEST_SERVER", 990_000)
    refused(postgres.gallery(), "PostgreSQL must be version 13 or later, got 18")
