"""The nodes that inference needs: conditions, how they are decided, and the branches cut off."""

from __future__ import annotations

import numpy as np
import pytest

from facespace.errors import ModelError
from facespace.formats.tf_graph import (
    MAX_NODES,
    constant,
    images_node,
    inference_graph,
    new_constant,
    nodes_of,
    parse_graph,
)
from support.tf_graphs import Graph, cond


def parsed(g: Graph) -> dict:
    return parse_graph(g.bytes(), "g.pb")


def needed(g: Graph) -> dict:
    """Return the nodes that inference needs as {name: (operator, inputs)}."""
    graph = inference_graph(parsed(g), "embeddings", "g.pb")
    again = inference_graph(graph, "embeddings", "g.pb")
    assert {name: again[name].SerializeToString() for name in again} == {
        name: graph[name].SerializeToString() for name in graph
    }
    return {name: (node.op, [entry for entry in node.input if entry[0] != "^"]) for name, node in graph.items()}


def decided_by(g: Graph, decider: str) -> str:
    """Return the operator that is computed from x if `decider` decides between two."""
    x = g.images()
    g.node(
        "Identity",
        cond(g, decider, lambda pivot, x: g.node("IfTrue", x), lambda pivot, x: g.node("IfFalse", x), x),
        name="embeddings",
    )
    (op,) = {op for op, _ in needed(g).values()} & {"IfTrue", "IfFalse"}
    return op


def either(g: Graph, name: str) -> str:
    g.node("PlaceholderWithDefault", g.const(name.endswith("true")), name=name)
    return name


DECIDERS = {
    "a flag": (lambda g: g.flag(), "IfFalse"),
    "a flag of any name": (lambda g: g.flag("is_training"), "IfFalse"),
    "a flag with a default": (lambda g: either(g, "false"), "IfFalse"),
    "a flag that is on by default": (lambda g: either(g, "true"), "IfFalse"),
    "a flag through identities": (lambda g: g.node("Identity", g.node("Identity", g.flag())), "IfFalse"),
    "no": (lambda g: g.const(False), "IfFalse"),
    "yes": (lambda g: g.const(True), "IfTrue"),
    "not a flag": (lambda g: g.node("LogicalNot", g.flag()), "IfTrue"),
    "a flag and anything": (lambda g: g.node("LogicalAnd", g.flag(), g.node("Less", g.const(1))), "IfFalse"),
    "a flag or yes": (lambda g: g.node("LogicalOr", g.flag(), g.const(True)), "IfTrue"),
    "no or a flag": (lambda g: g.node("LogicalOr", g.const(False), g.flag()), "IfFalse"),
    "a flag in another's branch": (lambda g: g.node("Switch", g.flag(), g.flag("outer")), "IfFalse"),
}


@pytest.mark.parametrize("kind", DECIDERS)
def test_what_decides_a_condition(kind):
    g = Graph()
    decider, expected = DECIDERS[kind]
    assert decided_by(g, decider(g)) == expected


