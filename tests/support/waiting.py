"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_until(condition: Callable[[], Any], otherwise: str = "", *, seconds: float = 60.0) -> Any:
    """What `condition` returns once it is true; an `AssertionError` that says `otherwise` if that takes too long."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, otherwise or f"not true within {seconds} s: {condition}"
        time.sleep(0.01)
    return found
