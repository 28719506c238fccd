"""Tests integer convolutions against explicit arithmetic, and the shipped tables of ranges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from facespace import ModelError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec
from facespace.formats.onnx_model import GraphBuilder, parse_model, read_weights
from facespace.models.opening import open_model
from facespace.models.zoo import MODELS
from facespace.runtime import quantization
from facespace.runtime.quantization import quantize

RNG = np.random.default_rng(0)
FIRST = RNG.normal(size=(5, 3, 3, 3)).astype(np.float32)
SECOND = RNG.normal(size=(4, 5, 1, 1)).astype(np.float32) * np.array([1, 10, 0.01, 0], np.float32)[:, None, None, None]
BIAS = RNG.normal(size=4).astype(np.float32)


def two_convolutions() -> bytes:
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", 3, 6, 6])
    y = graph.node("Relu", [graph.node("Conv", [x, graph.constant(FIRST)])])
    z = graph.node("Conv", [y, graph.constant(SECOND), graph.constant(BIAS)])
    graph.output(graph.node("Add", [z, graph.constant(np.float32([[[0.5]]]))]), "z", np.float32, ["n", 4, 4, 4])
    return graph.serialize()


def computed(model: bytes, images: np.ndarray) -> np.ndarray:
    """Compute the file node by node, because the integer kernels of some processors overflow."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    high, wide = kernel.shape[2:]
    windows = np.lib.stride_tricks.sliding_window_view(x, (high, wide), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows.astype(np.float64), kernel)


def rounded_map(x: np.ndarray, at: float) -> np.ndarray:
    scale = np.float32(at / 255)
    return np.clip(np.rint(x / scale), 0, 255) * np.float64(scale)


def rounded_kernel(kernel: np.ndarray) -> np.ndarray:
    scale = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True) / np.float32(127)
    return np.rint(np.divide(kernel, scale, where=scale > 0, out=np.zeros_like(kernel))) * scale.astype(np.float64)


def oracle(x: np.ndarray, ranges: list[float | None]) -> np.ndarray:
    for k, (kernel, at) in enumerate(zip((FIRST, SECOND), ranges, strict=True)):
        if at is not None:
            x, kernel = rounded_map(x, at), rounded_kernel(kernel)
        x = convolved(x, kernel)
        if k == 0:
            x = np.maximum(x, 0)
    return x + BIAS[:, None, None] + 0.5


@pytest.mark.parametrize("ranges", [[None, None], [None, 5.0], [1.0, None], [1.0, 5.0], [0.5, 2.0]])
def test_against_arithmetic_written_out(ranges):
    x = np.random.default_rng(1).random((7, 3, 6, 6)).astype(np.float32)  # 0.5 and 2.0 cut values off
    found, expected = computed(quantize(two_convolutions(), ranges, source="two"), x), oracle(x, ranges)
    # A value on the border between two steps may be rounded either way, which changes one input by one step.
    assert np.median(np.abs(found - expected)) <= 1e-4
    assert np.abs(found - expected).max() <= 2 * 5 / 255 * np.abs(SECOND).max()
    if any(ranges):
        assert np.abs(found - oracle(x, [None, None])).max() > 1e-3


def test_no_range_changes_nothing():
    data = two_convolutions()
    assert parse_model(quantize(data, [None, None], source="two"), "") == parse_model(data, "")


def test_only_what_is_rounded_becomes_integers():
    data = two_convolutions()
    weights = read_weights(quantize(data, [None, 5.0], source="two"), "")
    before = read_weights(data, "")
    assert sum(w.dtype == np.int8 and w.shape == SECOND.shape for w in weights.values()) == 1
    kept = [name for name, w in before.items() if w.shape != SECOND.shape]
    assert kept
    for name in kept:
        np.testing.assert_array_equal(weights[name], before[name])
    assert not any(w.dtype == np.float32 and w.shape == SECOND.shape for w in weights.values())


