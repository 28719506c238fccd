"""The JSON file beside a model that says what its network was trained to see."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facespace.errors import ModelError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec

_EXAMPLE = '{"input_spec": "facenet-2018"}'
_MAX_BYTES = 2**20


def path_beside(model: Path) -> Path:
    """Where the JSON file of a model would be: `name.json` beside `name.pb`, or beside the folder `name`."""
    if not model.is_dir():
        return model.with_suffix(".json")
    folder = model if model.name not in ("", "..") else model.resolve()  # `.` has no name of its own
    return folder.with_name(f"{folder.name}.json") if folder.name else folder


def spec_beside(model: Path) -> InputSpec | None:
    """What the JSON file beside a model says, or None where there is none; raises `ModelError`."""
    beside = path_beside(model)
    return read_spec(beside) if beside != model and beside.is_file() else None


def read_spec(path: Path) -> InputSpec:
    """The `InputSpec` of a JSON file: a preset's name or the fields, under the key `input_spec`, or the fields alone.

    Raises `ModelError`.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ModelError(f"{path}: {path.stat().st_size} bytes; an input spec has a few lines, like {_EXAMPLE}")
    try:
        entry: Any = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(entry, Mapping) and "size" in entry):
            entry = entry["input_spec"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(
            f"{path}: wants an object like {_EXAMPLE}; where it belongs to something else, move it"
        ) from None
    if isinstance(entry, str):
        if entry not in INPUT_SPECS:
            raise ModelError(f"{path}: no preset {entry!r}; there are {', '.join(INPUT_SPECS)}")
        return INPUT_SPECS[entry]
    if not isinstance(entry, dict):
        raise ModelError(f"{path}: wants an object like {_EXAMPLE}; where it belongs to something else, move it")
    try:
        return InputSpec.from_dict(entry)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
