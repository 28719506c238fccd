"""For tests that need more than `make test` installs: they skip without it, and fail under CI, which installs
everything.
"""

from __future__ import annotations

import importlib.util
import os
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the running test for this reason, or fail it if `CI=true`."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI runs this test, but {reason}")
    pytest.skip(reason)


def need_packages(*modules: str) -> None:
    """Skip or fail the running test unless these modules are installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            skip_or_fail(f"{module} is not installed: make .venv/ci")
