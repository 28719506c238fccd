"""The folder a TensorFlow 1 trainer leaves (`.meta`, `.index`, `.data-…`, `checkpoint`) as a graph with its weights.

What freezing in TensorFlow makes of it, made here: the graph of inference alone, its variables constants.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from facespace.errors import ModelError
from facespace.graphdef import (
    MAX_VALUES,
    VARIABLES,
    Graph,
    attributes_of,
    graph_of,
    inference_graph,
    inputs_of,
    new_constant,
    new_node,
    nodes_of,
)
from facespace.onnx_graph import message_class
from facespace.tensor_bundle import TensorBundle
from facespace.text import plain_text

MAX_META_BYTES = 2**26  # far more than the graph of a face network takes, its training included
_MetaGraph = message_class("facespace.tensorflow.meta", {"MetaGraph": [("graph_def", 2, "bytes")]}, "MetaGraph")

_TYPES = [np.dtype(code) for code in ("<f2", "<f4", "<f8", "<i4", "<i8", "?")]
_NAMED = re.compile(rb'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\\n]|\\.)*)"', re.MULTILINE)
_ESCAPED = re.compile(rb"\\(?:([0-7]{1,3})|([^0-7]))")  # TensorFlow writes what is not ASCII as octal bytes
_SAVED = re.compile(r"(model-.+\.ckpt-([0-9]{1,18}))(\.index)?")


def is_checkpoint_folder(folder: str | os.PathLike[str]) -> bool:
    """Whether a TensorFlow 1 trainer may have left this folder: there is a `.meta` in it."""
    with os.scandir(folder) as entries:
        return any(entry.name.endswith(".meta") for entry in entries)


def checkpoint_digest(folder: str | os.PathLike[str]) -> str:
    """SHA-256 over the checkpoints' data files in a folder, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if ".ckpt" in name and ".data-" in name and os.path.isfile(path):
            with open(path, "rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
    return digest.hexdigest()


def find_checkpoint(folder: str | os.PathLike[str]) -> tuple[str, str]:
    """The meta graph in a folder, and the prefix of its newest checkpoint's files.

    As the 2018 programs choose: the only `.meta`; the checkpoint that the file `checkpoint` names, else the
    `model-….ckpt-N` of the highest N. Only the last part of that name counts: the trainer may have run elsewhere.
    Raises `ModelError`.
    """
    folder = os.fspath(folder)
    shown = plain_text(folder)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ModelError(f"{shown}: {error.strerror}; wanted the folder of a TensorFlow checkpoint") from None
    metas = [name for name in names if name.endswith(".meta")]
    if len(metas) != 1:
        found = f"{len(metas)}: {', '.join(map(plain_text, metas[:4]))}" if metas else "none"
        raise ModelError(f"{shown}: wanted one .meta, which holds the graph of the model; found {found}")
    chosen = _named_checkpoint(os.path.join(folder, "checkpoint")) if "checkpoint" in names else None
    if chosen is not None:
        if not {chosen, f"{chosen}.index"} & set(names):
            raise ModelError(
                f"{shown}: its file `checkpoint` names {plain_text(chosen)}, of which there is no .index; fetch it, "
                "or remove `checkpoint` to take the newest there is"
            )
    else:
        saved = [match for match in map(_SAVED.fullmatch, names) if match]
        if not saved:
            raise ModelError(f"{shown}: wanted a checkpoint, model-….ckpt-N.index and its .data files; found none")
        chosen = max(saved, key=lambda match: int(match[2]))[1]
    return os.path.join(folder, metas[0]), os.path.join(folder, chosen)


def _named_checkpoint(path: str) -> str | None:
    """The last part of the name in a `checkpoint` file (protobuf text); None where it holds none."""
    match = _NAMED.search(_read_at_most(path, 2**16))
    if match is None:
        return None
    whole = _ESCAPED.sub(lambda m: bytes([int(m[1], 8) % 256]) if m[1] else m[2], match[1])
    name = re.split(r"[/\\]", whole.decode("utf-8", "surrogateescape"))[-1]
    return name if name not in ("", ".", "..") else None


def _read_at_most(path: str, n_bytes: int) -> bytes:
    """The beginning of a file; a pipe or device, whose reading might never end, is none."""
    try:
        if not os.path.isfile(path):
            raise ModelError(f"{plain_text(path)}: no such file, or no regular one; a checkpoint's folder has it")
        with open(path, "rb") as file:
            return file.read(min(os.fstat(file.fileno()).st_size, n_bytes))  # as much memory is taken as is asked for
    except OSError as error:
        raise ModelError(f"{plain_text(path)}: {error.strerror}") from None


def read_meta_graph(path: str | os.PathLike[str]) -> Graph:
    """The nodes of the graph in a `.meta` file by name; raises `ModelError`."""
    path = os.fspath(path)
    shown = plain_text(path)
    data = _read_at_most(path, MAX_META_BYTES + 1)
    if len(data) > MAX_META_BYTES:
        raise ModelError(f"{shown}: more than {MAX_META_BYTES} bytes, which no meta graph of a face network has")
    meta = _MetaGraph()
    try:
        meta.ParseFromString(data)
        return nodes_of(graph_of(meta.graph_def))
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{shown}: not a TensorFlow meta graph ({error})") from None


def frozen(graph: Graph, bundle: TensorBundle, *, source: str, output: str = "embeddings") -> Graph:
    """What inference needs of `graph`, with the variables of `bundle` as constants: `tensorflow1.to_onnx` takes it.

    Floating-point variables become float32. Only those that inference needs are read. `ModelError` names `source`, or
    the checkpoint's file.
    """
    needed = inference_graph(graph, output, source)
    arrays = _read_variables(needed, bundle, source)
    result: Graph = {}
    for name, node in needed.items():
        if name in arrays:
            array = arrays[name]
            result[name] = new_constant(
                name, array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
            )
        elif node.op == "ReadVariableOp":
            result[name] = new_node(name, "Identity", [child for child, _ in inputs_of(graph, node, source)])
        else:
            result[name] = node
    return result


def read_checkpoint(folder: str | os.PathLike[str], *, output: str = "embeddings") -> Graph:
    """The model in a folder as a frozen graph: what inference needs to compute `output`, weights as constants.

    Raises `ModelError`.
    """
    meta, prefix = find_checkpoint(folder)
    return frozen(read_meta_graph(meta), TensorBundle.open(prefix), source=plain_text(meta), output=output)


def variables(folder: str | os.PathLike[str], *, output: str = "embeddings") -> dict[str, npt.NDArray[Any]]:
    """The weights by variable name that inference needs to compute `output`, as they were stored.

    Raises `ModelError`.
    """
    meta, prefix = find_checkpoint(folder)
    source = plain_text(meta)
    return _read_variables(inference_graph(read_meta_graph(meta), output, source), TensorBundle.open(prefix), source)


def _read_variables(graph: Graph, bundle: TensorBundle, source: str) -> dict[str, npt.NDArray[Any]]:
    names = [name for name, node in graph.items() if node.op in VARIABLES]
    n_values = 0
    for name in names:
        if name not in bundle:
            raise ModelError(
                f"{plain_text(bundle.prefix)}: the checkpoint has no variable {plain_text(name)!r}, which "
                f"{os.path.basename(source)} wants; do they belong together?"
            )
        shape, wanted = bundle.shape(name), _shape_of(graph[name])
        if wanted is not None and not _fits(shape, wanted):
            raise ModelError(
                f"{plain_text(bundle.prefix)}: variable {plain_text(name)!r} is {list(shape)}, but "
                f"{os.path.basename(source)} wants {list(wanted)}; do they belong together?"
            )
        if bundle.dtype(name) not in _TYPES:
            raise ModelError(
                f"{plain_text(bundle.prefix)}: variable {plain_text(name)!r} of {bundle.dtype(name)} on the way to the "
                "output; wanted float, int32, int64 or bool"
            )
        n_values += math.prod(shape)
    if n_values > MAX_VALUES:
        raise ModelError(f"{plain_text(bundle.prefix)}: its variables have more than {MAX_VALUES} values")
    return {name: bundle.read(name) for name in names}


def _shape_of(node: Any) -> tuple[int, ...] | None:
    """The shape a variable is declared with, −1 for sizes that are not; None where nothing is."""
    shape = attributes_of(node)["shape"].shape if "shape" in attributes_of(node) else None
    return None if shape is None or shape.unknown_rank else tuple(int(dim.size) for dim in shape.dim)


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(b in (a, -1) for a, b in zip(shape, wanted, strict=True))
