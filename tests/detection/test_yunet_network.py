"""The rewritten network against the published one, output by output."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from facespace import ModelError
from facespace.detection import yunet_network as module
from facespace.detection.yunet_network import FILE, SHA256, STRIDES, yunet_network
from facespace.formats.onnx_dequantization import dequantize_blocks
from facespace.formats.onnx_model import GraphBuilder, parse_model
from facespace.io.packed_weights import read_packed


def published(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs of the published network, which takes one image of 640 px in BGR planes, by name."""
    model = parse_model(read_packed(FILE, SHA256), FILE)
    dequantize_blocks(model.graph, FILE)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    planes = np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2)).astype(np.float32)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: planes}), strict=True))


def test_it_computes_the_same_as_the_published_network() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 640, 640, 3)).astype(np.uint8)
    images[:, 100:300, 50:400] //= 8
    session = onnxruntime.InferenceSession(yunet_network())
    scores, cells = session.run(None, {"images": images})
    outputs = published(images)
    joined = {part: np.concatenate([outputs[f"{part}_{s}"] for s in STRIDES], axis=1) for part in ("bbox", "kps")}
    expected = np.concatenate([np.sqrt(outputs[f"cls_{s}"] * outputs[f"obj_{s}"]) for s in STRIDES], axis=1)[..., 0]
    np.testing.assert_allclose(scores, expected, atol=5e-4)  # a square root enlarges rounding errors near 0
    np.testing.assert_allclose(cells[:, :4].transpose(0, 2, 1), joined["bbox"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(cells[:, 4:].transpose(0, 2, 1), joined["kps"], rtol=1e-3, atol=1e-4)


def test_another_network_in_its_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = GraphBuilder()
    graph.output(graph.node("Relu", [graph.input("x", np.float32, [1])]), "y", np.float32, [1])
    monkeypatch.setattr(module, "read_packed", lambda *_: graph.serialize())
    yunet_network.cache_clear()
    try:
        with pytest.raises(ModelError, match="this is not the network of YuNet"):
            yunet_network()
    finally:
        yunet_network.cache_clear()
