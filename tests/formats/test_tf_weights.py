"""The weights of frozen graphs under the names of their variables."""

from __future__ import annotations

import json

import numpy as np
import pytest

from facespace.errors import ModelError
from facespace.formats.tf_graph import GraphDef, read_graph
from facespace.formats.tf_weights import EPSILON, folded, graph_variables
from facespace.models.zoo import MODELS, locate


def graph_of(*nodes: tuple[str, str, list[str], object]) -> dict:
    graph = GraphDef()
    for name, op, inputs, value in nodes:
        node = graph.node.add(name=name, op=op, input=inputs)
        if value is not None:
            array = np.asarray(value, np.float32)
            attribute = node.attr.add(key="value")
            tensor = attribute.value.tensor
            tensor.dtype = 1
            for size in array.shape:
                tensor.tensor_shape.dim.add(size=size)
            tensor.tensor_content = array.tobytes()
    return {node.name: node for node in graph.node}


KERNEL = np.arange(2.0).reshape(1, 1, 1, 2)
BIAS = np.array([3.0, 4.0])


@pytest.mark.parametrize("op", ["BiasAdd", "Add", "AddV2"])
@pytest.mark.parametrize("behind", [False, True])
def test_a_folded_batch_norm_is_restored(op, behind):
    kernel = "Net/conv/weights/read" if behind else "Net/conv/weights"
    nodes = [
        ("images", "Placeholder", [], None),
        ("Net/conv/weights", "Const", [], KERNEL),
        ("Net/conv/weights/read", "Identity", ["Net/conv/weights"], None),
        ("Net/conv/Conv2D", "Conv2D", ["images", kernel], None),
        ("offset", "Const", [], BIAS),
        ("out", op, ["Net/conv/Conv2D", "offset"], None),
    ]
    graph = graph_of(*nodes)
    assert folded(graph, "g") == {"Net/conv"}
    found = graph_variables(graph, "g")
    assert set(found) == {
        f"Net/conv/{name}"
        for name in ("weights", "BatchNorm/beta", "BatchNorm/moving_mean", "BatchNorm/moving_variance")
    }
    norm = {name.rpartition("/")[2]: value for name, value in found.items()}
    u = np.array([0.3, -0.7])
    y = (u - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + EPSILON) + norm["beta"]
    np.testing.assert_allclose(y, u + BIAS, rtol=1e-6)


def test_existing_biases_and_batch_norms_are_kept():
    graph = graph_of(
        ("images", "Placeholder", [], None),
        ("Net/a/weights", "Const", [], KERNEL),
        ("Net/a/biases", "Const", [], BIAS),
        ("Net/a/Conv2D", "Conv2D", ["images", "Net/a/weights"], None),
        ("Net/a/BiasAdd", "BiasAdd", ["Net/a/Conv2D", "Net/a/biases"], None),
        ("Net/b/weights", "Const", [], KERNEL),
        ("Net/b/BatchNorm/beta", "Const", [], BIAS),
        ("Net/b/Conv2D", "Conv2D", ["Net/a/BiasAdd", "Net/b/weights"], None),
        ("Net/b/add", "Add", ["Net/b/Conv2D", "Net/b/BatchNorm/beta"], None),
    )
    assert folded(graph, "g") == set()
    assert set(graph_variables(graph, "g")) == {
        "Net/a/weights",
        "Net/a/biases",
        "Net/b/weights",
        "Net/b/BatchNorm/beta",
    }


def test_a_graph_without_weights():
    with pytest.raises(ModelError, match="g: the graph has no weights with names"):
        graph_variables(graph_of(("images", "Placeholder", [], None)), "g")


@pytest.mark.shared
def test_the_default_model_has_every_variable_of_its_network(shared):
    graph = read_graph(locate(MODELS["casia-webface"]))
    listed = json.loads((shared / "golden" / "networks" / "inception_resnet_v1_512.variables.json").read_text())
    variables = listed["variables"]
    expected = {name: tuple(shape) for name, shape in (variables.items() if isinstance(variables, dict) else variables)}
    assert {name: array.shape for name, array in graph_variables(graph, "g").items()} == expected
    assert len(folded(graph, "g")) == 111  # every convolution with a batch norm


@pytest.mark.shared
def test_a_graph_with_its_batch_norms_has_nothing_folded(shared):
    graph = read_graph(shared / "data" / "tf1_squeezenet_128" / "20180101-000000.pb")
    assert not folded(graph, "g")
    assert len(graph_variables(graph, "g")) == 106
