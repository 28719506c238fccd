"""Waits for the work of another thread or process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_until(condition: Callable[[], Any], otherwise: str = "", *, seconds: float = 60.0) -> Any:
    """Return the value of `condition` once it is true; raise `AssertionError` with `otherwise` if that takes too long."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, otherwise or f"not true within {seconds} s: {condition}"
        time.sleep(0.01)
    return found
