"""Checks that docs/limits.md names every limit in the code with its value."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "facespace"
ROWS = re.findall(
    r"^\| .+? \| ([\d,]+)[^|]* \| `([\w.]+)` \|",
    (ROOT / "docs" / "limits.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize(("number", "where"), ROWS, ids=[where for _, where in ROWS])
def test_the_number_is_that_of_the_code(number: str, where: str) -> None:
    module, name = where.rsplit(".", 1)
    assert getattr(importlib.import_module(f"facespace.{module}"), name) == int(number.replace(",", ""))


def test_no_limit_is_missing() -> None:
    limits = set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for target in node.targets if isinstance(node, ast.Assign) else []:
                if isinstance(target, ast.Name) and re.match(r"_?MAX_(?!PIXELS_VARIABLE)", target.id):
                    limits.add(f"{module}.{target.id}")
    assert not limits - {where for _, where in ROWS}
