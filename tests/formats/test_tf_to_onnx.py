"""Frozen graphs: each operator compared with NumPy, a real graph with golden values, and damaged graphs."""

from __future__ import annotations

import functools
import tracemalloc
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings, strategies as st

from facespace.errors import ModelError
from facespace.formats.tf_graph import GraphDef, constant, parse_graph, read_graph
from facespace.formats.tf_to_onnx import to_onnx
from support.tf_graphs import Graph, cond, images_of, kernel_of, slow_conv, slow_pool, switched


def translate(data: bytes) -> bytes:
    return to_onnx(parse_graph(data, "g.pb"), source="g.pb")


def run(data: bytes, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(translate(data), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["images"]
    assert [value.name for value in session.get_outputs()] == ["features"]
    return session.run(None, {"images": images})[0]


def whole(g: Graph, x: str) -> bytes:
    """Return feature maps as features, (N,H,W,C) flattened in TensorFlow's order."""
    return g.embeddings(g.node("Reshape", x, g.const([-1, SIZES["flat"]])))


SIZES: dict[str, int] = {}


def check_maps(g: Graph, x: str, images: np.ndarray, expected: np.ndarray) -> None:
    SIZES["flat"] = int(np.prod(expected.shape[1:]))
    np.testing.assert_allclose(run(whole(g, x), images), expected.reshape(len(expected), -1), atol=1e-5, rtol=1e-5)


# --- operators ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(7, 8), (8, 7), (9, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("padding", [b"SAME", b"VALID"])
def test_conv(height, width, stride, size, padding):
    g, images = Graph(), images_of(height=height, width=width)
    kernel = kernel_of(size, size, 3, 4)
    check_maps(g, g.conv(g.images(), kernel, stride, padding), images, slow_conv(images, kernel, stride, padding))


@pytest.mark.parametrize(("height", "width"), [(7, 8), (8, 9)])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1), (3, 3)])
@pytest.mark.parametrize("padding", [b"SAME", b"VALID"])
@pytest.mark.parametrize("op", ["MaxPool", "AvgPool"])
def test_pool(height, width, size, stride, padding, op):
    g, images = Graph(), images_of(height=height, width=width)
    window = {"ksize": [1, size, size, 1], "strides": [1, stride, stride, 1], "padding": padding}
    check_maps(g, g.node(op, g.images(), **window), images, slow_pool(images, size, stride, padding, op))


@pytest.mark.parametrize("op", ["FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"])
@pytest.mark.parametrize("after_conv", [True, False])
def test_batch_norm(op, after_conv):
    g, images = Graph(), images_of()
    x, values = g.images(), images.astype(np.float64)
    if after_conv:
        kernel = kernel_of(3, 3, 3, 3)
        x, values = g.conv(x, kernel), slow_conv(images, kernel, 1, b"SAME")
    gamma, beta, mean, variance = kernel_of(4, 3)
    variance = variance**2
    parameters = [g.const(v) for v in (gamma, beta, mean, variance)]
    x = g.node(op, x, *parameters, epsilon=0.01, is_training=False)
    check_maps(g, x, images, gamma * (values - mean) / np.sqrt(variance + np.float32(0.01)) + beta)


@pytest.mark.parametrize("scale", [np.float32(0.3), np.array([0.3], np.float32), kernel_of(4)])
@pytest.mark.parametrize("order", ["conv first", "constant first"])
def test_scale_and_shift_of_a_convolution(scale, order):
    """Both are folded into its weights."""
    g, images = Graph(), images_of()
    kernel = kernel_of(3, 3, 3, 4)
    arguments = [g.conv(g.images(), kernel, 2), g.const(scale)]
    scaled = g.node("Mul", *(arguments if order == "conv first" else arguments[::-1]))
    x = g.node("BiasAdd", scaled, g.const(np.arange(4.0)))
    check_maps(g, x, images, slow_conv(images, kernel, 2, b"SAME") * scale + np.arange(4))


