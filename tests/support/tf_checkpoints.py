"""The folder that a TensorFlow 1 trainer leaves, with a small network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from support.tf_bundles import (
    field,
    write_bundle,
)
from support.tf_graphs import (
    Graph,
    cond,
)

NAME = "model-20180101-000000.ckpt-7"


def variable(g: Graph, name: str, array: np.ndarray, op: str = "VariableV2") -> str:
    """Add a variable and the node that reads it, with the declared shape."""
    g.node(op, name=name)
    shape = g.message.node[-1].attr.add(key="shape").value.shape
    for size in array.shape:
        shape.dim.add(size=size)
    if op == "VarHandleOp":
        return g.node("ReadVariableOp", name, name=f"{name}/Read/ReadVariableOp")
    return g.node("Identity", name, name=f"{name}/read")


def a_model(op: str = "VariableV2") -> tuple[Graph, dict[str, np.ndarray]]:
    """Return a small network with its training nodes: a queue, a loss, optimizer slots, a switched batch norm."""
    random = np.random.default_rng(3)
    weights = {
        "Net/conv/weights": random.normal(size=(3, 3, 3, 4)).astype("f4"),
        "Net/conv/BatchNorm/beta": random.normal(size=4).astype("f4"),
        "Net/conv/BatchNorm/moving_mean": random.normal(size=4).astype("f4"),
        "Net/conv/BatchNorm/moving_variance": random.uniform(0.5, 1, size=4).astype("f4"),
        "Net/fc/weights": random.normal(size=(4, 5)),
        "Net/fc/biases": random.normal(size=5).astype("f2"),
        "Logits/weights": random.normal(size=(5, 10)).astype("f4"),
        "global_step": np.array(7, np.int64),
    }
    g = Graph()
    read = {name: variable(g, name, array, op) for name, array in weights.items()}
    phase = g.flag()
    g.node("QueueDequeueUpToV2", "nowhere", name="batch_join")
    x = g.node("Identity", g.node("Identity", "batch_join", name="image_batch"), name="input")
    x = g.node("Conv2D", x, read["Net/conv/weights"], strides=[1, 1, 1, 1], padding=b"SAME")
    norm = [read[f"Net/conv/BatchNorm/{name}"] for name in ("beta", "moving_mean", "moving_variance")]

    def trained(pivot: str, x: str, beta: str, *moving: str) -> str:
        return g.node("FusedBatchNorm", x, beta, beta, epsilon=0.001, is_training=True)

    def evaluated(pivot: str, x: str, *rest: str) -> str:
        return g.node("FusedBatchNorm", x, g.const(np.ones(4)), *rest, epsilon=0.001, is_training=False)

    x = g.node("Relu", cond(g, phase, trained, evaluated, x, *norm))
    x = g.node("MatMul", g.mean(x), read["Net/fc/weights"])
    x = g.node("BiasAdd", x, read["Net/fc/biases"])
    g.node("Identity", x, name="embeddings")
    g.node("MatMul", x, read["Logits/weights"], name="logits")
    g.node("ApplyRMSProp", "Net/conv/weights", "Net/conv/weights/RMSProp", name="train")
    variable(g, "Net/conv/weights/RMSProp", weights["Net/conv/weights"], op)
    return g, weights


def write_meta(folder: Path, g: Graph, name: str = "model-20180101-000000.meta") -> Path:
    graph = g.bytes()
    others = b"\x0a\x03\x0a\x01a", b"\x22\x06\x0a\x02ab\x12\x00"  # surrounding fields, which are not read
    (folder / name).write_bytes(others[0] + field(2, graph) + others[1])
    return folder / name


def write_model(folder: Path, op: str = "VariableV2", **changes: Any) -> dict[str, np.ndarray]:
    g, weights = a_model(op)
    write_meta(folder, g)
    write_bundle(folder / NAME, {name: array for name, array in (weights | changes).items() if array is not None})
    return weights
