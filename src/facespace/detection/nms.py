"""Non-maximum suppression: of boxes that overlap too much, only the one with the best score is kept."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from facespace.formats.onnx_model import GraphBuilder

_END = np.array([0.0, 0, 1, 1])  # added to boxes that include both end pixels


def non_maximum_suppression(
    boxes: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    threshold: float,
    *,
    overlap: Literal["union", "min"] = "union",
    end_pixels: bool = True,
) -> npt.NDArray[np.int64]:
    """Return the indices of the boxes to keep, best score first.

    A kept box removes every later box in this order that it overlaps by more than `threshold`.

    `boxes` (N,4) are x1, y1, x2, y2. With `end_pixels` they include both end pixels, so a side is x2 − x1 + 1 long;
    otherwise x2 − x1. Overlap is the intersection divided by the union, or for `min` by the area of the smaller box.
    Boxes with equal scores, which are frequent because float32 probabilities saturate, have the order of NumPy's
    default sort, as in the 2018 detector; that order may differ between processors.

    >>> boxes = np.array([[1.0, 1, 10, 10], [2, 1, 11, 10], [50, 50, 60, 60]])
    >>> non_maximum_suppression(boxes, np.array([0.8, 0.9, 0.7]), 0.5).tolist()
    [1, 2]
    """
    if overlap == "union":
        return non_maximum_suppressions([boxes], [scores], threshold, end_pixels=end_pixels)[0]
    order = np.argsort(scores)[::-1]
    return order[_by_smaller(boxes[order] + _END if end_pixels else boxes[order], threshold)]


def non_maximum_suppressions(
    boxes: Sequence[npt.NDArray[np.float64]],
    scores: Sequence[npt.NDArray[np.float64]],
    threshold: float,
    *,
    end_pixels: bool = True,
) -> list[npt.NDArray[np.int64]]:
    """Apply `non_maximum_suppression` with `overlap="union"` to independent sets of boxes, in one operator call."""
    orders = [np.argsort(part)[::-1] for part in scores]
    most = max((len(order) for order in orders), default=0)
    if most < 2:
        return orders
    ordered = np.zeros((len(orders), most, 4), np.float32)
    ranks = np.zeros((len(orders), 1, most), np.float32)  # padding has rank 0, which is below the operator's minimum
    for k, order in enumerate(orders):
        ordered[k, : len(order)] = boxes[k][order] + _END if end_pixels else boxes[k][order]
        ranks[k, 0, : len(order)] = np.arange(len(order), 0, -1)
    feed = {
        "boxes": ordered,
        "scores": ranks,
        "most": np.array([most], np.int64),
        "threshold": np.array([threshold], np.float32),
        "least": np.array([0.5], np.float32),
    }
    sets, _, chosen = _operator().run(None, feed)[0].T
    return [order[chosen[sets == k]] for k, order in enumerate(orders)]


@functools.cache
def _operator() -> Any:
    """Return a session of ONNX Runtime's NonMaxSuppression, which computes only the overlaps that it needs."""
    import onnxruntime

    graph = GraphBuilder()
    inputs = [
        graph.input("boxes", np.float32, ["sets", "n", 4]),
        graph.input("scores", np.float32, ["sets", 1, "n"]),
        graph.input("most", np.int64, [1]),
        graph.input("threshold", np.float32, [1]),
        graph.input("least", np.float32, [1]),
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
