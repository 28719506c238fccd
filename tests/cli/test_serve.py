"""facespace serve: options become settings, and errors are one line."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest

from facespace.server import running
from facespace.server.settings import Settings


@pytest.fixture
def serve(monkeypatch, capsys):
    """Run the command in this process; return the settings it would use, the exit code, and stderr."""
    from facespace.cli.main import main

    monkeypatch.delenv("FACESPACE_GALLERY", raising=False)
    monkeypatch.delenv("FACESPACE_MAX_PIXELS", raising=False)

    def run(*arguments: str) -> tuple[Settings | None, int, str]:
        given: list[Settings] = []
        monkeypatch.setattr(running, "run", given.append)
        monkeypatch.setattr(sys, "argv", ["facespace", *arguments])
        code: Any = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
        return (given[0] if given else None), int(code or 0), capsys.readouterr().err

    return run


def test_by_default_it_serves_this_machine(serve):
    settings, code, _ = serve("serve")
    assert code == 0
    assert settings == Settings("people.gallery")


def test_options_become_settings(serve):
    settings, _, _ = serve(
        "serve", "--gallery", "a.gallery", "--host", "0.0.0.0", "--port", "0", "--no-page", "--state", "s", "--workers", "3",
        "--root-path", "/faces", "--host-name", "faces.example", "--proxy", "10.0.0.1", "--proxy", "10.0.0.2", "--no-crops",
        "--unknowns-days", "0", "--rate", "5", "--burst", "9", "--max-body", "8", "--max-photos", "7", "--queue", "6",
        "--request-seconds", "30", "--allow-private-webhooks", "--mqtt", "mqtt://host/faces", "--log-level", "warning",
    )  # fmt: skip
    assert settings == Settings(
        "a.gallery", host="0.0.0.0", port=0, page=False, state="s", workers=3, root_path="/faces", hosts=("faces.example",),
        forwarded_from=("10.0.0.1", "10.0.0.2"), keep_crops=False, unknowns_days=None, rate_per_second=5.0, burst=9,
        max_body=8 * 2**20, max_photos=7, queue=6, request_seconds=30.0, allow_private_webhooks=True,
        mqtt="mqtt://host/faces", log_level="warning",
    )  # fmt: skip


def test_the_limit_of_pixels_is_that_of_all_commands(serve, monkeypatch):
    monkeypatch.setenv("FACESPACE_MAX_PIXELS", "1000")
    assert serve("serve")[0].max_pixels == 1000


@pytest.mark.parametrize(
    "wrong",
    [["--root-path", "faces"], ["--workers", "0"], ["--port", "99999"], ["--max-body", "0"], ["--log-level", "loud"]],
)
def test_values_out_of_range_are_usage_errors(serve, wrong):
    settings, code, errors = serve("serve", *wrong)
    assert settings is None
    assert code in (1, 2)
    assert wrong[0].strip("-").replace("-", "_") in errors.replace("-", "_")


def test_a_missing_extra_is_reported(serve, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    settings, code, errors = serve("serve")
    assert (settings, code) == (None, 1)
    assert "pip install 'facespace[serve]'" in errors
    assert "uvicorn" in errors
