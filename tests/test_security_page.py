"""Checks that the tests named in docs/security.md exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def named() -> list[tuple[str, str]]:
    """Yield (test file, test name) pairs of the page; a name without a file belongs to the file named before it."""
    found, file = [], ""
    for word in re.findall(r"`(tests/[^`]+|test_[^`]+)`", (ROOT / "docs" / "security.md").read_text(encoding="utf-8")):
        path, _, name = word.rpartition("::") if "::" in word else (word, "", "") if "/" in word else ("", "", word)
        file = path or file
        found.append((file, name))
    return found


@pytest.mark.parametrize(("file", "name"), named())
def test_named_tests_exist(file: str, name: str) -> None:
    assert re.search(rf"^def {name}", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
