"""Models of other programs opened as they come: what no file beside them says is told from what they hold, and said."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from facespace.conversion.converter import convert
from facespace.embedding.embedder import Embedder
from facespace.errors import ModelError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec, describe_spec
from facespace.formats.onnx_inspection import graph_scaling, spec_of_graph
from facespace.formats.tf_checkpoint import find_checkpoint, is_checkpoint_folder, read_meta_graph
from facespace.formats.tf_graph import Graph, read_graph
from facespace.formats.tf_tensor_bundle import TensorBundle
from facespace.formats.tf_to_onnx import to_onnx
from facespace.models.folder import BEST, MODEL, WEIGHTS, ModelRecord, is_model_folder, is_run, write_model
from facespace.models.opening import find_model
from facespace.models.zoo import MODELS

# What Tiny-Face-Recognition shows its ResNet-50: crops of 112 px, blue first.
TINY_SPEC = InputSpec(112, "arcface", channel_order="BGR", mean=127.5, std=128.0)
_FROZEN = b"\x0a"  # how a frozen graph begins


@dataclass(frozen=True, slots=True)
class Opened:
    """An embedder, and remarks for the user, a line each: what was assumed of the file."""

    embedder: Embedder
    remarks: list[str] = field(default_factory=list)


def open_model(model: str) -> Opened:
    """The model of that name, or in whatever the programs of 2018 and this one leave.

    A frozen graph (`.pb`), the folder of a TensorFlow 1 trainer, one checkpoint in it (`…/model-….ckpt-7`), ONNX, weights
    of torch, a model folder, the folder of a training run. A JSON file beside a file or checkpoint says what the
    network was trained to see, as everywhere; where there is none, the published file's own, or what the trainer's graph
    tells, or the default of its format is taken, and a remark says so. Raises `ModelError`.
    """
    model, remarks = _found(model)
    path = Path(model)
    if model in MODELS or is_model_folder(path) or _says_spec(path):
        return Opened(Embedder.load(model), remarks)
    if path.is_dir() and is_checkpoint_folder(path):
        spec, remark = _checkpoint_spec(path)
        return Opened(Embedder.load(model, spec=spec), [*remarks, remark])
    if not path.exists() and is_checkpoint_prefix(model):
        with _made_folder(model) as (folder, more):
            return Opened(Embedder.load(folder), [*remarks, *more])
    if not path.is_file():
        return Opened(Embedder.load(model), remarks)  # which says what is wrong
    if _begins_frozen(path):
        spec, remark = _frozen_spec(path)
        return Opened(Embedder.load(model, spec=spec), [*remarks, remark])
    with _made_folder(model) as (folder, more):
        return Opened(Embedder.load(folder), [*remarks, *more])


def as_own_model(model: str, out: Path, *, crops: Path | None = None) -> tuple[str, list[str]]:
    """What training and export take for a model that `open_model` opens: itself, or a model folder made at `out`.

    Batch norms that were folded into weights get their statistics from `crops`. Remarks come with it. Raises
    `ModelError`, `DatasetError`.
    """
    model, remarks = _found(model)
    path = Path(model)
    if model in MODELS or is_model_folder(path) or (path.is_file() and _says_spec(path)):
        return model, remarks
    if not path.exists() and is_checkpoint_prefix(model):
        return str(out), [*remarks, *_write_prefix(model, out)]
    if not path.exists():
        find_model(model)  # which says what is wrong
    spec = None
    if path.is_dir() and is_checkpoint_folder(path):
        # A JSON file beside it has the last word here as well.
        spec = find_model(path, spec=(guessed := _checkpoint_spec(path))[0]).spec
        remarks.append(
            guessed[1] if spec == guessed[0] else f"input spec: {describe_spec(spec)}, as the file beside says"
        )
    elif path.is_file() and _begins_frozen(path):
        spec, remark = _frozen_spec(path)
        remarks.append(remark)
    made = convert(path, out, input_spec=spec, crops=crops)
    return str(out), [*remarks, *made.remarks]


def is_checkpoint_prefix(model: str) -> bool:
    """Whether these are the first letters of a checkpoint's files, as TensorFlow names a checkpoint."""
    return os.path.isfile(f"{model}.index")


def _found(model: str) -> tuple[str, list[str]]:
    """The model's name or path, of a run the model it made, of a graph that was exported as ONNX that file."""
    if model in MODELS:
        return model, []
    path = Path(os.path.expanduser(model))
    if is_run(path):
        made = next((path / name for name in (MODEL, BEST) if is_model_folder(path / name)), None)
        if made is None:
            raise ModelError(f"{path}: this run has no model yet; facespace train {path} goes on with it")
        return str(made), [f"{path}: a training run; its {made.name}/ is taken"]
    if not path.exists() and path.suffix == ".pb" and path.with_suffix(".onnx").is_file():
        return str(path.with_suffix(".onnx")), [f"{path}: not there; {path.stem}.onnx beside it is taken"]
    return str(path), []


