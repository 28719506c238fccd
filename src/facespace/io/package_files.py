"""Files of installed packages: those of another distribution, and the JSON tables that facespace's own packages carry."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.resources
import json
from pathlib import Path
from typing import Any


def file_of_distribution(distribution: str, file_name: str) -> Path:
    """Return the path of a file in an installed distribution, found by its name without folders. Nothing is imported.

    Raises `importlib.metadata.PackageNotFoundError` if the distribution is not installed, and `FileNotFoundError` if it
    has no such file.

    >>> file_of_distribution("numpy", "METADATA").is_file()
    True
    """
    for file in importlib.metadata.distribution(distribution).files or []:
        if file.name == file_name:
            path = Path(str(file.locate()))
            if path.is_file():
                return path
    raise FileNotFoundError(f"{distribution} has no file {file_name}")


@functools.cache
def json_tables(package: str, folder: str) -> tuple[dict[str, Any], ...]:
    """Return the content of every `.json` file in a folder of an importable package. Each folder is read once.

    >>> sorted({table["model"] for table in json_tables("facespace.embedding", "calibrations")})[:2]
    ['casia-webface', 'sface']
    """
    files = (importlib.resources.files(package) / folder).iterdir()
    return tuple(json.loads(file.read_text(encoding="utf-8")) for file in files if file.name.endswith(".json"))
