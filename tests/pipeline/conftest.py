"""Loads networks once and computes each input once for the tests of this package."""

from __future__ import annotations

import pytest

from support.networks_once import load_and_compute_once


@pytest.fixture(autouse=True)
def _networks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    load_and_compute_once(monkeypatch)
