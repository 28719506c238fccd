"""Block-quantised weights compared with loops, and the clean-up of files that contain them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from facespace import Embedder, ModelError
from facespace.formats import onnx_dequantization as module
from facespace.formats.onnx_model import GraphBuilder, add_tensor, describe, new_node, parse_model, read_weights
from facespace.formats.onnx_normalization import open_onnx
from facespace.io.packed_weights import packed_path
from facespace.models.opening import AssumptionWarning
from facespace.models.zoo import MODELS

ONE = np.ones((1, 1), np.float32)
VALUES = np.random.default_rng(0).integers(-128, 128, (4, 6)).astype(np.int8)
SCALES = np.random.default_rng(1).uniform(0.01, 1, (4, 2)).astype(np.float32)
ZEROS = np.random.default_rng(2).integers(-128, 128, (4, 2)).astype(np.int8)
BLOCKS = {"axis": 1, "block_size": 3}


def by_loops(
    values: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None = None, *, axis: int = 1, block_size: int
) -> np.ndarray:
    """Compute each number of a weight by itself: (q − zero point) · scale of its block."""
    result = np.zeros(values.shape, np.float32)
    for place in np.ndindex(*values.shape):
        block = list(place)
        block[axis] //= block_size
        zero = 0 if zeros is None else int(zeros[tuple(block)])
        result[place] = (int(values[place]) - zero) * float(scales[tuple(block)])
    return result


WEIGHT = by_loops(VALUES, SCALES, ZEROS, **BLOCKS)


def quantized(
    *parts: np.ndarray,
    reshapes: tuple[list[int] | np.ndarray, ...] = (),
    edit: Callable[[Any], object] = lambda model: None,
    **attributes: int,
) -> bytes:
    """Return x times the weight; for x = 1 the output is the weight. `reshapes` are applied to it one after the other."""
    graph = GraphBuilder()
    x = graph.input("x", np.float32, [1, 1])
    weight = graph.node("DequantizeLinear", [graph.constant(part) for part in parts], **attributes)
    for shape in reshapes:
        weight = graph.node("Reshape", [weight, graph.constant(np.asarray(shape))])
    graph.output(graph.node("Mul", [x, weight]), "y", np.float32, [])
    model = parse_model(graph.serialize(), "test")
    model.graph.output[0].type.tensor_type.ClearField("shape")  # that of the weight
    edit(model)
    return model.SerializeToString()


def opened(data: bytes) -> bytes:
    return open_onnx(Path("m.onnx"), data).data


def computed(data: bytes, x: np.ndarray = ONE) -> np.ndarray:
    """Return the output of ONNX Runtime, which does not support blocks in this opset."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def operators(data: bytes) -> list[str]:
    return [node.op_type for node in parse_model(data, "test").graph.node]


def shapes(data: bytes) -> dict[str, list[int | str]]:
    graph = parse_model(data, "test").graph
    values = [*graph.input, *graph.output]
    return {value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim] for value in values}


# --- the numbers ------------------------------------------------------------------------------------------------------


