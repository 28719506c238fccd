"""Split PRelu compared with its definition, and models that are left unchanged."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from facespace import ModelError
from facespace.formats.onnx_model import GraphBuilder, parse_model
from facespace.formats.onnx_prelu import with_split_prelu
from facespace.runtime.onnx_network import OnnxNetwork


def network(slope: np.ndarray, *, again: bool = False) -> bytes:
    graph = GraphBuilder()
    x = graph.input("x", slope.dtype, ["n", 3, "h", "w"])
    y = graph.node("PRelu", [x, graph.constant(slope)])
    if again:
        y = graph.node("PRelu", [y, graph.constant(slope)])
    graph.output(y, "y", slope.dtype, ["n", 3, "h", "w"])
    return graph.serialize()


def computed(model: bytes, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model).run(None, {"x": x})[0]


def operators(model: bytes) -> list[str]:
    return [node.op_type for node in parse_model(model, "test").graph.node]


@pytest.mark.parametrize(
    "slopes", [[0.25, 0, 1], [-0.5, 1.5, 0.1], [3, 2, 1.0001]], ids=["below 1", "of all kinds", "above 1"]
)
def test_it_computes_prelu(slopes: list[float]) -> None:
    slope = np.array(slopes, np.float32)[:, None, None]
    x = np.random.default_rng(0).normal(0, 3, (2, 3, 5, 7)).astype(np.float32)
    x[0, :, 0] = 0
    split = with_split_prelu(network(slope, again=True), "test")
    assert "PRelu" not in operators(split)
    once = np.where(x > 0, x, slope * x)
    np.testing.assert_allclose(computed(split, x), np.where(once > 0, once, slope * once), rtol=1e-5, atol=1e-6)


def test_one_slope_for_everything_and_one_for_each_number() -> None:
    x = np.random.default_rng(1).normal(0, 3, (1, 3, 4, 4)).astype(np.float32)
    for shape in ((1,), (3, 4, 4)):
        slope = np.random.default_rng(2).uniform(-1, 2, shape).astype(np.float32)
        split = with_split_prelu(network(slope), "test")
        np.testing.assert_allclose(computed(split, x), np.where(x > 0, x, slope * x), rtol=1e-5, atol=1e-6)


def test_models_that_are_left_unchanged() -> None:
    half = network(np.full((3, 1, 1), 0.25, np.float16))
    assert with_split_prelu(half, "test") is not None and "PRelu" in operators(with_split_prelu(half, "test"))
    old = parse_model(network(np.full((3, 1, 1), 0.25, np.float32)), "test")
    old.opset_import[0].version = 6
    assert operators(with_split_prelu(old.SerializeToString(), "test")) == ["PRelu", "Identity"]
    graph = GraphBuilder()  # computed slopes
    x, slope = graph.input("x", np.float32, [3]), graph.input("slope", np.float32, [3])
    graph.output(graph.node("PRelu", [x, slope]), "y", np.float32, [3])
    assert operators(with_split_prelu(graph.serialize(), "test")) == ["PRelu", "Identity"]
    graph = GraphBuilder()
    graph.output(graph.node("Relu", [graph.input("x", np.float32, [3])]), "y", np.float32, [3])
    assert with_split_prelu(graph.serialize(), "test") == graph.serialize()


def test_the_error_names_a_file_that_is_not_a_model() -> None:
    with pytest.raises(ModelError, match=r"^odd\.onnx: not an ONNX model"):
        with_split_prelu(b"PRelu, not a model", "odd.onnx")


def test_the_plain_runtime_computes_it_split(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, *rest, **more: seen.append(model) or original(model, *rest, **more),
    )
    slope = np.full((3, 1, 1), 0.25, np.float32)
    plain = OnnxNetwork(network(slope), source="test", runtime="onnxruntime")
    assert "PRelu" not in operators(seen[-1])
    x = np.random.default_rng(3).normal(0, 3, (1, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(plain.run(x)[0], np.where(x > 0, x, slope * x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("read_twice", [False, True])
def test_a_convolution_takes_the_sign_for_slopes_above_1(groups: int, read_twice: bool) -> None:
    """If it is the only reader: the same numbers, and no multiplication by signs."""
    rng = np.random.default_rng(groups)
    slope = np.array([0.3, 1.7, -0.5, 2.5], np.float32)[:, None, None]
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", 4, "h", "w"])
    y = graph.node("PRelu", [x, graph.constant(slope)])
    weights = rng.normal(0, 1, (8, 4 // groups, 3, 3)).astype(np.float32)
    z = graph.node("Conv", [y, graph.constant(weights)], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=groups)
    graph.output(z, "z", np.float32, ["n", 8, "h", "w"])
    if read_twice:
        graph.output(y, "y", np.float32, ["n", 4, "h", "w"])
    model = graph.serialize()
    split = with_split_prelu(model, "test")
    assert operators(split).count("Mul") == (3 if read_twice else 2)
    pixels = rng.normal(0, 3, (2, 4, 6, 5)).astype(np.float32)
    np.testing.assert_allclose(computed(split, pixels), computed(model, pixels), rtol=1e-4, atol=1e-4)


def test_weights_shared_by_two_convolutions_are_not_changed() -> None:
    rng = np.random.default_rng(7)
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", 3, "h", "w"])
    y = graph.node("PRelu", [x, graph.constant(np.full((3, 1, 1), 1.5, np.float32))])
    weights = graph.constant(rng.normal(0, 1, (3, 3, 1, 1)).astype(np.float32))
    z = graph.node("Conv", [graph.node("Conv", [y, weights]), weights])
    graph.output(z, "z", np.float32, ["n", 3, "h", "w"])
    pixels = rng.normal(0, 3, (1, 3, 4, 4)).astype(np.float32)
    split = with_split_prelu(graph.serialize(), "test")
    np.testing.assert_allclose(computed(split, pixels), computed(graph.serialize(), pixels), rtol=1e-4, atol=1e-4)
