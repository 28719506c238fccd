"""Closes the galleries that a test leaves open: from Python 3.13 on, SQLite warns of a connection that is not closed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from facespace.identification.stores.sqlite import SQLiteStore


@pytest.fixture(autouse=True)
def _galleries_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    opened: list[SQLiteStore] = []
    initialise = SQLiteStore.__init__

    def noted(self: SQLiteStore, *arguments: Any, **options: Any) -> None:
        opened.append(self)
        initialise(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(SQLiteStore, "__init__", noted)
        yield
    for store in opened:
        with contextlib.suppress(AttributeError):  # it could not be opened
            store.close()