def test_a_convolution_used_twice_is_not_changed_for_the_other_use():
    """Operators on one path are folded only into that path."""
    g, images = Graph(), images_of()
    kernel = kernel_of(3, 3, 3, 4)
    conv = g.conv(g.images(), kernel)
    sum_of_both = g.node("Add", g.node("Mul", conv, g.const(np.float32(3))), g.node("Relu", conv))
    values = slow_conv(images, kernel, 1, b"SAME")
    check_maps(g, sum_of_both, images, 3 * values + np.maximum(values, 0))


@pytest.mark.parametrize(
    ("op", "function"),
    [
        ("Add", np.add),
        ("AddV2", np.add),
        ("Sub", np.subtract),
        ("Mul", np.multiply),
        ("RealDiv", np.divide),
        ("Maximum", np.maximum),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("other", [np.float32(1.5), kernel_of(3), "maps"], ids=["scalar", "channels", "maps"])
def test_arithmetic(op, function, swapped, other):
    g, images = Graph(), np.abs(images_of()) + 0.5
    x = g.images()
    y, value = (g.node("Square", x), images**2) if isinstance(other, str) else (g.const(other), other)
    names, values = ([y, x], [value, images]) if swapped else ([x, y], [images, value])
    check_maps(g, g.node(op, *names), images, function(*(v.astype(np.float64) for v in values)))


def test_constants_are_computed_beforehand():
    g, images = Graph(), images_of()
    a, b = g.const(np.arange(3.0)), g.const(np.float32(2))
    x = g.node("Sub", g.images(), g.node("RealDiv", g.node("Maximum", a, g.const(np.float32(1))), b))
    check_maps(g, x, images, images - np.array([0.5, 0.5, 1]))


def test_relu_square_rsqrt():
    g, images = Graph(), images_of()
    x = g.node("Relu", g.images())
    x = g.node("Rsqrt", g.node("Add", g.node("Square", x), g.const(np.float32(1))))
    check_maps(g, x, images, 1 / np.sqrt(np.maximum(images, 0) ** 2 + 1))


@pytest.mark.parametrize("axis", [3, -1])
def test_concat(axis):
    g, images = Graph(), images_of()
    x = g.images()
    kernel = kernel_of(1, 1, 3, 2)
    joined = g.node("ConcatV2", x, g.conv(x, kernel), x, g.const(axis))
    conv = slow_conv(images, kernel, 1, b"SAME")
    check_maps(g, joined, images, np.concatenate([images, conv, images], axis=3))


@pytest.mark.parametrize("batch", [1, -1])
def test_reshape_leaves_the_batch_free(batch):
    """Also if freezing stored a batch size of one in the shape."""
    g, images = Graph(), images_of(n=3)
    x = g.node("Reshape", g.images(), g.const([batch, 7 * 8 * 3]))
    weights = kernel_of(7 * 8 * 3, 5)
    x = g.node("BiasAdd", g.node("MatMul", x, g.const(weights)), g.const(np.arange(5.0)))
    found = run(g.embeddings(x), images)
    np.testing.assert_allclose(found, images.reshape(3, -1) @ weights + np.arange(5), atol=1e-4)


def test_reshape_leaves_the_batch_of_the_placeholder_free():
    """For a graph made for eight images with a precomputed shape."""
    g, images = Graph(), images_of(n=3)
    x = g.images()
    for size in (8, 7, 8, 3):
        g.message.node[-1].attr.add(key="shape") if not g.message.node[-1].attr else None
        g.message.node[-1].attr[0].value.shape.dim.add(size=size)
    found = run(g.embeddings(g.node("Reshape", g.mean(x), g.const([8, 3]))), images)
    np.testing.assert_allclose(found, images.mean(axis=(1, 2)), atol=1e-6)


def test_a_weight_in_parts():
    g, images = Graph(), images_of()
    weights = kernel_of(3, 5)
    parts = [g.const(weights[:2]), g.const(weights[2:])]
    found = run(g.embeddings(g.node("MatMul", g.mean(g.images()), g.node("ConcatV2", *parts, g.const(0)))), images)
    np.testing.assert_allclose(found, images.mean(axis=(1, 2)) @ weights, atol=1e-5)


@pytest.mark.parametrize("op", ["ConcatV2", "Mul"])
def test_constants_made_of_others_are_counted(op):
    """Before memory is allocated: thirty small nodes double a number thirty times, one makes a table of two vectors."""
    g = Graph()
    if op == "ConcatV2":
        x = g.const(np.ones(1024))
        for _ in range(30):
            x = g.node("ConcatV2", x, x, g.const(0))
    else:
        x = g.node("Mul", g.const(np.ones((2**15, 1))), g.const(np.ones((1, 2**15))))
    data = g.embeddings(g.node("MatMul", g.mean(g.images()), x))
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match="its constants have more than"):
            translate(data)
        assert tracemalloc.get_traced_memory()[1] < 2**31
    finally:
        tracemalloc.stop()


def test_the_axis_comes_first_as_until_2017():
    g, images = Graph(), images_of()
    x = g.images()
    check_maps(g, g.node("Concat", g.const(3), x, x), images, np.concatenate([images, images], axis=3))


def test_missing_attributes_have_tensorflow_s_defaults():
    g, images = Graph(), images_of()
    norm = [g.const(v) for v in (np.ones(3), np.zeros(3), np.zeros(3), np.full(3, 1e-4))]
    x = g.node("FusedBatchNorm", g.images(), *norm, is_training=False)
    x = g.node("Mean", x, g.const([1, 2]))
    np.testing.assert_allclose(run(g.embeddings(x), images), images.mean(axis=(1, 2)) / np.sqrt(2e-4), rtol=1e-3)


@pytest.mark.parametrize("key", ["squeeze_dims", "axis"])
def test_squeeze(key):
    g, images = Graph(), images_of()
    pooled = g.node("AvgPool", g.images(), ksize=[1, 7, 8, 1], strides=[1, 1, 1, 1], padding=b"VALID")
    found = run(g.embeddings(g.node("Squeeze", pooled, **{key: [1, 2]})), images)
    np.testing.assert_allclose(found, images.mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize(("op", "function"), [("Sum", np.sum), ("Mean", np.mean)])
@pytest.mark.parametrize("keep", [True, False])
def test_reductions(op, function, keep):
    g, images = Graph(), images_of()
    x = g.node(op, g.images(), g.const([1, 2]), keep_dims=keep)
    if keep:
        x = g.node("Squeeze", x, squeeze_dims=[1, 2])
    np.testing.assert_allclose(run(g.embeddings(x), images), function(images, axis=(1, 2)), rtol=1e-4, atol=1e-5)


def test_unit_length():
    """The end of a FaceNet graph: x · rsqrt(max(sum(x²), 1e-10))."""
    g, images = Graph(), images_of()
    x = g.mean(g.images())
    total = g.node("Sum", g.node("Square", x), g.const(1), keep_dims=True)
    x = g.node("Mul", x, g.node("Rsqrt", g.node("Maximum", total, g.const(np.float32(1e-10)))))
    expected = images.mean(axis=(1, 2))
    np.testing.assert_allclose(
        run(g.embeddings(x), images), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5
    )


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("switch_itself", [False, True])
def test_training_switches_take_the_branch_of_inference(order, switch_itself):
    images = images_of()
    found = run(switched(order, switch_itself=switch_itself), images)
    np.testing.assert_allclose(found, images.mean(axis=(1, 2)) + 1, atol=1e-5)


def test_the_graph_of_the_2018_trainer():
    """`input` depends on the training queue, `phase_train` is a separate placeholder; either may come first."""
    g = Graph()
    phase = g.flag()
    g.const(False, name="size")
    g.node("QueueDequeueUpToV2", "size", name="batch_join")
    g.node("Identity", "batch_join", name="image_batch")
    g.node("Identity", "image_batch", name="input")
    switch = g.node("Switch", "input", phase)
    trained, evaluated = g.node("RandomUniform", f"{switch}:1"), g.node("Relu", switch)
    images = images_of()
    found = run(g.embeddings(g.mean(g.node("Merge", trained, evaluated))), images)
    np.testing.assert_allclose(found, np.maximum(images, 0).mean(axis=(1, 2)), atol=1e-6)


def test_images_enter_at_image_batch_where_there_is_no_input():
    """As in graphs of the first trainers: the queue behind `image_batch` is left out."""
    g, images = Graph(), images_of()
    g.node("QueueDequeueUpToV2", "nowhere", name="batch_join")
    x = g.node("Identity", "batch_join", name="image_batch")
    found = run(g.embeddings(g.mean(g.node("Relu", x))), images)
    np.testing.assert_allclose(found, np.maximum(images, 0).mean(axis=(1, 2)), atol=1e-6)


def test_dropout():
    """slim's dropout: in training, random numbers scale the values; only control inputs tie them to their branch."""
    g, images = Graph(), images_of()

    def dropped(pivot: str, x: str) -> str:
        noise = g.node("RandomUniform", g.node("Shape", x))
        noise = g.node("Floor", g.node("Add", noise, g.node("Const", pivot)))
        return g.node("Mul", g.node("RealDiv", x, g.node("Const", pivot)), noise)

    kept = cond(g, g.flag(), dropped, lambda pivot, x: g.node("Identity", x), g.mean(g.images()))
    np.testing.assert_allclose(run(g.embeddings(kept), images), images.mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("where", ["after a convolution", "after a product", "alone"])
@pytest.mark.parametrize("with_gamma", [False, True])
def test_batch_norm_of_single_operators(where, with_gamma):
    """As in TensorFlow 1.3 and older: a condition chooses the moments, then x·s + (beta − mean·s)."""
    g, images = Graph(), images_of()
    x, values, axes = g.images(), images.astype(np.float64), [0, 1, 2]
    if where == "after a convolution":
        kernel = kernel_of(3, 3, 3, 3)
        x, values = g.conv(x, kernel), slow_conv(images, kernel, 1, b"SAME")
    elif where == "after a product":
        weights = kernel_of(3, 3)
        x, values, axes = g.node("MatMul", g.mean(x), g.const(weights)), values.mean(axis=(1, 2)) @ weights, [0]
    gamma, beta, mean, variance = kernel_of(4, 3)
    gamma = gamma if with_gamma else np.ones(3, np.float32)
    variance = variance**2
    phase = g.flag()
    moments = []
    for array in (mean, variance):
        moving = g.const(array)

        def of_batch(pivot: str, x: str, moving: str) -> str:
            return g.node("Identity", g.node("Mean", x, g.const(axes), keep_dims=False), "^updates")

        moments.append(cond(g, phase, of_batch, lambda pivot, x, moving: moving, x, moving))
    scale = g.node("Rsqrt", g.node("Add", moments[1], g.const(np.float32(0.001))))
    if with_gamma:
        scale = g.node("Mul", scale, g.const(gamma))
    shift = g.node("Sub", g.const(beta), g.node("Mul", moments[0], scale))
    x = g.node("Add", g.node("Mul", x, scale), shift)
    expected = gamma * (values - mean) / np.sqrt(variance + np.float32(0.001)) + beta
    if where == "after a product":
        np.testing.assert_allclose(run(g.embeddings(x), images), expected, atol=1e-5)
    else:
        check_maps(g, x, images, expected)


@pytest.mark.parametrize("attributes", [{}, {"is_training": True}], ids=["by default", "said so"])
def test_a_batch_norm_that_was_never_switched_to_inference(attributes):
    g = Graph()
    x = g.node("FusedBatchNorm", g.images(), *[g.const(np.ones(3))] * 4, epsilon=0.1, **attributes)
    with pytest.raises(ModelError, match="it normalises by the current batch"):
        translate(g.embeddings(g.mean(x)))


def flattened(g: Graph, x: str, form: str) -> str:
    """Return slim.flatten in the form of several versions of TensorFlow."""
    shape = g.node("Shape", x)
    if form == "1.3":
        batch = g.node("Slice", shape, g.const([0]), g.const([1]))
        rest = g.node("Prod", g.node("Slice", shape, g.const([1]), g.const([3])), g.const([0]), keep_dims=False)
        sizes = g.node("ConcatV2", batch, g.node("ExpandDims", rest, g.const(0)), g.const(0))
    elif form == "1.7":
        batch = g.node("StridedSlice", shape, g.const([0]), g.const([1]), g.const([1]), shrink_axis_mask=1)
        sizes = g.node("Pack", batch, g.const(-1), axis=0)
    elif form == "product kept":
        batch = g.node("StridedSlice", shape, g.const([3]), g.const([1]), g.const([1]), begin_mask=1)
        rest = g.node("StridedSlice", shape, g.const([1]), g.const([2]), g.const([1]), end_mask=1)
        sizes = g.node("ConcatV2", batch, g.node("Prod", rest, g.const([0]), keep_dims=True), g.const(0))
    else:
        rest = g.node("Slice", shape, g.const([1]), g.const([-1]))
        sizes = g.node(
            "ConcatV2", g.const([-1]), g.node("ExpandDims", g.node("Prod", rest, g.const(0)), g.const(-1)), g.const(0)
        )
    return g.node("Reshape", x, sizes)


@pytest.mark.parametrize("form", ["1.3", "1.7", "product kept", "batch unknown"])
@pytest.mark.parametrize("after_conv", [True, False])
def test_flatten(form, after_conv):
    for n in (1, 3):
        g, images = Graph(), images_of(n=n)
        x, expected = g.images(), images
        if after_conv:
            kernel = kernel_of(3, 3, 3, 3)
            x, expected = g.conv(x, kernel), slow_conv(images, kernel, 1, b"SAME")
        weights = kernel_of(7 * 8 * 3, 5)
        x = g.node("MatMul", flattened(g, x, form), g.const(weights))
        np.testing.assert_allclose(run(g.embeddings(x), images), expected.reshape(n, -1) @ weights, atol=1e-4)


@pytest.mark.parametrize("unit", [False, True])
def test_batch_norm_of_features(unit):
    """TensorFlow 1.7 turns them into maps and restores the shape afterwards; `width` must not be lost."""
    g, images = Graph(), images_of(n=3)
    features = g.node("MatMul", g.mean(g.images()), g.const(np.eye(3)))
    gamma, beta, mean, variance = np.abs(kernel_of(4, 3))
    maps = g.node("Reshape", features, g.const([-1, 1, 1, 3]))
    parameters = [g.const(v) for v in (gamma, beta, mean, variance)]
    maps = g.node("FusedBatchNorm", maps, *parameters, epsilon=0.001, is_training=False)
    x = g.node("Reshape", maps, g.node("Shape", features))
    expected = gamma * (images.mean(axis=(1, 2)) - mean) / np.sqrt(variance + np.float32(0.001)) + beta
    if unit:
        squares = g.node("Sum", g.node("Square", x), g.const([1]), keep_dims=True)
        x = g.node("Mul", g.node("Rsqrt", g.node("Maximum", squares, g.const(np.float32(1e-10)))), x)
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    data = g.embeddings(x)
    np.testing.assert_allclose(run(data, images), expected, atol=1e-5)
    session = onnxruntime.InferenceSession(translate(data), providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape == ["n", 3]


@pytest.mark.parametrize("op", ["Relu", "Square", "Rsqrt", "Sqrt"])
def test_operators_of_constants(op):
    g, images = Graph(), images_of()
    found = run(g.embeddings(g.node("Add", g.mean(g.images()), g.node(op, g.const([0.25, 1.0, 4.0])))), images)
    expected = {"Relu": [0.25, 1, 4], "Square": [0.0625, 1, 16], "Rsqrt": [2, 1, 0.5], "Sqrt": [0.5, 1, 2]}[op]
    np.testing.assert_allclose(found, images.mean(axis=(1, 2)) + expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["a constant", "sizes", "a flag"])
def test_an_output_that_does_not_depend_on_images(kind):
    g = Graph()
    x = g.images()
    output = {"a constant": lambda: g.const(np.ones((1, 3))), "sizes": lambda: g.node("Shape", x), "a flag": g.flag}
    with pytest.raises(ModelError, match="the output embeddings does not depend on the images"):
        translate(g.embeddings(output[kind]()))


def test_an_output_computed_only_in_training():
    g = Graph()
    switch = g.node("Switch", g.mean(g.images()), g.node("PlaceholderWithDefault", g.const(False)))
    with pytest.raises(ModelError, match="embeddings is computed only in training"):
        translate(g.embeddings(g.node("Relu", f"{switch}:1")))


def test_nodes_in_any_order():
    g, images = Graph(), images_of()
    kernel = kernel_of(3, 3, 3, 4)
    g.embeddings(g.mean(g.node("Relu", g.conv(g.images(), kernel))))
    expected = run(g.bytes(), images)
    nodes = list(g.message.node)
    for seed in range(5):
        shuffled = GraphDef()
        shuffled.node.extend(nodes[i] for i in np.random.default_rng(seed).permutation(len(nodes)))
        assert (run(shuffled.SerializeToString(), images) == expected).all()


def test_nodes_that_inference_does_not_need_are_not_read():
    g, images = Graph(), images_of()
    x = g.mean(g.images())
    g.node("RandomUniform", "nowhere")
    np.testing.assert_allclose(run(g.embeddings(x), images), images.mean(axis=(1, 2)), atol=1e-6)


def test_a_very_deep_graph():
    g = Graph()
    x = g.mean(g.images())
    for _ in range(3000):
        x = g.node("Identity", x)
    assert translate(g.embeddings(x))


# --- the 2018 trainer's graph -------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_golden_squeezenet(shared):
    path = shared / "data" / "tf1_squeezenet_128" / "20180101-000000.pb"
    with np.load(shared / "golden" / "networks" / "golden.npz") as file:
        crops, expected = file["crops"], file["squeezenet_128/embeddings"]
    session = onnxruntime.InferenceSession(
        to_onnx(read_graph(path), source=str(path)), providers=["CPUExecutionProvider"]
    )
    found = session.run(None, {"images": (crops.astype(np.float32) - 127.5) / 128})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


# --- constants ------------------------------------------------------------------------------------------------------------


def const_node(dtype: int, shape: list[int], content: bytes = b"", **values: Any) -> Any:
    node = GraphDef().node.add(name="c", op="Const")
    tensor = node.attr.add(key="value").value.tensor
    tensor.dtype = dtype
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = content
    for field, entries in values.items():
        getattr(tensor, field).extend(entries)
    return node


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (const_node(1, [2, 3], float_val=[7.5]), np.full((2, 3), 7.5, np.float32)),
        (const_node(1, [4], float_val=[1, 2]), np.array([1, 2, 2, 2], np.float32)),
        (const_node(1, [2, 2], float_val=[1, 2, 3, 4]), np.array([[1, 2], [3, 4]], np.float32)),
        (const_node(3, [], int_val=[-5]), np.array(-5, np.int32)),
        (const_node(3, [3]), np.zeros(3, np.int32)),
        (const_node(9, [1], int64_val=[2**40]), np.array([2**40], np.int64)),
        (const_node(10, [], bool_val=[True]), np.array(True)),
        (const_node(10, []), np.array(False)),
        (const_node(1, [0, 5]), np.empty((0, 5), np.float32)),
        (const_node(3, [2], np.array([1, 2], "<i4").tobytes()), np.array([1, 2], np.int32)),
    ],
)
def test_constants(node, expected):
    found = constant(node, "g.pb")
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert (found == expected).all()


@pytest.mark.parametrize(
    "node",
    [
        const_node(1, [2], b"12345"),
        const_node(1, [3], np.zeros(2, "<f4").tobytes()),
        const_node(1, [2], float_val=[1, 2, 3]),
        const_node(1, [-1, 3], float_val=[1]),
        const_node(1, [2**31, 2**31], float_val=[1]),
        const_node(1, [2**32, 2**32, 0], float_val=[]),
        const_node(1, [2**62]),
        const_node(7, [1]),
        const_node(0, []),
    ],
    ids=str,
)
def test_malformed_constants(node):
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=r"^g\.pb: constant c "):
            constant(node, "g.pb")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# --- errors ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\x0a", b"garbage", b"\x0a\x04garb", b"\xff" * 30, Graph().bytes()], ids=repr)
def test_files_that_are_not_a_graph(data):
    with pytest.raises(ModelError, match=r"^g\.pb: not a TensorFlow frozen graph \("):
        parse_graph(data, "g.pb")


def bad(kind: str) -> bytes:
    g = Graph()
    x = g.images()
    kernel, pooling = kernel_of(3, 3, 3, 4), {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": b"SAME"}
    makers = {
        "unknown operator": lambda: g.node("LSTMBlock", x),
        "is missing": lambda: g.node("Relu", "nowhere"),
        "cycle": lambda: g.node("Relu", g.node("Relu", "loop"), name="loop"),
        "self": lambda: g.node("Relu", "me", name="me"),
        "a second one": lambda: g.node("Add", x, g.node("Placeholder")),
        "no padding": lambda: g.node("Conv2D", x, g.const(kernel), strides=[1, 1, 1, 1]),
        "other padding": lambda: g.conv(x, kernel, padding=b"EXPLICIT"),
        "no strides": lambda: g.node("Conv2D", x, g.const(kernel), padding=b"SAME"),
        "three strides": lambda: g.node("Conv2D", x, g.const(kernel), strides=[1, 1, 1], padding=b"SAME"),
        "batch stride": lambda: g.node("MaxPool", x, **pooling | {"strides": [2, 2, 2, 1]}),
        "NCHW": lambda: g.conv(x, kernel, data_format=b"NCHW"),
        "dilations": lambda: g.conv(x, kernel, dilations=[1, 2, 2, 1]),
        "no kernel": lambda: g.node("Conv2D", x, strides=[1, 1, 1, 1], padding=b"SAME"),
        "computed kernel": lambda: g.node("Conv2D", x, x, strides=[1, 1, 1, 1], padding=b"SAME"),
        "flat kernel": lambda: g.conv(x, kernel.ravel()),
        "no input": lambda: g.node("Relu"),
        "one of two": lambda: g.node("Add", x),
        "const without value": lambda: g.node("Add", x, g.node("Const")),
        "a constant map": lambda: g.node("Add", x, g.const(np.zeros((7, 8, 3)))),
        "concat along rows": lambda: g.node("ConcatV2", x, x, g.const(1)),
        "transposed product": lambda: g.node("MatMul", g.mean(x), g.const(kernel_of(3, 3)), transpose_b=True),
        "norm of few": lambda: g.node("FusedBatchNorm", x, g.const(np.ones(3)), epsilon=0.1, is_training=False),
        "negative variance": lambda: g.node(
            "FusedBatchNorm", x, *[g.const(-np.ones(3))] * 4, epsilon=0.1, is_training=False
        ),
        "norm that does not fit": lambda: g.node(
            "FusedBatchNorm", g.conv(x, kernel), *[g.const(np.ones(5))] * 4, epsilon=0.1, is_training=False
        ),
        "bias that does not fit": lambda: g.node("BiasAdd", g.conv(x, kernel), g.const(np.ones(3))),
        "slice of two": lambda: g.node(
            "Reshape", x, g.node("StridedSlice", g.node("Shape", x), g.const([0, 0]), g.const([1, 1]), g.const([1, 1]))
        ),
        "every second size": lambda: g.node(
            "Reshape", x, g.node("StridedSlice", g.node("Shape", x), g.const([0]), g.const([4]), g.const([2]))
        ),
        "slice of images": lambda: g.node("StridedSlice", x, g.const([0]), g.const([1]), g.const([1])),
        "pack of images": lambda: g.node("Pack", x, x),
        "shape as maps": lambda: g.node(
            "Conv2D", g.node("Shape", x), g.const(kernel), strides=[1] * 4, padding=b"SAME"
        ),
        "shape as features": lambda: g.node("Relu", g.node("Shape", x)),
        "sum of sizes": lambda: g.node("Add", g.node("Shape", x), g.const([1])),
        "norm of a constant": lambda: g.node(
            "FusedBatchNorm", *[g.const(np.ones(3))] * 5, epsilon=0.1, is_training=False
        ),
        "constant as maps": lambda: g.node("MaxPool", g.const(np.ones(3)), **pooling),
        "root of zero": lambda: g.node("Mul", x, g.node("Rsqrt", g.const(np.zeros(3)))),
        "a port that is no number": lambda: g.node("Relu", f"{x}:²"),
    }
    return g.embeddings(makers[kind]())


KINDS = [
    "unknown operator",
    "is missing",
    "cycle",
    "self",
    "a second one",
    "no padding",
    "other padding",
    "no strides",
    "three strides",
    "batch stride",
    "NCHW",
    "dilations",
    "no kernel",
    "computed kernel",
    "flat kernel",
    "no input",
    "one of two",
    "const without value",
    "a constant map",
    "concat along rows",
    "transposed product",
    "norm of few",
    "negative variance",
    "norm that does not fit",
    "bias that does not fit",
    "slice of two",
    "every second size",
    "slice of images",
    "pack of images",
    "shape as maps",
    "shape as features",
    "sum of sizes",
    "norm of a constant",
    "constant as maps",
    "root of zero",
]


@pytest.mark.parametrize("kind", KINDS)
def test_unsupported_graphs(kind):
    with pytest.raises(ModelError, match=r"^g\.pb: ") as caught:
        translate(bad(kind))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("unknown operator", r"operator LSTMBlock \(LSTMBlock_\d+\) is not supported"),
        ("is missing", "the input nowhere of "),
        ("cycle", "depend on each other"),
        ("no padding", r"Conv2D Conv2D_\d+ is malformed \('padding'\)"),
        ("dilations", r"is malformed \(dilations\)"),
    ],
)
def test_errors_name_the_node(kind, message):
    with pytest.raises(ModelError, match=message):
        translate(bad(kind))


