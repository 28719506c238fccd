"""A service in its own process and a client of it, shared by the tests of `client/` and `cli/`.

Tests of other packages have their own fixtures of these names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from facespace.client.client import Client
    from support.service import Served


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from support.service import served

    with served(tmp_path_factory.mktemp("service")) as there:
        yield there


@pytest.fixture
def client(service: Served) -> Iterator[Client]:
    """A client of an empty gallery."""
    from facespace.client.client import Client

    with Client(service.url) as made:
        for person in made.people():
            made.erase(person)
        yield made
