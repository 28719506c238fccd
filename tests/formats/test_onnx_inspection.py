"""The input spec of an ONNX network, inferred from its input and from the arithmetic it begins with."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from facespace.errors import ModelError
from facespace.faces.input_spec import INPUT_SPECS
from facespace.formats.onnx_inspection import leading_scaling, spec_of_onnx
from facespace.formats.onnx_model import GraphBuilder, add_tensor, parse_model

ARCFACE = INPUT_SPECS["arcface-112"]
COLOURS = dataclasses.replace(ARCFACE, mean=0.0, std=1.0)
SHARES = dataclasses.replace(ARCFACE, mean=0.0, std=255.0)
MEANS, STDS = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Graph:
    """A graph that begins with some operators and ends with the mean of their result."""

    def __init__(self, shape=("n", 3, 112, 112), dtype=np.float32, *, nodes: bool = False) -> None:
        self.builder, self.dtype, self.nodes = GraphBuilder(), dtype, nodes
        self.shape, self.x = shape, self.builder.input("data", dtype, list(shape))
        self.named: list[str] = []

    def number(self, value: object) -> str:
        self.named.append(self.builder.constant(np.asarray(value, self.dtype)))
        return self.named[-1]

    def then(self, op: str, *values: object, first: bool = False, **attributes: object) -> Graph:
        others = [self.number(value) for value in values]
        self.x = self.builder.node(op, [*others, self.x] if first else [self.x, *others], **attributes)
        return self

    def serialize(self) -> bytes:
        self.builder.output(self.builder.node("Flatten", [self.x], axis=1), "y", np.float32, [self.shape[0], 512])
        model = parse_model(self.builder.serialize(), "test")
        if self.nodes:  # Constant operators in between, as one of torch's exporters writes them
            constants = {tensor.name: tensor for tensor in model.graph.initializer}
            written = list(model.graph.node)
            del model.graph.node[:]
            for node in written:
                for name in node.input:
                    if name in constants:
                        constant = model.graph.node.add(op_type="Constant", output=[name])
                        constant.attribute.add(name="value", t=constants[name], type=4)
                model.graph.node.append(node)
            del model.graph.initializer[:]
        return model.SerializeToString()


def per_channel(values: np.ndarray) -> np.ndarray:
    return values.reshape(1, 3, 1, 1)


BEGINNINGS = {
    "nothing": (lambda g: g, ARCFACE),
    "no number changed": (
        lambda g: g.then("Cast", to=1).then("Identity").then("Transpose", perm=[0, 2, 3, 1]),
        ARCFACE,
    ),
    "MXNet": (lambda g: g.then("Sub", 127.5).then("Mul", 0.0078125), COLOURS),
    "by 128": (lambda g: g.then("Sub", 127.5).then("Div", 128), COLOURS),
    "added": (lambda g: g.then("Add", -127.5).then("Mul", 1 / 127.5), COLOURS),
    "other way": (lambda g: g.then("Mul", 1 / 127.5, first=True).then("Sub", 1), COLOURS),
    "to 0 to 1": (lambda g: g.then("Div", 255), COLOURS),
    "to 0 to 1, then to 1": (lambda g: g.then("Div", 255).then("Sub", 0.5).then("Div", 0.5), COLOURS),
    "ImageNet": (lambda g: g.then("Div", 255).then("Sub", per_channel(MEANS)).then("Div", per_channel(STDS)), COLOURS),
    "a middle alone": (lambda g: g.then("Sub", 127.5), COLOURS),
    "negative": (lambda g: g.then("Sub", 127.5, first=True).then("Div", 128), COLOURS),
    "of 0 to 1": (lambda g: g.then("Sub", 0.5).then("Div", 0.5), SHARES),
    "of 0 to 1, times 2": (lambda g: g.then("Mul", 2).then("Sub", 1), SHARES),
    "ImageNet of 0 to 1": (lambda g: g.then("Sub", per_channel(MEANS)).then("Div", per_channel(STDS)), SHARES),
}


@pytest.mark.parametrize("nodes", [False, True], ids=["initializers", "Constant nodes"])
@pytest.mark.parametrize("name", BEGINNINGS)
def test_scaling_inside(name, nodes):
    begin, expected = BEGINNINGS[name]
    spec, told = spec_of_onnx(begin(Graph(nodes=nodes)).serialize(), source="n.onnx")
    assert spec == expected
    assert told == (
        "inferred from its 112 px input"
        if expected == ARCFACE
        else "inferred from its 112 px input and the scaling inside it"
    )


def test_scaling_in_float16():
    begin, _ = BEGINNINGS["MXNet"]
    assert spec_of_onnx(begin(Graph(dtype=np.float16)).serialize(), source="n")[0] == COLOURS


@pytest.mark.parametrize(
    "begin",
    [
        lambda g: g.then("Mul", 127.5).then("Add", 127.5),
        lambda g: g.then("Div", 2550),
        lambda g: g.then("Sub", np.nan),
        lambda g: g.then("Mul", 1e38).then("Mul", 1e38),
        lambda g: g.then("Mul", 0),
        lambda g: g.then("Add", per_channel(np.array([0, 0, 9]))),
    ],
    ids=["undone", "little", "nan", "overflow", "nothing left", "one channel"],
)
def test_scaling_that_fits_no_range(begin):
    with pytest.raises(ModelError, match=r"^n\.onnx: it begins with .*·x \+ .*; give --input-spec facenet-2018\|"):
        spec_of_onnx(begin(Graph()).serialize(), source="n.onnx")


def test_a_function_that_may_scale():
    model = parse_model(Graph().then("Identity").serialize(), "x")
    model.graph.node[0].domain = "pkg.torch"
    with pytest.raises(ModelError, match=r"^n\.onnx: a function of its own reads the image .*; give --input-spec"):
        spec_of_onnx(model.SerializeToString(), source="n.onnx")
    model.graph.node[0].domain = "ai.onnx"
    assert spec_of_onnx(model.SerializeToString(), source="n.onnx")[0] == ARCFACE


@pytest.mark.parametrize("op", ["Gather", "Slice"])
def test_colours_reordered_inside(op):
    graph = Graph()
    numbers = [[2, 1, 0]] if op == "Gather" else [[2], [-4], [1], [-1]]
    names = [graph.builder.constant(np.array(entry, np.int64)) for entry in numbers]
    graph.x = graph.builder.node(op, [graph.x, *names], **({"axis": 1} if op == "Gather" else {}))
    with pytest.raises(ModelError, match="it reorders the colours, so the order it expects is unknown; give"):
        spec_of_onnx(graph.then("Sub", 127.5).then("Div", 128).serialize(), source="n.onnx")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("n", 3, 112, 112), "arcface-112"),
        ((4, 3, 112, 112), "arcface-112"),
        ((160, 3, 112, 112), "arcface-112"),
        (("n", 112, 112, 3), "arcface-112"),
        ((1, 160, 160, 3), "facenet-2018"),
        ((112, 3, 160, 160), "facenet-2018"),
    ],
)
def test_the_size_is_height_and_width(shape, expected):
    assert spec_of_onnx(Graph(shape).serialize(), source="n")[0] == INPUT_SPECS[expected]


@pytest.mark.parametrize("shape", [("n", 3, 96, 96), ("n", 3, 112, 160), ("n", 3, "h", "w"), ("n", 112), (112, 112, 3)])
def test_a_size_that_fits_no_preset(shape):
    with pytest.raises(
        ModelError, match=r"^n\.onnx: the input spec cannot be inferred from its input's shape; give --input-spec"
    ):
        spec_of_onnx(Graph(shape).serialize(), source="n.onnx")


def test_two_readers_of_the_image_are_not_followed():
    graph = Graph()
    graph.builder.node("Relu", [graph.x])
    assert spec_of_onnx(graph.then("Sub", 127.5).serialize(), source="n")[0] == ARCFACE


def test_a_reader_of_the_shape_alone_does_not_count():
    graph = Graph()
    graph.builder.node("Shape", [graph.x])
    assert spec_of_onnx(graph.then("Sub", 127.5).serialize(), source="n")[0] == COLOURS


def test_only_constants_of_one_or_three_numbers_are_used():
    graph = Graph()
    parsed = parse_model(graph.then("Sub", np.zeros((112, 112))).then("Div", 128).serialize(), "test").graph
    (scale, shift), reorders = leading_scaling(parsed, "data")
    assert (scale.tolist(), shift.tolist(), reorders) == ([1], [0], False)


def test_every_form_of_arithmetic():
    graph = Graph().then("Sub", 3, first=True).then("Mul", 2, first=True).then("Add", per_channel(MEANS)).then("Div", 4)
    (scale, shift), _ = leading_scaling(parse_model(graph.serialize(), "test").graph, "data")
    np.testing.assert_allclose(scale, [-0.5])
    np.testing.assert_allclose(shift, (6 + MEANS) / 4, rtol=1e-6)


def test_a_number_divided_by_the_image_is_not_followed():
    graph = Graph().then("Div", 3, first=True).then("Sub", 127.5)
    assert spec_of_onnx(graph.serialize(), source="n")[0] == ARCFACE


def test_a_graph_with_a_cycle_terminates():
    parsed = parse_model(Graph().then("Mul", 2).serialize(), "test").graph
    add_tensor(parsed, "two", np.array(2, np.float32))
    parsed.node[0].output[0] = "data"
    with np.errstate(over="ignore"):
        leading_scaling(parsed, "data")
