"""The project's own model format: a folder with `model.json`, which describes the model, and the weights.

`model.safetensors` contains the weights of a network of `backbones/`, for training and GPUs; `model.onnx` contains the
same network for processors. A folder has one of them or both. `model.json` is one object:

    {"format": "facespace-model", "version": 1, "name": "…", "fingerprint": "…",
     "backbone": "inception-resnet-v1" or null, "options": {…}, "dimension": 512,
     "input_spec": {…}, "files": {"model.onnx": "SHA-256", …},
     "source": {…}, "training": {…}, "metrics": {…}, "revision": "facespace 0.1.0"}
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facespace._version import __version__
from facespace.errors import ModelError
from facespace.faces.input_spec import InputSpec
from facespace.io.files import TEMPORARY, named_in_errors, sync_file, sync_folder
from facespace.io.protobuf import MAX_WEIGHTS

if TYPE_CHECKING:
    from facespace.backbones.backbone import Backbone

RECORD, ONNX, WEIGHTS = "model.json", "model.onnx", "model.safetensors"
# Names in the folder of a training run; its models are model folders.
RECIPE, RUN, METRICS = "recipe.toml", "run.json", "metrics.jsonl"
CHECKPOINTS, BEST, MODEL = "checkpoints", "best", "model"
_MAX_RECORD = 2**20
_FORMAT, _VERSION = "facespace-model", 1


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """The content of `model.json`.

    `fingerprint` is the SHA-256 that identifies the weights in galleries and calibrations; a conversion that changes no
    embedding keeps the fingerprint of its source. `files` maps the weight files to their SHA-256. `source`, `training`
    and `metrics` have no fixed form; they describe the origin of the weights, their training and measured figures.
    """

    name: str
    fingerprint: str
    dimension: int
    input_spec: InputSpec
    backbone: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    revision: str = f"facespace {__version__}"

    def as_dict(self) -> dict[str, Any]:
        """Return the object to write to `model.json`."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in _FIELDS}
        return {"format": _FORMAT, "version": _VERSION, **fields, "input_spec": self.input_spec.as_dict()}


_FIELDS = tuple(entry.name for entry in dataclasses.fields(ModelRecord))
_OBJECTS = ("options", "files", "source", "training", "metrics")


def is_model_folder(path: Path) -> bool:
    """Return whether the folder contains a `model.json`."""
    return (path / RECORD).is_file()


def write_model(out: Path, record: ModelRecord, files: Mapping[str, bytes]) -> ModelRecord:
    """Write a model folder atomically; return the record with the files' SHA-256.

    Raises `ModelError` if `out` already exists, because nothing is overwritten.
    """
    if os.path.lexists(out):
        raise ModelError(f"{out}: already exists; give another folder or remove it first")
    record = dataclasses.replace(record, files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    with named_in_errors(out):
        folder.mkdir()
    try:
        for name, data in [*files.items(), (RECORD, (json.dumps(record.as_dict(), indent=1) + "\n").encode())]:
            with named_in_errors(out):
                (folder / name).write_bytes(data)
                sync_file(folder / name)
        sync_folder(folder)
        try:
            folder.rename(out)
        except OSError:
            if out.exists():  # another process was faster
                raise ModelError(f"{out}: already exists; give another folder or remove it first") from None
            raise
        sync_folder(out.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return record


def read_record(folder: Path) -> ModelRecord:
    """Read the record of a model folder; raises `ModelError`, which names what is missing or wrong."""
    path = folder / RECORD
    if not path.is_file():
        raise ModelError(f"{folder}: not a model folder, {RECORD} is missing; facespace convert makes one")
    if path.stat().st_size > _MAX_RECORD:
        raise ModelError(f"{path}: must have at most {_MAX_RECORD} bytes, got {path.stat().st_size}")
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ModelError(f"{path}: not JSON") from None
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise ModelError(f'{path}: must be an object with "format": "{_FORMAT}"')
    if data.get("version") != _VERSION:
        raise ModelError(f"{path}: the version must be {_VERSION} for this facespace, got {data.get('version')!r}")
    values = {key: value for key, value in data.items() if key not in ("format", "version")}
    if unknown := sorted(set(values) - set(_FIELDS)):
        raise ModelError(f"{path}: unknown field {unknown[0]!r}")
    good = {
        "name": isinstance(values.get("name"), str),
        "fingerprint": _is_sha256(values.get("fingerprint")),
        "dimension": type(values.get("dimension")) is int and 0 < values["dimension"] <= 2**16,
        "input_spec": isinstance(values.get("input_spec"), dict),
        "backbone": values.get("backbone") is None or isinstance(values["backbone"], str),
        "revision": isinstance(values.get("revision", ""), str),
        **{name: isinstance(values.get(name, {}), dict) for name in _OBJECTS},
    }
    for name, fits in good.items():
        if not fits:
            raise ModelError(f"{path}: {name} cannot be {values.get(name)!r}"[:300])
    files = values.get("files", {})
    if not set(files) <= {ONNX, WEIGHTS} or not all(map(_is_sha256, files.values())):
        raise ModelError(f"{path}: files must be the SHA-256 of {ONNX} and {WEIGHTS}")
    try:
        values["input_spec"] = InputSpec.from_dict(values["input_spec"])
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    return ModelRecord(**values)


def read_weights_file(folder: Path, record: ModelRecord, name: str) -> bytes:
    """Read one of a folder's weight files; raises `ModelError` if its SHA-256 differs from the record."""
    path = folder / name
    if name not in record.files or not path.is_file():
        raise ModelError(f"{folder}: {name} is missing")
    size = path.stat().st_size
    if size > MAX_WEIGHTS:
        raise ModelError(f"{path}: a model in one file must have at most {MAX_WEIGHTS} bytes, got {size}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != record.files[name]:
        raise ModelError(f"{path}: not the file that {RECORD} describes; it is damaged or was replaced")
    return data


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def is_run(path: Path) -> bool:
    """Return whether the folder contains a `recipe.toml` and a `run.json`."""
    return (path / RECIPE).is_file() and (path / RUN).is_file()


def read_backbone(folder: Path, record: ModelRecord) -> Backbone:
    """Return the network of a model folder in evaluation mode; raises `ModelError` if weights and record do not match."""
    from facespace.formats.torch_files import load_state, parse_safetensors, require_torch

    require_torch("this model")
    from facespace.backbones.registry import create

    if record.backbone is None:
        raise ModelError(f"{folder}: its record names no backbone, so {WEIGHTS} cannot be used")
    state = parse_safetensors(read_weights_file(folder, record, WEIGHTS), str(folder / WEIGHTS))
    try:
        backbone = create(record.backbone, **record.options)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{folder}: the options {dict(record.options)} are not valid for {record.backbone} ({error})"
        ) from None
    if backbone.dimension != record.dimension:
        raise ModelError(
            f"{folder}: the dimension must be {backbone.dimension} with these options, got {record.dimension}"
        )
    load_state(backbone, state, str(folder / WEIGHTS))
    return backbone.eval()
