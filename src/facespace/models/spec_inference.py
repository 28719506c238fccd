"""What a network was trained to see, where its file does not say: told by a file beside it, inferred, or assumed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from facespace.errors import ModelError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec, describe_spec
from facespace.formats.onnx_inspection import graph_scaling, spec_of_graph
from facespace.formats.tf_checkpoint import read_meta_graph
from facespace.formats.tf_graph import Graph
from facespace.models.spec_file import path_beside, spec_beside
from facespace.models.zoo import MODELS

# What Tiny-Face-Recognition shows its ResNet-50: crops of 112 px, blue first.
TINY_SPEC = InputSpec(112, "arcface", channel_order="BGR", mean=127.5, std=128.0)

Told = tuple[InputSpec, str]  # a spec, and who says so, in words


def told_spec(path: Path, spec: InputSpec | None) -> Told | None:
    """What the network was trained to see, where `spec` or a JSON file beside the model says it."""
    if spec is not None:
        return spec, "as given"
    found = spec_beside(path)
    return None if found is None else (found, f"as {beside(path)} beside it says")


def graph_spec(
    path: Path, fingerprint: str, onnx: Callable[[], bytes], folder: Path | None
) -> tuple[InputSpec, str, str, list[str]]:
    """What a graph without a description was trained to see: the spec, the reason, the assumption, remarks."""
    for card in MODELS.values():
        if fingerprint in (card.graph_sha256, card.sha256):
            remark = f"{path}: is {card.name}, {describe_spec(card.spec)}"
            return card.spec, f"as {card.name} was published", "", [remark]
    if folder is not None and trainer_prewhitens(folder):
        spec = INPUT_SPECS["facenet-2017"]
        reason = "its graph prewhitens every image it trains on"
        return spec, reason, "", [f"{path}: {reason}: {describe_spec(spec)}"]
    try:
        spec, reason = spec_of_graph(graph_scaling(onnx(), source=str(path)), source=str(path))
    except ModelError as error:
        raise ModelError(f"{error}{or_beside(path)}") from None
    return spec, reason, assumed(path, spec), []


def trainer_prewhitens(folder: Path) -> bool:
    """Whether the one `.meta` in a checkpoint's folder shows that images were prewhitened."""
    metas = [name for name in os.listdir(folder) if name.endswith(".meta")]
    return len(metas) == 1 and prewhitens(read_meta_graph(folder / metas[0]))


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


def beside(path: Path) -> str:
    """The name of the JSON file that would describe the model."""
    return path_beside(path).name


def assumed(path: Path, spec: InputSpec) -> str:
    """The line for the user where a default of TensorFlow 1 was taken."""
    return (
        f"{path}: does not say what it was trained to see; taken for {describe_spec(spec)}. If it was trained on "
        f'prewhitened images (before 2018-04), write {{"input_spec": "facenet-2017"}} into {beside(path)} beside it; '
        "facespace convert makes a model folder of it, which remembers"
    )


def otherwise(path: Path) -> str:
    """How to say that the network was trained to see something else."""
    return f"; if it was another, write it into {beside(path)} beside it"


def or_beside(path: Path) -> str:
    """How to say what the network was trained to see, where nothing tells."""
    return f', or write {beside(path)} beside it, for instance {{"input_spec": "facenet-2018"}}'
