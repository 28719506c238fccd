"""Checks that docs/serving.md names every option, role and error code, and no others."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from facespace.server.keys import ROLES
from facespace.server.problems import PROBLEMS
from facespace.server.webhook_targets import signature

ROOT = Path(__file__).parents[1]
if not (ROOT / "docs" / "serving.md").is_file():
    pytest.skip("needs the clone, not the tests alone", allow_module_level=True)
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    return PAGE[PAGE.index(f"\n## {heading}\n") :].split("\n## ")[1]


def test_every_option_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "facespace", "serve", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    options = set(re.findall(r"^ +(--[a-z][a-z-]+)", done.stdout, re.MULTILINE)) - {"--help"}
    assert options
    assert set(re.findall(r"`(--[a-z][a-z-]+)", section("Options"))) == options


def test_every_error_is_documented_with_its_status() -> None:
    described = {
        code: int(row[0])
        for row in re.findall(r"^\| (\d{3}) \| (.+?) \|", section("Errors"), re.MULTILINE)
        for code in re.findall(r"`(\w+)`", row[1])
    }
    assert described == {code: status for code, (status, _) in PROBLEMS.items()}


def test_every_role_is_documented() -> None:
    assert re.findall(r"^\| `(\w+)` \|", section("Keys"), re.MULTILINE) == list(ROLES)


@pytest.mark.parametrize("name", ["serving.md", "client.md", "events.md"])
def test_files_and_headings_that_are_linked_are_there(name: str) -> None:
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", page):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        assert not path or (ROOT / "docs" / path).exists() or "results" in path, target
        assert path or anchor in anchors, target


def test_the_documented_signature_check_accepts_the_services_signatures() -> None:
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import hashlib.*?)```", page, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    now = int(time.time())
    header = signature("secret", b'{"id":"1"}', at=now)
    assert namespace["is_genuine"]("secret", header, b'{"id":"1"}')
    assert not namespace["is_genuine"]("secret", header, b'{"id":"2"}')
    assert not namespace["is_genuine"]("other", header, b'{"id":"1"}')
    assert not namespace["is_genuine"]("secret", signature("secret", b"", at=now - 1000), b"")
    assert not namespace["is_genuine"]("secret", "", b"")
