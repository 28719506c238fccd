"""Non-maximum suppression: of boxes that overlap too much, the best stays."""

from __future__ import annotations

import functools
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from facespace.onnx_graph import GraphBuilder


def non_maximum_suppression(
    boxes: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    threshold: float,
    *,
    overlap: Literal["union", "min"] = "union",
) -> npt.NDArray[np.int64]:
    """Indices of the boxes kept, best score first: each kept box removes those it overlaps by more than `threshold`.

    `boxes` (N,4) are x1, y1, x2, y2, sides counting both end pixels (x2 − x1 + 1). Overlap is intersection over
    union, or over the smaller box for `min`. Equal scores, which saturated float32 probabilities often are, come in
    the order NumPy's default sort leaves them, as in the 2018 detector; that order may differ between processors.

    >>> boxes = np.array([[1.0, 1, 10, 10], [2, 1, 11, 10], [50, 50, 60, 60]])
    >>> non_maximum_suppression(boxes, np.array([0.8, 0.9, 0.7]), 0.5).tolist()
    [1, 2]
    """
    order = np.argsort(scores)[::-1]
    if len(order) < 2:
        return order
    boxes = boxes[order] + [0, 0, 1, 1]
    kept = _by_union(boxes, threshold) if overlap == "union" else _by_smaller(boxes, threshold)
    return order[kept]


def _by_union(boxes: npt.NDArray[np.float64], threshold: float) -> npt.NDArray[np.int64]:
    ranks = np.arange(len(boxes), 0, -1, dtype=np.float32)
    feed = {
        "boxes": boxes[None].astype(np.float32),
        "scores": ranks[None, None],
        "most": np.array([len(boxes)], np.int64),
        "threshold": np.array([threshold], np.float32),
    }
    selected: npt.NDArray[np.int64] = _operator().run(None, feed)[0][:, 2]
    return selected


@functools.cache
def _operator() -> Any:
    """ONNX Runtime's NonMaxSuppression, which computes an overlap only when it is needed."""
    import onnxruntime

    graph = GraphBuilder()
    inputs = [
        graph.input("boxes", np.float32, [1, "n", 4]),
        graph.input("scores", np.float32, [1, 1, "n"]),
        graph.input("most", np.int64, [1]),
        graph.input("threshold", np.float32, [1]),
    ]
    graph.output(graph.node("NonMaxSuppression", inputs), "selected", np.int64, ["kept", 3])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.serialize(), options, providers=["CPUExecutionProvider"])


def _by_smaller(boxes: npt.NDArray[np.float64], threshold: float) -> list[int]:
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    alive = np.ones(len(boxes), np.bool_)
    for index, box in enumerate(boxes):
        if alive[index]:
            kept.append(index)
            sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
            common = np.maximum(sides, 0).prod(axis=1)
            alive &= common / np.minimum(area, area[index]) <= threshold
    return kept
