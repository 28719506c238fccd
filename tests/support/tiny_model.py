"""A small ONNX model with random weights."""

from __future__ import annotations

import numpy as np

from facespace.formats.onnx_model import GraphBuilder

SIZE = 16


WEIGHTS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def tiny_model(batch: int | str = "n", side: int | str = SIZE, *, channels_first: bool = False) -> bytes:
    """Return a model whose features (N,4) are the mean colours of the crop's left and right half times WEIGHTS."""
    graph = GraphBuilder()
    x = graph.input("crops", np.float32, [batch, 3, side, side] if channels_first else [batch, side, side, 3])
    if not channels_first:
        x = graph.node("Transpose", [x], perm=[0, 3, 1, 2])
    half = graph.constant(np.array([SIZE // 2], np.int64))
    zero, end, axis = (graph.constant(np.array([v], np.int64)) for v in (0, SIZE, 3))
    halves = [graph.node("Slice", [x, start, stop, axis]) for start, stop in ((zero, half), (half, end))]
    means = [graph.node("ReduceMean", [part], axes=[2, 3], keepdims=0) for part in halves]
    features = graph.node("MatMul", [graph.node("Concat", means, axis=1), graph.constant(WEIGHTS)])
    graph.output(features, "features", np.float32, [batch, 4])
    return graph.serialize()
