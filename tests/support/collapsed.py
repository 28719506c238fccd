"""A model that gives every face nearly the same embedding, as ONNX and as a model folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from facespace.conversion.converter import convert
from facespace.formats.onnx_model import GraphBuilder


def collapsed_onnx(folder: Path, *, bias: float = 1000.0, name: str = "collapsed") -> Path:
    """Return an ONNX file for five-point crops: mean colours times a few numbers, plus `bias` (0: the colours alone)."""
    graph = GraphBuilder()
    x = graph.input("data", np.float32, ["n", 3, 112, 112])
    weights = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    colours = graph.node("ReduceMean", [x], axes=[2, 3], keepdims=0)
    features = graph.node("MatMul", [colours, graph.constant(weights)])
    features = graph.node("Add", [features, graph.constant(np.full(8, bias, np.float32))])
    graph.output(features, "features", np.float32, ["n", 8])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    path.write_bytes(graph.serialize())
    path.with_suffix(".json").write_text(json.dumps({"input_spec": "arcface-112"}))
    return path


def collapsed_folder(folder: Path) -> Path:
    """Write the same model as a model folder."""
    convert(collapsed_onnx(folder), folder / "model")
    return folder / "model"
