"""Checks that importing facespace and asking for help load little and have no side effects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "numpy",
    "PIL",
    "onnxruntime",
    "openvino",
    "torch",
    "google.protobuf",
    "matplotlib",
    "jinja2",
    "pooch",
}


def loaded_by(code: str, folder: Path) -> set[str]:
    """Return the modules loaded in a fresh interpreter after running `code`; it must not create files."""
    code = f"import json, sys\ntry:\n  {code}\nexcept SystemExit: pass\nprint('', json.dumps(list(sys.modules)), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=True, cwd=folder, env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    assert done.stderr == ""
    assert os.listdir(folder) == []
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_nothing(tmp_path: Path) -> None:
    modules = loaded_by("import facespace", tmp_path)
    assert "facespace" in modules
    assert not modules & HEAVY
    assert [name for name in modules if name.startswith("facespace.")] == ["facespace._lazy"]


def test_a_name_loads_its_module(tmp_path: Path) -> None:
    modules = loaded_by("from facespace import FacespaceError", tmp_path)
    assert "facespace.errors" in modules
    assert not modules & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["identify", "--help"], ["gallery", "--help"], ["demo", "-h"]],
    ids=" ".join,
)
def test_help_loads_no_network(tmp_path: Path, arguments: list[str]) -> None:
    modules = loaded_by(f"sys.argv[1:] = {arguments}; from facespace.cli.main import main; main()", tmp_path)
    assert "facespace.cli.main" in modules
    assert not modules & HEAVY


def test_a_gallery_is_listed_without_a_network(tmp_path: Path) -> None:
    modules = loaded_by(
        "sys.argv[1:] = ['gallery', 'list', '--gallery', '/no/such']; sys.stderr = sys.stdout;"
        " from facespace.cli.main import main; main()",
        tmp_path,
    )
    assert "facespace.identification.gallery" in modules
    assert not modules & {"onnxruntime", "openvino", "torch"}