@st.composite
def weights(draw) -> tuple[list[np.ndarray], dict[str, int]]:
    """Draw integers, scales and, optionally, zero points; blocks along any axis, which may not fit or be longer than it."""
    shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    block = draw(st.integers(1, 9))
    dtype = draw(st.sampled_from([np.int8, np.uint8, np.int32]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    blocks = list(shape)
    blocks[axis] = -(-shape[axis] // block)
    low, high = {np.int8: (-128, 128), np.uint8: (0, 256), np.int32: (-(10**5), 10**5)}[dtype]
    parts = [random.integers(low, high, shape).astype(dtype), random.normal(size=blocks).astype(np.float32)]
    if draw(st.booleans()):
        parts.append(random.integers(low, high, blocks).astype(dtype))
    return parts, {"axis": axis, "block_size": block}


@settings(max_examples=150, deadline=None)
@given(weights())
def test_weights_are_those_of_a_loop(weight):
    parts, attributes = weight
    found = computed(opened(quantized(*parts, **attributes)))
    expected = by_loops(*parts, **attributes)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def test_a_block_that_the_axis_cuts_short():
    values = np.arange(10, dtype=np.int8).reshape(2, 5)
    scales = np.array([[1, 10, 100], [2, 20, 200]], np.float32)
    found = computed(opened(quantized(values, scales, axis=1, block_size=2)))
    assert found.tolist() == [[0, 1, 20, 30, 400], [10, 12, 140, 160, 1800]]


def test_the_default_axis_is_the_second():
    found = computed(opened(quantized(VALUES, SCALES, ZEROS, block_size=3)))
    np.testing.assert_array_equal(found, WEIGHT)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_single_scale_is_that_of_the_whole_weight(shape, axis):
    """OpenCV Zoo gives it a block size nevertheless, which may be shorter than the weight."""
    parts = VALUES, np.full(shape, 0.25, np.float32), np.full(shape, 7, np.int8)
    found = computed(opened(quantized(*parts, axis=axis, block_size=2)))
    np.testing.assert_array_equal(found, (VALUES.astype(np.float32) - 7) / 4)


def test_integers_do_not_overflow():
    values, zeros = np.array([[-128, 127]], np.int8), np.array([[127, -128]], np.int8)
    found = computed(opened(quantized(values, np.ones((1, 2), np.float32), zeros, axis=1, block_size=1)))
    assert found.tolist() == [[-255, 255]]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_scales_of_another_precision(dtype):
    scales = SCALES.astype(dtype)
    found = computed(opened(quantized(VALUES, scales, ZEROS, **BLOCKS)))
    np.testing.assert_allclose(found, by_loops(VALUES, scales, ZEROS, **BLOCKS), rtol=1e-6)


def test_scales_that_are_not_finite_give_no_warning():
    scales = np.array([[np.inf, np.nan]] * 4, np.float32)
    found = computed(opened(quantized(VALUES * 0, scales, **BLOCKS)))
    assert np.isnan(found).all()


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (([2, 3, 4],), (2, 3, 4)),
        (([2, -1],), (2, 12)),
        (([0, 2, 3],), (4, 2, 3)),
        (([2, 2, 6], [0, -1]), (2, 12)),
    ],
)
def test_a_reshaped_weight_is_computed_too(shapes, expected):
    """As OpenCV Zoo writes them: quantised in two dimensions, reshaped to the four of a convolution."""
    data = opened(quantized(VALUES, SCALES, ZEROS, **BLOCKS, reshapes=shapes))
    assert operators(data) == ["Mul", "Identity"]
    np.testing.assert_array_equal(computed(data), WEIGHT.reshape(expected))


def test_a_shape_computed_by_the_network_is_kept():
    def edit(model):
        shape = model.graph.initializer[-1]
        model.graph.node.insert(0, new_node("Identity", "shape", [shape.name], {}))
        next(node for node in model.graph.node if node.op_type == "Reshape").input[1] = "shape"

    data = opened(quantized(VALUES, SCALES, ZEROS, **BLOCKS, reshapes=([8, 3],), edit=edit))
    assert operators(data) == ["Identity", "Reshape", "Mul", "Identity"]
    np.testing.assert_array_equal(computed(data), WEIGHT.reshape(8, 3))


def test_other_quantisation_is_left_unchanged():
    data = quantized(VALUES, np.float32(0.5), np.int8(3))
    assert opened(data) == data
    both = quantized(VALUES, SCALES, ZEROS, **BLOCKS, edit=lambda model: also_quantised_whole(model))
    assert operators(opened(both)) == ["Mul", "DequantizeLinear", "Mul", "Identity"]
    np.testing.assert_array_equal(computed(opened(both)), WEIGHT * VALUES / 2)


def also_quantised_whole(model: Any) -> None:
    """The product is multiplied by VALUES / 2, quantised with one scale and no block size."""
    graph = model.graph
    add_tensor(graph, "half", np.array(0.5, np.float32))
    product = graph.node[-2].output[0]
    inputs = [graph.initializer[0].name, "half"]
    graph.node.insert(len(graph.node) - 1, new_node("DequantizeLinear", "other", inputs, {}))
    graph.node.insert(len(graph.node) - 1, new_node("Mul", "both", [product, "other"], {}))
    graph.node[-1].input[0] = "both"


def test_the_file_contains_only_float32():
    data = quantized(VALUES, SCALES, ZEROS, **BLOCKS)
    file = open_onnx(Path("m.onnx"), data)
    (weight,) = read_weights(file.data, "test").values()
    assert weight.dtype == np.float32 and weight.shape == VALUES.shape
    assert operators(file.data) == ["Mul", "Identity"]
    assert (file.fingerprint, file.remarks) == (hashlib.sha256(data).hexdigest(), [])


# --- the rest of the network ------------------------------------------------------------------------------------------

SIZE = 4
IMAGES = np.random.default_rng(3).normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)


