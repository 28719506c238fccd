"""Reads the folder of a TensorFlow 1 trainer (`.meta`, `.index`, `.data-…`, `checkpoint`) as a graph with its weights.

The result is the same as from freezing in TensorFlow: only the graph of inference, with its variables as constants.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from facespace.errors import ModelError
from facespace.formats.tf_graph import (
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
from facespace.formats.tf_tensor_bundle import TensorBundle
from facespace.io.checksums import sha256_of
from facespace.io.protobuf import message_class
from facespace.io.text import plain_text

MAX_META_BYTES = 2**26  # far more than the graph of a face network takes, including its training
_MetaGraph = message_class("facespace.tensorflow.meta", {"MetaGraph": [("graph_def", 2, "bytes")]}, "MetaGraph")

_TYPES = [np.dtype(code) for code in ("<f2", "<f4", "<f8", "<i4", "<i8", "?")]
_NAMED = re.compile(rb'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\\n]|\\.)*)"', re.MULTILINE)
_ESCAPED = re.compile(rb"\\(?:([0-7]{1,3})|([^0-7]))")  # TensorFlow writes non-ASCII bytes in octal
_MAX_PARTS = 1000
_PART = re.compile(r"(.+)/part_(0|[1-9][0-9]{0,2})")
_SAVED = re.compile(r"(model-.+\.ckpt-([0-9]{1,18}))(\.index)?")


def is_checkpoint_folder(folder: str | os.PathLike[str]) -> bool:
    """Return whether a TensorFlow 1 trainer may have written this folder, which means that it contains a `.meta`."""
    with os.scandir(folder) as entries:
        return any(entry.name.endswith(".meta") for entry in entries)


def checkpoint_digest(folder: str | os.PathLike[str]) -> str:
    """Return one SHA-256 of the contents of all checkpoint data files in a folder, in the order of their names."""
    paths = (os.path.join(folder, name) for name in sorted(os.listdir(folder)) if ".data-" in name)
    return sha256_of(*filter(os.path.isfile, paths))


def find_checkpoint(folder: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the path of the meta graph in a folder, and the path prefix of its newest checkpoint's files.

    The rules are those of the FaceNet programs of 2018. The folder has one `.meta` file, which is the meta graph. If
    there is a file `checkpoint`, it names the newest checkpoint; otherwise this is the `model-….ckpt-N` with the
    highest N. Only the last part of the path in `checkpoint` counts, because the trainer may have run elsewhere. Unlike
    those programs, this function also accepts several `.meta` files if one has the checkpoint's name, and a single
    checkpoint of any name. Raises `ModelError`.
    """
    folder = os.fspath(folder)
    shown = plain_text(folder)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ModelError(f"{shown}: {error.strerror}; expected the folder of a TensorFlow checkpoint") from None
    metas = [name for name in names if name.endswith(".meta")]
    if not metas:
        raise ModelError(f"{shown}: expected one .meta, which contains the model's graph, got none{_hint(names)}")
    chosen = _named_checkpoint(os.path.join(folder, "checkpoint")) if "checkpoint" in names else None
    if chosen is not None:
        if not {chosen, f"{chosen}.index"} & set(names):
            raise ModelError(
                f"{shown}: its file `checkpoint` names {plain_text(chosen)}, whose .index is missing; copy it here, "
                "or remove `checkpoint` to use the newest checkpoint"
            )
    else:
        saved = [match for match in map(_SAVED.fullmatch, names) if match]
        indexes = [name.removesuffix(".index") for name in names if name.endswith(".index")]
        if not saved and len(indexes) != 1:
            raise ModelError(
                f"{shown}: expected a checkpoint, model-….ckpt-N.index and its .data files, got "
                f"{'several, and no file `checkpoint` that names one' if indexes else 'none'}"
            )
        chosen = max(saved, key=lambda match: int(match[2]))[1] if saved else indexes[0]
    meta = metas[0] if len(metas) == 1 else f"{chosen}.meta"  # a trainer may write one for every checkpoint
    if meta not in metas:
        found = f"{len(metas)}: {', '.join(map(plain_text, metas[:4]))}"
        raise ModelError(
            f"{shown}: expected one .meta, which contains the model's graph, or one for the checkpoint "
            f"{plain_text(chosen)}, got {found}"
        )
    return os.path.join(folder, meta), os.path.join(folder, chosen)


def _hint(names: list[str]) -> str:
    if "saved_model.pb" in names:
        return "; a SavedModel of TensorFlow 2 is not supported, only checkpoints of TensorFlow 1"
    graphs = [name for name in names if name.endswith(".pb")]
    return f"; give the frozen graph itself, {plain_text(graphs[0])}" if len(graphs) == 1 else ""


def _named_checkpoint(path: str) -> str | None:
    """Return the last part of the path that a `checkpoint` file (protobuf text) gives; None if it gives none."""
    match = _NAMED.search(_read_at_most(path, 2**16))
    if match is None:
        return None
    whole = _ESCAPED.sub(lambda m: bytes([int(m[1], 8) % 256]) if m[1] else m[2], match[1])
    name = re.split(r"[/\\]", whole.decode("utf-8", "surrogateescape"))[-1]
    return name if name not in ("", ".", "..") else None