def _says_spec(path: Path) -> bool:
    beside = path.with_name(f"{path.name}.json") if path.is_dir() and path.name else path.with_suffix(".json")
    return path.exists() and path != beside and beside.is_file()


def _begins_frozen(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == _FROZEN


def _frozen_spec(path: Path) -> tuple[InputSpec, str]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for card in MODELS.values():
        if digest in (card.graph_sha256, card.sha256):
            return card.spec, f"{path}: is {card.name}, {describe_spec(card.spec)}"
    onnx = to_onnx(read_graph(path), source=str(path))
    spec, _ = spec_of_graph(graph_scaling(onnx, source=str(path)), source=str(path))
    return _assumed(path, spec)


def _assumed(path: Path, spec: InputSpec = INPUT_SPECS["facenet-2018"]) -> tuple[InputSpec, str]:
    beside = path.with_name(f"{path.name}.json") if path.is_dir() else path.with_suffix(".json")
    remark = (
        f"{path}: does not say what it was trained to see; taken for {describe_spec(spec)}. If it was trained on "
        f'prewhitened images (before 2018-04), write {{"input_spec": "facenet-2017"}} into {beside.name} beside it; '
        "facespace convert makes a model folder of it, which remembers"
    )
    return spec, remark


def _checkpoint_spec(folder: Path) -> tuple[InputSpec, str]:
    meta, _ = find_checkpoint(folder)
    if prewhitens(read_meta_graph(meta)):
        spec = INPUT_SPECS["facenet-2017"]
        return spec, f"{folder}: its graph prewhitens every image it trains on: {describe_spec(spec)}"
    return _assumed(folder)


def prewhitens(graph: Graph) -> bool:
    """Whether a trainer's graph standardises every image by its own mean and deviation.

    That is max(deviation, 1/√N), a `Maximum` over a `Sqrt` and an `Rsqrt`. The trainer of April 2018 has it in one
    branch of a condition that its command line decides; there the graph does not tell.
    """
    return any(
        graph[taken.partition(":")[0]].op == "Rsqrt"
        for name, node in graph.items()
        if node.op == "Maximum" and "cond" not in name
        for taken in node.input
        if taken.partition(":")[0] in graph
    )


class _Variables(Mapping[str, npt.NDArray[Any]]):
    """A checkpoint's tensors by name, each read when it is asked for."""

    def __init__(self, bundle: TensorBundle) -> None:
        self._bundle = bundle

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._bundle:
            raise KeyError(name)
        return self._bundle.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._bundle

    def __iter__(self) -> Iterator[str]:
        return iter(self._bundle.names)

    def __len__(self) -> int:
        return len(self._bundle.names)


def _write_prefix(prefix: str, out: Path) -> list[str]:
    """A model folder of one checkpoint's weights: which network they are of, their names tell."""
    from facespace.formats.torch_files import as_safetensors, require_torch

    require_torch("the weights of one checkpoint")
    from facespace.backbones.weight_loading import from_tensorflow

    backbone = from_tensorflow(_Variables(TensorBundle.open(prefix)), source=prefix)
    if backbone.name == "resnet50":
        spec, remark = TINY_SPEC, f"{prefix}: Tiny-Face-Recognition's ResNet-50, {describe_spec(TINY_SPEC)}"
    else:
        folder = Path(prefix).parent
        metas = [name for name in os.listdir(folder) if name.endswith(".meta")]
        told = len(metas) == 1 and prewhitens(read_meta_graph(folder / metas[0]))
        spec, remark = _checkpoint_spec(folder) if told else _assumed(Path(prefix))
    weights = as_safetensors(backbone)
    record = ModelRecord(
        name=Path(prefix).name,
        fingerprint=hashlib.sha256(weights).hexdigest(),
        dimension=backbone.dimension,
        input_spec=spec,
        backbone=backbone.name,
        options=backbone.options,
        source={"file": Path(prefix).name, "format": "TensorFlow 1 checkpoint"},
    )
    write_model(out, record, {WEIGHTS: weights})
    return [remark]


@contextlib.contextmanager
def _made_folder(model: str) -> Iterator[tuple[str, list[str]]]:
    """A model folder made of a model, which goes when the block ends; an embedder has read all of it by then."""
    parent = tempfile.mkdtemp(prefix="facespace-")
    try:
        yield as_own_model(model, Path(parent, "model"))
    finally:
        shutil.rmtree(parent, ignore_errors=True)