def network(*, batch: int | str = 1, dropouts: int = 1, edit: Callable[[Any], object] = lambda model: None) -> bytes:
    """Mean colours (N,3) times a weight (3,40), in the form of the published files."""
    graph = GraphBuilder()
    x = graph.input("data", np.float32, [batch, 3, SIZE, SIZE])
    for _ in range(dropouts):
        x = graph.node("Dropout", [x], is_test=1, ratio=0.4)
    parts = [graph.constant(part) for part in (COLOURS, COLOUR_SCALES)]
    weight = graph.node("DequantizeLinear", parts, axis=1, block_size=16)
    colours = graph.node("ReduceMean", [x], axes=[2, 3], keepdims=0)
    graph.output(graph.node("MatMul", [colours, weight]), "features", np.float32, [batch, 40])
    model = parse_model(graph.serialize(), "test")
    edit(model)
    return model.SerializeToString()


COLOURS = np.random.default_rng(4).integers(-128, 128, (3, 40)).astype(np.int8)
COLOUR_SCALES = np.random.default_rng(5).uniform(0.001, 0.01, (3, 3)).astype(np.float32)
FEATURES = IMAGES.mean(axis=(2, 3)) @ by_loops(COLOURS, COLOUR_SCALES, axis=1, block_size=16)


@pytest.mark.parametrize("dropouts", [0, 1, 3])
def test_dropout_is_removed(dropouts):
    data = opened(network(dropouts=dropouts))
    assert "Dropout" not in operators(data)
    np.testing.assert_allclose(computed(data, IMAGES), FEATURES, rtol=1e-5, atol=1e-5)


def test_dropout_of_a_weight_is_removed():
    def edit(model):
        nodes = list(model.graph.node)
        nodes.insert(1, new_node("Dropout", "dropped", [nodes[0].output[0]], {}))
        nodes[2].input[1] = "dropped"
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    np.testing.assert_array_equal(computed(opened(quantized(VALUES, SCALES, ZEROS, **BLOCKS, edit=edit))), WEIGHT)


def test_dropout_with_a_used_mask_is_kept():
    data = opened(network(edit=lambda model: model.graph.node[0].output.append("mask")))
    assert operators(data)[0] == "Dropout"


def test_unused_and_constant_inputs_are_removed():
    """Constants listed as inputs, and inputs that no operator reads."""

    def edit(model):
        for tensor in model.graph.initializer:
            describe(model.graph.input.add(name=tensor.name), np.int8, list(tensor.dims))
        describe(model.graph.input.add(name="scalar_op1"), np.float32, [1])
        model.ir_version = 3

    data = opened(network(edit=edit))
    assert list(shapes(data)) == ["data", "features"]
    np.testing.assert_allclose(computed(data, IMAGES), FEATURES, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("batch", "expected"), [(1, "n"), (2, 2), ("crops", "crops")])
def test_a_batch_of_one_becomes_free(batch, expected):
    def edit(model):
        describe(model.graph.value_info.add(name=model.graph.node[-2].input[0]), np.float32, [batch, 3])

    data = opened(network(batch=batch, edit=edit))
    assert shapes(data) == {"data": [expected, 3, SIZE, SIZE], "features": [expected, 40]}
    assert not parse_model(data, "test").graph.value_info  # which would contain another batch size
    np.testing.assert_allclose(computed(data, IMAGES), FEATURES, rtol=1e-5, atol=1e-5)


# --- invalid files ----------------------------------------------------------------------------------------------------


def without(kind: str, field: str) -> Callable[[Any], None]:
    def edit(model):
        del getattr(next(node for node in model.graph.node if node.op_type == kind), field)[:]

    return edit


def of_two_lines(model: Any) -> None:
    """The integers have a name of two lines and an unsupported type."""
    tensor = model.graph.initializer[0]
    tensor.name, tensor.data_type = "two\nlines", 99
    model.graph.node[0].input[0] = tensor.name


def not_constant(number: int) -> Callable[[Any], None]:
    def edit(model):
        model.graph.node[0].input[number] = "x"

    return edit


def the_output_is(number: int) -> Callable[[Any], None]:
    def edit(model):
        model.graph.output[0].name = model.graph.node[number].output[0]

    return edit