UNKNOWN = {
    "random numbers": lambda g: g.node("Less", g.node("RandomUniform", g.const([1])), g.const(np.float32(0.5))),
    "a number": lambda g: g.const(1),
    "several truth values": lambda g: g.const([True, False]),
    "a placeholder of numbers": lambda g: g.node("Placeholder", name="rate"),
    "a flag and something": lambda g: g.node("LogicalAnd", g.const(True), g.node("Less", g.const(1))),
    "not something": lambda g: g.node("LogicalNot", g.node("Less", g.const(1))),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_cannot_decide_a_condition(kind):
    """Mistaken for a training flag, it would give a network that was never trained."""
    g = Graph()
    decider = UNKNOWN[kind](g)
    with pytest.raises(ModelError, match=r"^g\.pb: Switch_\d+ depends on \S+ \(\w+\), which is neither") as caught:
        decided_by(g, decider)
    assert decider in str(caught.value)


def test_undecided_conditions_elsewhere_do_not_matter():
    """For example the random flips of training images, or nodes in a branch of training."""
    g = Graph()
    flip = g.node("Less", g.node("RandomUniform"))
    g.node("Identity", cond(g, flip, lambda pivot, x: x, lambda pivot, x: x, g.const([1])), name="image_batch")
    x = g.node("Identity", "image_batch", name="input")
    x = cond(g, g.flag(), lambda pivot, x: cond(g, flip, lambda p, x: x, lambda p, x: x, x), lambda pivot, x: x, x)
    g.node("Identity", x, name="embeddings")
    assert [op for op, _ in needed(g).values()] == ["Placeholder", "Identity", "Identity", "Identity"]


@pytest.mark.parametrize("training", [False, True])
def test_constants_of_a_branch(training):
    """They have no inputs; only a control input shows which branch they belong to."""
    g = Graph()

    def of_branch(value: float):
        def build(pivot: str) -> str:
            name = g.const(np.float32(value))
            g.message.node[-1].input.append(pivot)
            return name

        return build

    factor = cond(g, g.const(True) if training else g.flag(), of_branch(100), of_branch(1))
    g.node("Mul", g.images(), factor, name="embeddings")
    graph = inference_graph(parsed(g), "embeddings", "g.pb")
    (array,) = (constant(node, "g.pb") for node in graph.values() if node.op == "Const")
    assert array == (100 if training else 1)


def test_a_condition_within_a_condition():
    g = Graph()
    phase = g.flag()

    def inner(pivot: str, x: str) -> str:
        again = g.node("Switch", phase, phase)
        return cond(g, again, lambda p, x: g.node("Twice", x), lambda p, x: g.node("Once", x), x)

    g.node("Identity", cond(g, phase, lambda pivot, x: g.node("Train", x), inner, g.images()), name="embeddings")
    assert {op for op, _ in needed(g).values()} == {"Placeholder", "Identity", "Once"}


def test_the_result_is_a_plain_graph():
    """It has no conditions, flags, training nodes or output numbers."""
    g = Graph()
    x = cond(g, g.const(True), lambda p, x: g.node("Relu", x), lambda p, x: g.node("Nothing", x), g.images())
    y = cond(g, g.flag(), lambda p, x: g.node("Nothing", x), lambda p, x: g.node("Square", x), x)
    g.node("Identity", y, "^phase_train", name="embeddings")
    graph = needed(g)
    assert {op for op, _ in graph.values()} == {"Placeholder", "Identity", "Relu", "Square"}
    seen: set[str] = set()
    for name, (_, inputs) in graph.items():
        assert set(inputs) <= seen, "inputs come before users"
        seen.add(name)


def test_attributes_are_kept():
    g = Graph()
    switch = g.node("Switch", g.images(), g.const(True))
    g.node("Mean", f"{switch}:1", g.const([1, 2]), keep_dims=True, name="embeddings")
    graph = inference_graph(parsed(g), "embeddings", "g.pb")
    assert graph["embeddings"].attr[0].value.b
    assert list(graph["embeddings"].input) == [switch, "Const_4"]


@pytest.mark.parametrize("op", ["FusedBatchNorm", "Merge", "Split"])
def test_second_outputs(op):
    g = Graph()
    g.node("Relu", f"{g.node(op, g.images())}:1", name="embeddings")
    with pytest.raises(ModelError, match=rf"embeddings uses output 1 of {op}_2 \({op}\); only 0 is supported"):
        needed(g)


def test_a_merge_of_two_that_are_alive():
    g = Graph()
    g.node("Merge", g.images(), g.const([1]), name="embeddings")
    with pytest.raises(ModelError, match="Merge embeddings must have one input in inference, got 2"):
        needed(g)


def test_a_switch_of_one():
    g = Graph()
    g.node("Switch", g.images(), name="embeddings")
    with pytest.raises(ModelError, match=r"Switch embeddings is malformed \(1 inputs\)"):
        needed(g)


def test_pivots_that_are_missing_or_cut_short():
    g = Graph()
    pivot = g.node("Identity")
    g.node("Relu", g.images(), "^gone", f"^{pivot}", f"^{g.node('Identity', 'nowhere')}", name="embeddings")
    assert set(needed(g)) == {"input", "embeddings"}


@pytest.mark.parametrize("op", ["Relu", "Merge", "Switch", "Spl\nit"])
def test_errors_are_one_line_for_any_names(op):
    g = Graph()
    g.node("Relu", g.node(op, g.images(), name="a\nb") + ":1", name="embeddings")
    with pytest.raises(ModelError) as caught:
        needed(g)
    assert "a\\nb" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["image_batch", "input"], "input"), (["image_batch"], "image_batch"), (["images"], None)],
)
def test_where_images_enter(names, expected):
    g = Graph()
    for name in names:
        g.node("Placeholder", name=name)
    assert images_node(parsed(g)) == expected


@pytest.mark.parametrize("array", [np.float32([[1, 2]]), np.int32(3), np.int64([2**40]), np.bool_([True, False])])
def test_new_constants(array):
    array = np.asarray(array)
    found = constant(new_constant("c", array), "g.pb")
    assert (found.dtype, found.shape, found.tolist()) == (array.dtype, array.shape, array.tolist())


def test_nodes_without_operators_are_not_a_graph():
    g = Graph()
    g.message.node.add(name="x")
    with pytest.raises(ValueError, match="it has no nodes"):
        nodes_of(g.message)
    g.images()
    assert set(nodes_of(g.message)) == {"x", "input"}


def test_more_nodes_than_any_network_has():
    with pytest.raises(ModelError, match=r"g\.pb: not a TensorFlow frozen graph \(it has 1048577 nodes\)"):
        parse_graph(b"\x0a\x00" * (MAX_NODES + 1), "g.pb")
