"""Rewrites ONNX files of other programs so that every runtime accepts them: one file, one input, one output."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facespace.errors import ModelError
from facespace.formats.onnx_dequantization import dequantize_blocks, is_block_quantized
from facespace.formats.onnx_model import DOUBLE, FLOAT, HALF, element_size, new_node, parse_model
from facespace.io.protobuf import MAX_WEIGHTS
from facespace.io.text import plain_text

_EXTERNAL = 1  # ONNX's number for data in another file
_MIN_DIMENSION = 32  # an output with fewer numbers is not taken for the embedding


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The content of a model's single file, the fingerprint from `open_onnx`, and one-line remarks for the user."""

    data: bytes
    fingerprint: str
    remarks: list[str] = field(default_factory=list)


def open_onnx(path: Path, data: bytes) -> OnnxFile:
    """Return the ONNX model at `path`, whose content is `data`, as a single file that every runtime accepts.

    Weights in files next to the model are merged into it. Old files list constants among the inputs; they are removed
    from there. Casts at both ends of the model turn images and features in float16 or float64 into float32. Of several
    outputs, only the one that can be an embedding is kept. The batch size becomes free if the file does not fix it, or
    one if a crop's features would depend on the other crops in its batch (DynamicQuantizeLinear). Block-quantised
    weights become float32. A file that needs no change is returned unchanged. The fingerprint of one file is its
    SHA-256; with external files, it is the SHA-256 of the model's bytes followed by the files' SHA-256 in the order of
    their names. Raises `ModelError` if the model or its external files are damaged or cannot be used.
    """
    source = str(path)
    model = parse_model(data, source)
    graph, digest, remarks = model.graph, hashlib.sha256(data), list[str]()
    files = _merge_external(model, path, len(data))
    if files:
        for content in files.values():
            digest.update(hashlib.sha256(content).digest())
        remarks.append(f"its external weights ({', '.join(plain_text(name) for name in files)}) are merged into it")
    changed = bool(files)
    if is_block_quantized(graph):
        dequantize_blocks(graph, source)
        changed = True
    changed |= _drop_constant_inputs(model)
    if len(graph.output) > 1:
        n_outputs, first = len(graph.output), graph.output[0].name
        _choose_output(graph, source)
        changed |= len(graph.output) < n_outputs
        if graph.output[0].name != first:
            remarks.append(f"its output {plain_text(graph.output[0].name)} is used as the embedding")
    if len(graph.input) == 1 and len(graph.output) > 0:
        changed |= _free_batch(graph)
        changed |= _take_float32(graph)
        if any(node.op_type == "DynamicQuantizeLinear" for node in graph.node) and not _batch(graph.input[0]):
            _set_batch_of_one(graph)
            remarks.append("its scaling depends on the whole batch, so one crop is computed at a time")
            changed = True
    return OnnxFile(model.SerializeToString() if changed else data, digest.hexdigest(), remarks)


def with_batch_of_one(data: bytes, *, source: str) -> bytes:
    """Return the ONNX model with its batch size set to one."""
    model = parse_model(data, source)
    _set_batch_of_one(model.graph)
    return bytes(model.SerializeToString())


# --- external weights -------------------------------------------------------------------------------------------------


def _merge_external(model: Any, path: Path, n_bytes: int) -> dict[str, bytes]:
    """Merge weights from files next to the model into it; return those files' content by name."""
    external = [(tensor, _place(tensor, path)) for tensor in _tensors(model.graph) if tensor.data_location == _EXTERNAL]
    paths = {name: _external_file(path, name) for name in sorted({name for _, (name, _, _) in external})}
    sizes = {name: file.stat().st_size for name, file in paths.items()}
    total = n_bytes
    for index, (tensor, (name, offset, length)) in enumerate(external):
        length = max(sizes[name] - offset, 0) if length is None else length
        if offset + length > sizes[name]:
            raise ModelError(
                f"{path}: constant {plain_text(tensor.name)} ends at byte {offset + length} of "
                f"{plain_text(name)}, which has {sizes[name]} bytes; the two files do not belong together"
            )
        size = element_size(tensor.data_type)
        if size is not None and length != size * math.prod(tensor.dims):
            raise ModelError(
                f"{path}: constant {plain_text(tensor.name)} has {length} bytes in {plain_text(name)} for shape "
                f"{tuple(tensor.dims)}; the two files do not belong together"
            )
        external[index] = tensor, (name, offset, length)
        total += length
    if max(total, n_bytes + sum(sizes.values())) > MAX_WEIGHTS:
        raise ModelError(f"{path}: a model must have at most {MAX_WEIGHTS} bytes with its external weights, got more")
    files = {name: file.read_bytes() for name, file in paths.items()}
    for tensor, (name, offset, length) in external:
        tensor.raw_data = files[name][offset : offset + (length or 0)]
        tensor.data_location = 0
        del tensor.external_data[:]
    return files


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant":
            yield from (attribute.t for attribute in node.attribute if attribute.name == "value")