GOOD = VALUES, SCALES, ZEROS
DAMAGED = {
    "scales of one block too many": (
        quantized(VALUES, np.ones((4, 3), np.float32), **BLOCKS),
        r"DequantizeLinear_\d has shape \(4, 6\) and blocks of 3 along axis 1, but scales of shape \(4, 3\)",
    ),
    "scales of another number of axes": (
        quantized(VALUES, np.ones(2, np.float32), **BLOCKS),
        r"scales of shape \(2,\)",
    ),
    "zero points of another shape": (
        quantized(VALUES, SCALES, ZEROS[:, :1], **BLOCKS),
        r"scales of shape \(4, 2\) and zero points of \(4, 1\)",
    ),
    "blocks along the other axis": (quantized(*GOOD, axis=0, block_size=3), r"blocks of 3 along axis 0, but scales"),
    "an axis beyond the last": (quantized(*GOOD, axis=2, block_size=3), "along axis 2, but"),
    "an axis before the first": (quantized(*GOOD, axis=-3, block_size=3), "along axis -1, but"),
    "a negative block": (quantized(*GOOD, axis=1, block_size=-3), "blocks of -3 along axis 1, but"),
    "no scales": (quantized(VALUES, **BLOCKS), "must have integers, float scales .* got 1 input"),
    "no inputs": (
        quantized(*GOOD, **BLOCKS, edit=without("DequantizeLinear", "input")),
        "an operator DequantizeLinear has no input or no output",
    ),
    "four inputs": (quantized(*GOOD, ZEROS, **BLOCKS), "got 4 inputs"),
    "floats for integers": (quantized(WEIGHT, SCALES, **BLOCKS), "must have integers, float scales"),
    "integers for scales": (quantized(VALUES, ZEROS, **BLOCKS), "must have integers, float scales"),
    "integers that are computed": (
        quantized(*GOOD, **BLOCKS, edit=not_constant(0)),
        r"DequantizeLinear_\d is block-quantised but is not a constant",
    ),
    "scales that are computed": (quantized(*GOOD, **BLOCKS, edit=not_constant(1)), "but is not a constant"),
    "zero points that are computed": (quantized(*GOOD, **BLOCKS, edit=not_constant(2)), "but is not a constant"),
    "no weight": (
        quantized(*GOOD, **BLOCKS, edit=without("DequantizeLinear", "output")),
        "operator DequantizeLinear has",
    ),
    "a shape of more numbers": (
        quantized(*GOOD, **BLOCKS, reshapes=([5, 5],)),
        r"Reshape_\d cannot be reshaped from \(4, 6\) to \(5, 5\)",
    ),
    "two sizes that are free": (
        quantized(*GOOD, **BLOCKS, reshapes=([-1, -1],)),
        r"cannot be reshaped from .* to \(-1, -1\)",
    ),
    "the size of an axis it lacks": (quantized(*GOOD, **BLOCKS, reshapes=([4, 6, 0],)), r"cannot be reshaped"),
    "a shape that is no number": (
        quantized(*GOOD, **BLOCKS, reshapes=(np.array([np.nan, 24]),)),
        r"Reshape_\d has a shape of 2 numbers of type float64",
    ),
    "a shape of too many axes": (
        quantized(*GOOD, **BLOCKS, reshapes=(np.ones(9, np.int64),)),
        r"Reshape_\d has a shape of 9 numbers of type int64",
    ),
    "no reshaped weight": (
        quantized(*GOOD, **BLOCKS, reshapes=([24],), edit=without("Reshape", "output")),
        "an operator Reshape has no input or no output",
    ),
    "Dropout of nothing": (network(edit=without("Dropout", "input")), "an operator Dropout has no input or no output"),
    "the output is a weight": (
        quantized(*GOOD, **BLOCKS, edit=the_output_is(0)),
        r"its output DequantizeLinear_\d is not computed by a layer of the network",
    ),
    "the output is a reshaped weight": (
        quantized(*GOOD, **BLOCKS, reshapes=([24],), edit=the_output_is(1)),
        r"its output Reshape_\d is not computed by a layer",
    ),
    "a name of two lines": (
        quantized(*GOOD, **BLOCKS, edit=of_two_lines),
        r"constant two\\nlines has the unsupported type 99",
    ),
}


@pytest.mark.parametrize(("data", "message"), DAMAGED.values(), ids=DAMAGED)
def test_invalid_files_give_an_error_of_one_line(tmp_path, data, message):
    with pytest.raises(ModelError, match=message) as caught:
        open_onnx(tmp_path / "m.onnx", data)
    assert str(caught.value).startswith(f"{tmp_path / 'm.onnx'}: ")
    assert "\n" not in str(caught.value)


