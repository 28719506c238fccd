"""Finds and checks the weights that facespace's own wheel carries, in `facespace/weights/`.

The build puts them there (`hatch_build.py`): SFace and YuNet of OpenCV Zoo.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from pathlib import Path

from facespace.errors import ModelError

FOLDER = "weights"
_REPAIR = "install facespace again: pip install --force-reinstall --no-deps facespace (in a clone: pip install -e .)"


def packed_path(file_name: str) -> Path:
    """Return the path of a packed file; raises `ModelError` if this installation lacks it."""
    path = Path(str(importlib.resources.files("facespace") / FOLDER / file_name))
    if not path.is_file():
        raise ModelError(f"{path}: the weights are missing from this installation; {_REPAIR}")
    return path


def read_packed(file_name: str, sha256: str) -> bytes:
    """Return the content of a packed file; raises `ModelError` if it is missing or its SHA-256 differs."""
    path = packed_path(file_name)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ModelError(f"{path}: the file was changed or cut short since it was published; {_REPAIR}")
    return data