def _place(tensor: Any, path: Path) -> tuple[str, int, int | None]:
    """Return where an external constant is stored: the file, the first byte, and the number of bytes or None."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name = entries.get("location", "")
    if name in ("", ".", "..") or any(letter in name for letter in "/\\:\0"):
        raise ModelError(
            f"{path}: external weights must be in a file next to it, got {plain_text(name)!r} for constant "
            f"{plain_text(tensor.name)}"
        )
    numbers: list[int | None] = []
    for key in ("offset", "length"):
        text = entries.get(key, "")
        if len(text) > 18 or (text and not (text.isascii() and text.isdigit())):
            raise ModelError(
                f"{path}: constant {plain_text(tensor.name)} has the invalid {key} {plain_text(text[:40])!r}"
            )
        numbers.append(int(text) if text else None)
    return name, numbers[0] or 0, numbers[1]


def _external_file(path: Path, name: str) -> Path:
    """Return the path of the file `name` in the model's folder.

    A link must lead into this folder or, if the model is a link too, into the folder of the model's real file.
    """
    file = path.parent / name
    try:
        regular = stat.S_ISREG(file.stat().st_mode)
    except OSError:
        raise ModelError(f"{path}: its weights are in {plain_text(name)}, which is missing; copy both files") from None
    folders = {os.path.realpath(path.parent), os.path.dirname(os.path.realpath(path))}
    if not regular or os.path.dirname(os.path.realpath(file)) not in folders:
        raise ModelError(f"{path}: its weights are in {plain_text(name)}, which is not a file in the same folder")
    return file


# --- inputs and outputs -----------------------------------------------------------------------------------------------


def _keep(values: Any, kept: Sequence[Any]) -> None:
    del values[:]
    values.extend(kept)


def _drop_constant_inputs(model: Any) -> bool:
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in constants]
    if len(kept) == len(graph.input):
        return False
    _keep(graph.input, kept)
    model.ir_version = max(model.ir_version, 4)  # before version 4 every constant had to be an input
    return True


def _choose_output(graph: Any, source: str) -> None:
    """Keep the only output shaped like an embedding, or all if none is; raise `ModelError` if several are."""
    shapes = {
        value.name: [dim.dim_value or dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim]
        for value in graph.output
    }
    fitting = [
        value
        for value in graph.output
        if len(shape := shapes[value.name]) == 2 and isinstance(shape[1], int) and shape[1] >= _MIN_DIMENSION
    ]
    if len(fitting) > 1:
        named = ", ".join(f"{plain_text(value.name)} {shapes[value.name]}" for value in fitting)
        raise ModelError(
            f"{source}: the network must have one output of features, got {named}; export it with the embedding alone"
        )
    if fitting:
        _keep(graph.output, fitting)


def _batch(value: Any) -> int:
    """Return the batch size of an input; 0 if it is free."""
    dims = value.type.tensor_type.shape.dim
    return max(dims[0].dim_value, 0) if dims else 0


def _free_batch(graph: Any) -> bool:
    """Free the batch size of images and features if the file fixes none (−1 and 0 fix none); return whether it did."""
    images = graph.input[0].type.tensor_type.shape.dim
    if not images or _batch(graph.input[0]):
        return False
    changed = False
    for dims in (images, graph.output[0].type.tensor_type.shape.dim):
        if len(dims) in (2, 4) and not dims[0].dim_param:
            dims[0].dim_value, dims[0].dim_param = 0, images[0].dim_param or "n"
            changed = True
    return changed


def _set_batch_of_one(graph: Any) -> None:
    for value in (graph.input[0], graph.output[0]):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = ""
            value.type.tensor_type.shape.dim[0].dim_value = 1
    del graph.value_info[:]  # shapes inside the network, which may contain the batch size


def _take_float32(graph: Any) -> bool:
    """Turn images and features of float16 or float64 into float32, by casts in the graph; return whether it changed."""
    names = {name for node in graph.node for name in [*node.input, *node.output]}
    names |= {value.name for value in [*graph.input, *graph.output]}
    narrow = (HALF, DOUBLE)
    images, features = graph.input[0].type.tensor_type, graph.output[0].type.tensor_type
    nodes = list(graph.node)
    if images.elem_type in narrow:
        inner, outer = graph.input[0].name, _fresh("images", names)
        nodes.insert(0, new_node("Cast", inner, [outer], {"to": images.elem_type}))
        graph.input[0].name, images.elem_type = outer, FLOAT
    if features.elem_type in narrow:
        inner, outer = graph.output[0].name, _fresh("features", names)
        nodes.append(new_node("Cast", outer, [inner], {"to": FLOAT}))
        graph.output[0].name, features.elem_type = outer, FLOAT
    changed = len(nodes) > len(graph.node)
    if changed:
        _keep(graph.node, nodes)
    return changed


def _fresh(name: str, names: set[str]) -> str:
    while name in names:
        name += "_"
    names.add(name)
    return name
