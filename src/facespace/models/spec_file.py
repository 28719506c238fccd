"""The JSON file next to a model that contains its network's input spec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facespace.errors import ModelError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec

_EXAMPLE = '{"input_spec": "facenet-2018"}'
_MAX_BYTES = 2**20


def spec_path(model: Path) -> Path:
    """Return the path of a model's JSON file: `name.json` next to `name.pb` or next to the folder `name`."""
    if not model.is_dir():
        return model.with_suffix(".json")
    folder = model if model.name not in ("", "..") else model.resolve()  # `.` has no name of its own
    return folder.with_name(f"{folder.name}.json") if folder.name else folder


def read_spec_of(model: Path) -> InputSpec | None:
    """Read the spec in the JSON file next to a model; None if there is no such file. Raises `ModelError`."""
    path = spec_path(model)
    return read_spec(path) if path != model and path.is_file() else None


def read_spec(path: Path) -> InputSpec:
    """Read an `InputSpec` from JSON: the key `input_spec` with a preset's name or the fields, or the fields alone.

    Raises `ModelError`.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ModelError(f"{path}: too large for an input spec, {path.stat().st_size} bytes; expected {_EXAMPLE}")
    try:
        entry: Any = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(entry, Mapping) and "size" in entry):
            entry = entry["input_spec"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(
            f"{path}: must be an object like {_EXAMPLE}; if it belongs to something else, move it"
        ) from None
    if isinstance(entry, str):
        if entry not in INPUT_SPECS:
            raise ModelError(f"{path}: the preset must be one of {', '.join(INPUT_SPECS)}, got {entry!r}")
        return INPUT_SPECS[entry]
    if not isinstance(entry, dict):
        raise ModelError(f"{path}: must be an object like {_EXAMPLE}; if it belongs to something else, move it")
    try:
        return InputSpec.from_dict(entry)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