def _read_at_most(path: str, n_bytes: int) -> bytes:
    """Return at most the first `n_bytes` of a file.

    Raises `ModelError` if it is not a regular file: reading from a pipe or a device might never end.
    """
    try:
        if not os.path.isfile(path):
            raise ModelError(f"{plain_text(path)}: missing or not a regular file; the folder of a checkpoint needs it")
        with open(path, "rb") as file:
            return file.read(min(os.fstat(file.fileno()).st_size, n_bytes))  # `read` allocates what is requested
    except OSError as error:
        raise ModelError(f"{plain_text(path)}: {error.strerror}") from None


def read_meta_graph(path: str | os.PathLike[str]) -> Graph:
    """Return the nodes of the graph in a `.meta` file by name; raises `ModelError`."""
    path = os.fspath(path)
    shown = plain_text(path)
    data = _read_at_most(path, MAX_META_BYTES + 1)
    if len(data) > MAX_META_BYTES:
        raise ModelError(f"{shown}: a meta graph must have at most {MAX_META_BYTES} bytes, got more")
    meta = _MetaGraph()
    try:
        meta.ParseFromString(data)
        return nodes_of(graph_of(meta.graph_def))
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{shown}: not a TensorFlow meta graph ({error})") from None


def frozen(graph: Graph, bundle: TensorBundle, *, source: str, output: str = "embeddings") -> Graph:
    """Return the nodes of `graph` that compute `output`, with the variables of `bundle` as constants.

    The result is for `tf_to_onnx.to_onnx`. Floating-point variables become float32. Only variables that these nodes
    need are read. A `ModelError` names `source` (the `.meta` file) or a file of the checkpoint.
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
    """Return the model in a folder as a frozen graph: the nodes that compute `output`, with weights as constants.

    Raises `ModelError`.
    """
    meta, prefix = find_checkpoint(folder)
    return frozen(read_meta_graph(meta), TensorBundle.open(prefix), source=plain_text(meta), output=output)


def variables(folder: str | os.PathLike[str], *, output: str = "embeddings") -> dict[str, npt.NDArray[Any]]:
    """Return the weights that inference needs to compute `output`, by variable name, in their stored types.

    Raises `ModelError`.
    """
    meta, prefix = find_checkpoint(folder)
    source = plain_text(meta)
    return _read_variables(inference_graph(read_meta_graph(meta), output, source), TensorBundle.open(prefix), source)


def _read_variables(graph: Graph, bundle: TensorBundle, source: str) -> dict[str, npt.NDArray[Any]]:
    shown = plain_text(bundle.prefix)
    places: dict[str, tuple[str, tuple[slice, ...]]] = {}
    for name in (name for name, node in graph.items() if node.op in VARIABLES):
        place = (name, ()) if name in bundle else _part(name, graph, bundle)
        if place is None:
            raise ModelError(
                f"{shown}: the checkpoint lacks the variable {plain_text(name)!r} of {os.path.basename(source)}; check "
                "that the files belong together"
            )
        places[name] = place
        shape, declared = bundle.shape(place[0]), _shape_of(graph[name])
        if declared is not None and name in bundle and not _fits(shape, declared):
            raise ModelError(
                f"{shown}: variable {plain_text(name)!r} must have shape {list(declared)} as in "
                f"{os.path.basename(source)}, got {list(shape)}; check that the files belong together"
            )
        if bundle.dtype(place[0]) not in _TYPES:
            raise ModelError(
                f"{shown}: variable {plain_text(name)!r} must be float, int32, int64 or bool, got "
                f"{bundle.dtype(place[0])}"
            )
    stored = {of for of, _ in places.values()}
    if sum(math.prod(bundle.shape(of)) for of in stored) > MAX_VALUES:
        raise ModelError(f"{shown}: its variables have more than {MAX_VALUES} values")
    arrays = {of: bundle.read(of) for of in sorted(stored)}
    return {name: arrays[of][place] if place else arrays[of] for name, (of, place) in places.items()}


def _part(name: str, graph: Graph, bundle: TensorBundle) -> tuple[str, tuple[slice, ...]] | None:
    """Return the variable that the node `name`, such as `…/part_2`, is a part of, and the slice of that part.

    The checkpoint stores the whole variable under one name, here `…`. Its parts are joined along the axis where their
    sizes add up to the size of the whole; along all other axes, parts and whole have the same size. Returns None if the
    checkpoint has no such variable, or if the parts do not fit it.
    """
    match = _PART.fullmatch(name)
    if match is None or match[1] not in bundle:
        return None
    whole, number = bundle.shape(match[1]), int(match[2])
    shapes: list[tuple[int, ...]] = []
    for k in range(_MAX_PARTS):
        shape = _shape_of(graph[part]) if (part := f"{match[1]}/part_{k}") in graph else None
        if shape is None:
            break
        shapes.append(shape)
    for axis, size in enumerate(whole):
        ends = list(itertools.accumulate(shape[axis] if len(shape) == len(whole) else -1 for shape in shapes))
        alike = {(*shape[:axis], size, *shape[axis + 1 :]) for shape in shapes} == {whole}
        if number < len(shapes) and alike and ends[-1] == size and min(shape[axis] for shape in shapes) > 0:
            start = ends[number] - shapes[number][axis]
            return match[1], (*(slice(None),) * axis, slice(start, ends[number]))
    return None


def _shape_of(node: Any) -> tuple[int, ...] | None:
    """Return the declared shape of a variable, with −1 for unknown sizes; None if it is not declared."""
    shape = attributes_of(node)["shape"].shape if "shape" in attributes_of(node) else None
    return None if shape is None or shape.unknown_rank else tuple(int(dim.size) for dim in shape.dim)


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(b in (a, -1) for a, b in zip(shape, declared, strict=True))
