"""Reads the weights of a frozen TF1 graph under the names of its variables, including folded batch norms."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import ModelError
from facespace.formats.tf_graph import MAX_VALUES, Graph, constant, inputs_of

EPSILON = 1e-3  # ε of every batch norm in the FaceNet networks of 2018

_VARIABLE = re.compile(r"/(weights|biases|BatchNorm/(beta|gamma|moving_mean|moving_variance))$")


def graph_variables(graph: Graph, source: str) -> dict[str, npt.NDArray[Any]]:
    """Return arrays by variable name, as in a checkpoint of the same network.

    Freezing for speed folds a batch norm into its convolution: y = k′∗x + b. The graph stores k′ under the name of the
    weights, and b under another name. This function returns a batch norm instead of b: with mean 0, variance 1 − ε and
    beta b it computes the same. The network then gives correct features, but these statistics do not come from training
    (`folded` lists the batch norms). Raises `ModelError` if no weights have the names of a FaceNet graph.
    """
    variables: dict[str, npt.NDArray[Any]] = {}
    n_values = 0
    for name, node in graph.items():
        if node.op == "Const" and _VARIABLE.search(name):
            variables[name] = constant(node, source)
            n_values += variables[name].size
            if n_values > MAX_VALUES:
                raise ModelError(f"{source}: its constants have more than {MAX_VALUES} values")
    if not variables:
        raise ModelError(f"{source}: the graph has no weights with names of a FaceNet graph (…/weights)")
    for scope, bias in _folded_biases(graph, source).items():
        norm = f"{scope}/BatchNorm"
        if f"{scope}/weights" in variables and f"{scope}/biases" not in variables and f"{norm}/beta" not in variables:
            variables[f"{norm}/beta"] = bias
            variables[f"{norm}/moving_mean"] = np.zeros_like(bias)
            variables[f"{norm}/moving_variance"] = np.full_like(bias, 1 - EPSILON)
    return variables


def folded(graph: Graph, source: str) -> set[str]:
    """Return the scopes, such as `InceptionResnetV1/Conv2d_1a_3x3`, whose batch norm is folded into the convolution."""
    return {
        scope
        for scope in _folded_biases(graph, source)
        if f"{scope}/biases" not in graph and f"{scope}/BatchNorm/beta" not in graph
    }


def _folded_biases(graph: Graph, source: str) -> dict[str, npt.NDArray[Any]]:
    """Return the constants that are added to outputs of convolutions, by the scope of the convolution's weights."""
    scopes: dict[str, str] = {}
    for name, node in graph.items():
        if node.op == "Conv2D":
            inputs = inputs_of(graph, node, source)
            kernel = _constant_behind(graph, inputs[1][0], source) if len(inputs) == 2 else None
            if kernel is not None and kernel.endswith("/weights"):
                scopes[name] = kernel.removesuffix("/weights")
    biases = {}
    for node in graph.values():
        if node.op not in ("BiasAdd", "Add", "AddV2"):
            continue
        inputs = inputs_of(graph, node, source)
        for (one, _), (other, _) in (inputs, inputs[::-1]) if len(inputs) == 2 else ():
            bias = _constant_behind(graph, other, source)
            if one in scopes and bias is not None:
                biases[scopes[one]] = np.atleast_1d(constant(graph[bias], source))
    return biases


def _constant_behind(graph: Graph, name: str, source: str) -> str | None:
    """Return the Const node behind a chain of Identity nodes; None if the chain does not end in a Const."""
    for _ in range(8):
        node = graph[name]
        if node.op == "Const":
            return name
        if node.op != "Identity":
            return None
        inputs = inputs_of(graph, node, source)
        if not inputs:
            return None
        name = inputs[0][0]
    return None