def test_shared_inputs_and_weights_are_rounded_once():
    graph = GraphBuilder()
    x = graph.node("Relu", [graph.input("x", np.float32, ["n", 1, 2, 2])])
    kernel = graph.constant(np.ones((1, 1, 1, 1), np.float32))
    both = [graph.node("Conv", [x, kernel]) for _ in range(2)]
    graph.output(graph.node("Concat", both, axis=1), "y", np.float32, ["n", 2, 2, 2])
    made = [node.op_type for node in parse_model(quantize(graph.serialize(), [1.0, 1.0], source="x"), "").graph.node]
    assert made.count("QuantizeLinear") == 1
    assert made.count("DequantizeLinear") == 2
    wider = [node.op_type for node in parse_model(quantize(graph.serialize(), [1.0, 2.0], source="x"), "").graph.node]
    assert wider.count("QuantizeLinear") == 2


@pytest.mark.parametrize("ranges", [[], [1.0], [1.0, 1.0, 1.0]])
def test_a_range_for_every_convolution(ranges):
    with pytest.raises(ModelError, match=rf"^two: {len(ranges)} ranges for 2 convolutions$"):
        quantize(two_convolutions(), ranges, source="two")


def test_weights_that_are_computed():
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", 1, 2, 2])
    kernel = graph.node("Relu", [graph.constant(np.ones((1, 1, 1, 1), np.float32))])
    graph.output(graph.node("Conv", [x, kernel]), "y", np.float32, ["n", 1, 2, 2])
    with pytest.raises(ModelError, match=r"^x: the weights of Conv_\d are computed, not constant$"):
        quantize(graph.serialize(), [1.0], source="x")


# --- the shipped tables -------------------------------------------------------------------------------------------------


def test_every_shipped_table_fits_its_model():
    files = sorted((Path(quantization.__file__).parent / "activation_ranges").glob("*.json"))
    assert files
    for file in files:
        table = json.loads(file.read_text())
        source = open_model(table["model"])
        model, fingerprint = source.read_onnx(), source.fingerprint
        assert table["fingerprint"] == fingerprint == MODELS[table["model"]].sha256
        ranges = quantization.find(fingerprint, source.spec)
        assert ranges == tuple(table["ranges"])
        assert ranges[0] is None  # the first convolution's input is the picture, half of it negative
        assert sum(at is not None for at in ranges) > len(ranges) / 2
        assert len(quantize(model, ranges, source=file.name)) < 0.5 * len(model)


def test_the_table_is_what_its_script_printed():
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "activation_ranges.txt"
    if not results.is_file():
        pytest.skip("outside the clone")
    rows = [line.split() for line in results.read_text().splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    rows = [row for row in rows if row[1].replace(".", "").isdigit()]
    assert [int(row[0]) for row in rows] == list(range(132))
    card = MODELS["casia-webface"]
    ranges = quantization.find(card.sha256, card.spec)
    for row, at in zip(rows, ranges, strict=True):
        assert ("stays" in " ".join(row)) == (at is None)
        assert at is None or abs(float(row[2]) - at) < 1e-3


def test_weights_without_measured_ranges():
    card = MODELS["casia-webface"]
    assert quantization.find("0" * 64, card.spec) is None
    for spec in (INPUT_SPECS["facenet-2017"], InputSpec.from_dict({**card.spec.as_dict(), "std": 64.0})):
        assert quantization.find(card.sha256, spec) is None


@pytest.mark.shared
def test_the_default_model_hardly_changes(shared):
    """Only rounding causes the loss measured here."""
    source = open_model("casia-webface")
    model, fingerprint = source.read_onnx(), source.fingerprint
    ranges = quantization.find(fingerprint, source.spec)
    with np.load(shared / "golden" / "casia_20180408_embeddings.npz") as file:
        crops, expected = file["crops"], file["embeddings"]
    found = computed(quantize(model, ranges, source="casia"), source.spec.preprocess(crops))
    cosine = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1)
    assert 0.9998 <= cosine.min() <= cosine.max() < 0.99999
