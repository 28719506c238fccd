"""Finds the input spec of a network whose file does not contain it: read from a JSON file, inferred, or assumed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from facespace.errors import ModelError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec, describe_spec
from facespace.formats.onnx_inspection import graph_scaling, spec_of_graph
from facespace.formats.tf_checkpoint import read_meta_graph
from facespace.formats.tf_graph import Graph
from facespace.models.spec_file import read_spec_of, spec_path
from facespace.models.zoo import MODELS

# The input of Tiny-Face-Recognition's ResNet-50: crops of 112 px, blue first.
TINY_SPEC = InputSpec(112, "arcface", channel_order="BGR", mean=127.5, std=128.0)

SpecAndReason = tuple[InputSpec, str]  # a spec, and where it comes from, in words


def explicit_spec(path: Path, spec: InputSpec | None) -> SpecAndReason | None:
    """Return `spec` if given, else the spec in the JSON file next to the model, and the reason; None if neither exists."""
    if spec is not None:
        return spec, "as given"
    found = read_spec_of(path)
    return None if found is None else (found, f"read from {spec_path(path).name}")


def graph_spec(
    path: Path, fingerprint: str, onnx: Callable[[], bytes], folder: Path | None
) -> tuple[InputSpec, str, str, list[str]]:
    """Infer the spec of a graph that has no JSON file; return it, the reason, `assumption_line` or "", and remarks."""
    for card in MODELS.values():
        if fingerprint in (card.graph_sha256, card.sha256):
            remark = f"{path}: recognised as {card.name}, {describe_spec(card.spec)}"
            return card.spec, f"as published for {card.name}", "", [remark]
    if folder is not None and trainer_prewhitens(folder):
        spec = INPUT_SPECS["facenet-2017"]
        reason = "its graph prewhitens every training image"
        return spec, reason, "", [f"{path}: {reason}: {describe_spec(spec)}"]
    try:
        spec, reason = spec_of_graph(graph_scaling(onnx(), source=str(path)), source=str(path))
    except ModelError as error:
        raise ModelError(f"{error}{json_hint(path)}") from None
    return spec, reason, assumption_line(path, spec), []


def trainer_prewhitens(folder: Path) -> bool:
    """Return whether a checkpoint's folder has one `.meta`, and its graph prewhitens images."""
    metas = [name for name in os.listdir(folder) if name.endswith(".meta")]
    return len(metas) == 1 and prewhitens(read_meta_graph(folder / metas[0]))


def prewhitens(graph: Graph) -> bool:
    """Return whether a trainer's graph standardises every image by its own mean and deviation.

    The evidence is max(deviation, 1/√N): a `Maximum` node with an `Rsqrt` node as input. In graphs of FaceNet's
    trainer of April 2018 this node is inside a condition, which the command line decided; the graph does not show
    how. The result is then False.
    """
    return any(
        graph[taken.partition(":")[0]].op == "Rsqrt"
        for name, node in graph.items()
        if node.op == "Maximum" and "cond" not in name
        for taken in node.input
        if taken.partition(":")[0] in graph
    )


def assumption_line(path: Path, spec: InputSpec) -> str:
    """Return the line for the user if the default of TensorFlow 1 was assumed."""
    return (
        f"{path}: contains no input spec; assuming {describe_spec(spec)}. If it was trained on prewhitened images (before "
        f'2018-04), write {{"input_spec": "facenet-2017"}} to {spec_path(path).name} next to it. '
        "facespace convert makes a model folder, which stores the input spec"
    )


def correction_hint(path: Path) -> str:
    """Return how to correct an inferred input spec."""
    return f"; if that is wrong, write the input spec to {spec_path(path).name} next to it"


def json_hint(path: Path) -> str:
    """Return how to give an input spec that cannot be inferred."""
    return f', or write {spec_path(path).name} next to it, for instance {{"input_spec": "facenet-2018"}}'