def test_a_port_that_looks_like_a_number():
    assert translate(bad("a port that is no number"))


@pytest.mark.parametrize("name", ["import/embeddings", "a/b/embeddings", "features"])
def test_the_output_under_another_name(name):
    """In the scope of an import, or as the only end of a graph."""
    g, images = Graph(), images_of()
    x = g.mean(g.images())
    g.node("Identity", x, name=name)
    if name != "features":
        g.node("Relu", name)
    np.testing.assert_allclose(run(g.bytes(), images), images.mean(axis=(1, 2)), atol=1e-6)


def test_a_graph_without_its_weights():
    g = Graph()
    x = g.node("MatMul", g.mean(g.images()), g.node("VariableV2", name="w"))
    with pytest.raises(ModelError, match=r"the graph has no weights, such as VariableV2 \(w\); give the folder of"):
        translate(g.embeddings(x))


def test_without_the_output():
    g = Graph()
    x = g.images()
    g.node("Relu", x)
    g.node("Square", x)
    with pytest.raises(ModelError, match=r"no node is called 'embeddings', .*; its ends are \w+, \w+$"):
        translate(g.bytes())


# --- damage ------------------------------------------------------------------------------------------------------------------


@functools.cache
def specimen() -> bytes:
    """Return a small graph with most features of a real one."""
    g = Graph()
    x = g.conv(g.images(), kernel_of(3, 3, 3, 2), 2)
    parameters = [g.const(v) for v in np.abs(kernel_of(4, 2))]
    x = g.node("Relu", g.node("FusedBatchNorm", x, *parameters, epsilon=0.01, is_training=False))
    x = g.node(
        "ConcatV2", x, g.node("MaxPool", x, ksize=[1, 3, 3, 1], strides=[1, 1, 1, 1], padding=b"SAME"), g.const(3)
    )
    x = flattened(g, x, "1.3")
    switch = g.node("Switch", x, g.node("PlaceholderWithDefault", g.const(False), name="phase_train"))
    x = g.node("Merge", g.node("Relu", f"{switch}:1"), g.node("Relu", switch))
    x = g.node("MatMul", x, g.const(kernel_of(64, 3)))
    x = g.node("Reshape", g.node("BiasAdd", x, g.const(np.arange(3.0))), g.const([1, 3]))
    return g.embeddings(g.node("Mul", x, g.const(np.float32(2))))


def check_damaged(data: bytes) -> None:
    tracemalloc.start()
    try:
        translate(data)
    except ModelError as error:
        assert str(error).startswith("g.pb: ")
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**26


def test_the_undamaged_graph_is_translated():
    assert run(specimen(), images_of()).shape == (2, 3)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3))
def test_flipped_bytes(flips):
    data = bytearray(specimen())
    for place, bits in flips:
        data[int(place * len(data))] ^= bits
    check_damaged(bytes(data))


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_cut_files(place):
    check_damaged(specimen()[: int(place * len(specimen()))])


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes(data):
    check_damaged(data)
