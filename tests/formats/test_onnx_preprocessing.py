"""Preprocessing inside the graph compared with `InputSpec.preprocess`."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from facespace.errors import ModelError
from facespace.faces.input_spec import InputSpec
from facespace.formats.onnx_model import GraphBuilder, describe, parse_model
from facespace.formats.onnx_preprocessing import with_preprocessing

SIZE = 16
WEIGHTS = np.random.default_rng(0).normal(size=(3 * SIZE * SIZE, 5)).astype(np.float32)
CROPS = np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
CROPS[3] = 77  # one colour: no spread to divide by


def network(
    *, channels_first: bool, opset: int = 13, batch: int | str = "n", side: int | str = SIZE, name: str = "images"
) -> bytes:
    """Return a network with features (N,5): every value of the image times WEIGHTS."""
    graph = GraphBuilder()
    x = graph.input(name, np.float32, [batch, 3, side, side] if channels_first else [batch, side, side, 3])
    if not channels_first:
        x = graph.node("Transpose", [x], perm=[0, 3, 1, 2])
    flat = graph.node("Flatten", [x], axis=1)
    graph.output(graph.node("MatMul", [flat, graph.constant(WEIGHTS)]), "features", np.float32, [batch, 5])
    model = parse_model(graph.serialize(), "test")
    model.opset_import[0].version = opset
    return model.SerializeToString()


def run(model: bytes, crops: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: crops})


def oracle(spec: InputSpec, crops: np.ndarray) -> np.ndarray:
    return spec.preprocess(crops).transpose(0, 3, 1, 2).reshape(len(crops), -1).astype(np.float64) @ WEIGHTS


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 21])
@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(SIZE, "box"),
        InputSpec(SIZE, "arcface", mean=100.0, std=50.0, channel_order="BGR"),
        InputSpec(SIZE, "box", standardization="per-image"),
    ],
    ids=["fixed", "BGR", "per-image"],
)
def test_the_same_numbers_as_preprocess(spec, opset, channels_first):
    model = with_preprocessing(network(channels_first=channels_first, opset=opset), spec, source="test", unit=False)
    np.testing.assert_allclose(run(model, CROPS)[0], oracle(spec, CROPS), rtol=1e-4, atol=1e-3)


def test_unit_length():
    spec = InputSpec(SIZE, "box")
    (found,) = run(with_preprocessing(network(channels_first=True), spec, source="test", unit=True), CROPS)
    expected = oracle(spec, CROPS)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


def test_a_vector_of_length_0_is_not_divided_by_it():
    spec = InputSpec(SIZE, "box", standardization="per-image")
    (found,) = run(with_preprocessing(network(channels_first=True), spec, source="test", unit=True), CROPS[3:])
    assert np.isfinite(found).all()
    assert not found.any()


def test_the_inputs_and_outputs_declared_in_the_file():
    model = with_preprocessing(network(channels_first=True, batch=4), InputSpec(SIZE, "box"), source="test", unit=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (given,), (gives,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("crops", "tensor(uint8)", [4, SIZE, SIZE, 3])
    assert (gives.name, gives.type, gives.shape) == ("embeddings", "tensor(float)", [4, 5])


def test_a_model_of_uint8_crops_is_not_changed():
    whole = with_preprocessing(network(channels_first=True), InputSpec(SIZE, "box"), source="test", unit=True)
    assert with_preprocessing(whole, InputSpec(SIZE, "box"), source="test", unit=True) == whole


def test_names_that_are_taken():
    model = with_preprocessing(
        network(channels_first=False, name="crops"), InputSpec(SIZE, "box"), source="test", unit=True
    )
    np.testing.assert_allclose(np.linalg.norm(run(model, CROPS)[0], axis=1), 1, atol=1e-5)


def test_a_free_size_takes_that_of_the_spec():
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", 3, "h", "w"])
    graph.output(graph.node("ReduceMean", [x], axes=[2, 3], keepdims=0), "y", np.float32, ["n", 3])
    model = with_preprocessing(graph.serialize(), InputSpec(SIZE, "box"), source="test", unit=False)
    expected = ((CROPS.astype(np.float64) - 127.5) / 128).mean(axis=(1, 2))
    np.testing.assert_allclose(run(model, CROPS)[0], expected, atol=1e-5)


def test_constants_that_old_files_list_as_inputs_and_further_outputs():
    model = parse_model(network(channels_first=True), "test")
    model.ir_version = 3
    tensor = model.graph.initializer[0]
    describe(model.graph.input.add(name=tensor.name), np.float32, list(tensor.dims))
    describe(model.graph.output.add(name=model.graph.node[0].output[0]), np.float32, ["n", WEIGHTS.shape[0]])
    whole = with_preprocessing(model.SerializeToString(), InputSpec(SIZE, "box"), source="test", unit=True)
    assert len(run(whole, CROPS)) == 1


def two_inputs() -> bytes:
    graph = GraphBuilder()
    a, b = (graph.input(name, np.float32, ["n", 3, SIZE, SIZE]) for name in "ab")
    graph.output(graph.node("Add", [a, b]), "y", np.float32, ["n", 3, SIZE, SIZE])
    return graph.serialize()


def of_type(dtype: object, shape: list[int | str]) -> bytes:
    graph = GraphBuilder()
    graph.output(graph.node("Identity", [graph.input("x", dtype, shape)]), "y", dtype, shape)
    return graph.serialize()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (two_inputs(), "must have one input of images and an output, got the inputs a, b"),
        (of_type(np.float32, ["n", 3]), r"the input must be \(N,3,H,W\) or \(N,H,W,3\), got \['n', 3\]"),
        (of_type(np.float32, ["n", 4, SIZE, SIZE]), "the input must be"),
        (of_type(np.float32, ["n", 3, 112, 112]), "its input must have 16 px as in its input spec, got 112 px"),
        (of_type(np.int64, ["n", 3, SIZE, SIZE]), "must be float32 images"),
        (of_type(np.uint8, ["n", 3, SIZE, SIZE]), "must be float32 images"),
        (b"\x08\x01", "not an ONNX model"),
    ],
)
def test_networks_with_another_input(model, message):
    with pytest.raises(ModelError, match=message) as caught:
        with_preprocessing(model, InputSpec(SIZE, "box"), source="net.onnx", unit=True)
    assert str(caught.value).startswith("net.onnx: ")
