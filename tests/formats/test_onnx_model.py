"""Graphs are written and read back, by our reader and by ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings, strategies as st

from facespace.errors import ModelError
from facespace.formats.onnx_model import IR_VERSION, OPSET, GraphBuilder, parse_model, read_weights
from facespace.io.protobuf import message_class

ARRAYS = {
    "float": np.arange(6, dtype=np.float32).reshape(2, 3) / 3,
    "bytes": np.array([0, 255], np.uint8),
    "ints": np.array([[-(2**31)], [2**31 - 1]], np.int32),
    "longs": np.array([-(2**63), 2**63 - 1], np.int64),
    "bools": np.array([True, False, True]),
    "scalar": np.float32(2.5).reshape(()),
    "none": np.empty((0, 4), np.float32),
}


def affine() -> bytes:
    """y = 2x + (0, 1, 2)."""
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", 3])
    product = graph.node("MatMul", [x, graph.constant(2 * np.eye(3, dtype=np.float32))])
    graph.output(
        graph.node("Add", [product, graph.constant(np.arange(3, dtype=np.float32))]), "y", np.float32, ["n", 3]
    )
    return graph.serialize()


def test_constants_come_back():
    graph = GraphBuilder()
    names = {graph.constant(array): array for array in ARRAYS.values()}
    graph.output(next(iter(names)), "y", np.float32, [2, 3])
    weights = read_weights(graph.serialize(), "x.onnx")
    assert list(weights) == list(names)
    for name, array in names.items():
        assert weights[name].dtype == array.dtype
        assert weights[name].shape == array.shape
        assert (weights[name] == array).all()


def test_constants_of_any_strides():
    graph = GraphBuilder()
    array = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-1].T
    name = graph.constant(array)
    graph.node("Identity", [name])
    assert (read_weights(graph.serialize(), "x")[name] == array).all()


def test_onnx_runtime_computes_it():
    session = onnxruntime.InferenceSession(affine(), providers=["CPUExecutionProvider"])
    assert [(v.name, v.shape) for v in session.get_inputs()] == [("x", ["n", 3])]
    assert [(v.name, v.shape) for v in session.get_outputs()] == [("y", ["n", 3])]
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], 2 * x + [0, 1, 2], rtol=1e-6)


def test_attributes_of_every_kind():
    graph = GraphBuilder()
    x = graph.input("x", np.float32, [1, 1, 4, 4])
    x = graph.node("MaxPool", [x], kernel_shape=[3, 3], strides=(2, 2), auto_pad="SAME_UPPER")
    x = graph.node("LeakyRelu", [x], alpha=0.5)
    graph.output(graph.node("Flatten", [x], axis=1), "y", np.float32, [1, 4])
    image = -np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    session = onnxruntime.InferenceSession(graph.serialize(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": image})[0].tolist() == [[0, -1, -4, -5]]


def test_names_are_unique():
    graph = GraphBuilder()
    x = graph.input("x", np.float32, [2])
    names = [graph.node("Relu", [x]) for _ in range(5)] + [graph.constant(ARRAYS["float"]) for _ in range(5)]
    assert len(set(names)) == 10


def test_versions_are_written():
    model = parse_model(affine(), "x")
    assert model.ir_version == IR_VERSION
    assert [entry.version for entry in model.opset_import] == [OPSET]


def test_an_unsupported_dtype_is_not_written():
    with pytest.raises(KeyError):
        GraphBuilder().constant(np.zeros(2, np.complex64))


def test_a_schema_of_ones_own():
    schema = {"Leaf": [("value", 1, "int64")], "Tree": [("name", 1, "string"), ("leaves", 2, "Leaf*")]}
    tree_class = message_class("facespace.test", schema, "Tree")
    tree = tree_class(name="oak")
    tree.leaves.add(value=7)
    again = tree_class()
    again.ParseFromString(tree.SerializeToString())
    assert (again.name, [leaf.value for leaf in again.leaves]) == ("oak", [7])


# --- damage ---------------------------------------------------------------------------------------------------------


def edited(edit) -> bytes:
    model = parse_model(affine(), "x")
    edit(model)
    return model.SerializeToString()


@pytest.mark.parametrize("data", [b"", b"not a model", b"\xff" * 40, affine()[:-7]], ids=repr)
def test_files_that_are_not_a_model(data):
    with pytest.raises(ModelError, match=r"^photo\.onnx: not an ONNX model \("):
        parse_model(data, "photo.onnx")
    with pytest.raises(ModelError, match=r"^photo\.onnx: "):
        read_weights(data, "photo.onnx")


def cut_values(model):
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def cut_bytes(model):
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-1]


def claim_much(model):
    model.graph.initializer[0].dims[:] = [2**31, 2**31]


def claim_zero_by_overflow(model):
    """Give a shape whose product 2^32 · 2^32 is 0 in 64 bits, and no values."""
    model.graph.initializer[0].dims[:] = [2**32, 2**32]
    model.graph.initializer[0].raw_data = b""


def claim_negative(model):
    model.graph.initializer[0].dims[:] = [-3, -3]


def claim_strings(model):
    model.graph.initializer[0].data_type = 8


@pytest.mark.parametrize(
    "edit", [cut_values, cut_bytes, claim_much, claim_zero_by_overflow, claim_negative, claim_strings]
)
def test_damaged_constants(edit):
    with pytest.raises(ModelError, match=r"^w\.onnx: constant constant_1 "):
        read_weights(edited(edit), "w.onnx")


def test_values_outside_raw_data():
    def edit(model):
        tensor = model.graph.initializer[1]
        tensor.raw_data = b""
        tensor.float_data.extend([3.0, 4.0, 5.0])

    name = parse_model(affine(), "x").graph.initializer[1].name
    assert read_weights(edited(edit), "x")[name].tolist() == [3, 4, 5]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(affine()) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_give_a_model_error_or_none(flips):
    data = bytearray(affine())
    for position, bits in flips:
        data[position] ^= bits
    try:
        read_weights(bytes(data), "x")
    except ModelError as error:
        assert str(error).startswith("x: ")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_give_a_model_error_or_none(data):
    try:
        read_weights(data, "x")
    except ModelError as error:
        assert str(error).startswith("x: ")
