"""Fixtures shared by tests of the service: its state file, and its events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from facespace.server.events import Events
    from facespace.server.state import State


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    from facespace.server.state import State

    opened = State(tmp_path / "state")
    yield opened
    opened.close()


@pytest.fixture
def events(state: State) -> Iterator[Events]:
    from facespace.server.events import Events

    opened = Events(state)
    yield opened
    opened.close()