def test_more_weights_than_one_file_can_hold(tmp_path, monkeypatch):
    """Several weights of the same few integers, and one weight reshaped several times."""

    def as_two(kind):
        def edit(model):
            graph = model.graph
            k, node = next((k, node) for k, node in enumerate(graph.node) if node.op_type == kind)
            (user,) = (later for later in graph.node if node.output[0] in later.input)
            again = type(node)()
            again.CopyFrom(node)
            again.output[0] = "again"
            product = new_node("Mul", "product", [node.output[0], "again"], {})
            user.input[list(user.input).index(node.output[0])] = "product"
            nodes = [*graph.node[: k + 1], again, product, *graph.node[k + 1 :]]
            nodes = [copy(node) for node in nodes]
            del graph.node[:]
            graph.node.extend(nodes)

        return edit

    for kind in ("DequantizeLinear", "Reshape"):
        data = quantized(*GOOD, **BLOCKS, reshapes=([24],), edit=as_two(kind))
        monkeypatch.setattr(module, "MAX_WEIGHTS", 2 * WEIGHT.nbytes)
        np.testing.assert_array_equal(computed(opened(data)).reshape(-1), WEIGHT.reshape(-1) ** 2)
        monkeypatch.setattr(module, "MAX_WEIGHTS", 2 * WEIGHT.nbytes - 1)
        with pytest.raises(ModelError, match=r"^.*m\.onnx: more than 191 bytes of weights once they are float32$"):
            open_onnx(tmp_path / "m.onnx", data)


def test_weights_that_are_too_large_are_not_computed_first(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_WEIGHTS", WEIGHT.nbytes - 1)
    monkeypatch.setattr(module, "_dequantized", lambda *_: pytest.fail("the weight was computed"))
    with pytest.raises(ModelError, match="more than 95 bytes of weights once they are float32"):
        open_onnx(tmp_path / "m.onnx", quantized(*GOOD, **BLOCKS))


def copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


SMALL = [
    quantized(*GOOD, **BLOCKS, reshapes=([2, 2, 6], [0, -1])),
    quantized(VALUES, np.float32(0.5), np.int8(3), axis=0, block_size=64),
    network(dropouts=2),
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(SMALL),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 255)), min_size=1, max_size=4),
    st.integers(0, 2000),
)
def test_damaged_bytes_give_a_model_error_or_a_file(tmp_path, data, flips, cut):
    damaged = bytearray(data[:-cut] if cut % 4 == 3 else data)  # every fourth one is cut short as well
    for position, bits in flips:
        if damaged:
            damaged[position % len(damaged)] ^= bits
    try:
        assert open_onnx(tmp_path / "m.onnx", bytes(damaged)).data
    except ModelError as error:
        assert str(error).startswith(f"{tmp_path / 'm.onnx'}: ")
        assert "\n" not in str(error)


# --- the published file -----------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_sface_opened_by_its_path_gives_the_golden_features(shared):
    """Features of `cv2.FaceRecognizerSF`; size and scaling are inferred from the file, with a warning."""
    golden = np.load(shared / "golden" / "opencv" / "sface.npz")
    with pytest.warns(
        AssumptionWarning, match=r"assuming sface .*, inferred from its 112 px input and the scaling inside it"
    ):
        embedder = Embedder.load(packed_path(MODELS["sface"].file), precision="float32")
    features = golden["features"] / np.linalg.norm(golden["features"], axis=1, keepdims=True)
    similarities = (embedder.embed(golden["crops"]) * features).sum(axis=1)
    assert len(similarities) == 93
    assert similarities.min() > 0.9999


def test_the_published_sface_becomes_a_plain_network_with_a_free_batch_size():
    path = packed_path(MODELS["sface"].file)
    data = open_onnx(path, path.read_bytes()).data
    assert shapes(data) == {"data": ["n", 3, 112, 112], "fc1": ["n", 128]}
    assert not {"DequantizeLinear", "Reshape", "Dropout"} & set(operators(data))
    assert {weight.dtype for weight in read_weights(data, "sface").values()} == {np.dtype(np.float32)}
    crops = np.random.default_rng(6).integers(0, 256, (3, 3, 112, 112)).astype(np.float32)
    one_by_one = np.concatenate([computed(data, crops[k : k + 1]) for k in range(3)])
    np.testing.assert_allclose(computed(data, crops), one_by_one, rtol=1e-3, atol=1e-4)
