"""FaceNet's three networks give the features of the 2018 definitions, with weights from a formula."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facespace.backbones.registry import skeleton
from facespace.backbones.weight_loading import from_tensorflow
from facespace.formats.tf_graph import constant, read_graph
from support.tf_variables import tensorflow_variables

pytestmark = pytest.mark.shared

NETWORKS = {  # (name, number of compared crops)
    "inception-resnet-v1": 2,
    "inception-resnet-v2": 2,
    "squeezenet": 8,
}
TOLERANCE = 1e-5  # relative to the largest number; measured was 1e-6


def by_formula(name: str, shape: list[int]) -> np.ndarray:
    u = np.random.RandomState(zlib.crc32(name.encode())).uniform(-1, 1, shape)
    last = name.rpartition("/")[2]
    if last == "moving_variance":
        return (1 + 0.5 * u).astype(np.float32)
    if last in ("moving_mean", "beta", "biases"):
        return (0.1 * u).astype(np.float32)
    return (u * np.sqrt(6 / np.prod(shape[:-1]))).astype(np.float32)


def read_variables(shared: Path, name: str, dimension: int) -> dict[str, Any]:
    path = shared / "golden" / "networks" / f"{name.replace('-', '_')}_{dimension}.variables.json"
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_those_of_2018(shared: Path, name: str) -> None:
    golden = np.load(shared / "golden" / "networks" / "golden.npz")
    crops = golden["crops"][: NETWORKS[name]]
    images = torch.from_numpy((crops.astype(np.float32) - 127.5) / 128).permute(0, 3, 1, 2)
    values: dict[str, np.ndarray] = {}
    for dimension in (128, 512):
        shapes = read_variables(shared, name, dimension)["variables"]
        # Only the last layer differs between the two, and the rest is slow to compute.
        values = {
            variable: values[variable] if "Bottleneck" not in variable and values else by_formula(variable, shape)
            for variable, shape in shapes.items()
        }
        network = from_tensorflow(values)
        assert (network.name, network.dimension, network.training) == (name, dimension, False)
        with torch.no_grad():
            features = network(images).numpy()
        expected = golden[f"{name.replace('-', '_')}_{dimension}/prelogits"][: len(crops)]
        assert np.abs(features - expected).max() <= TOLERANCE * np.abs(expected).max()
        apart = np.linalg.norm(features - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert apart.max() <= TOLERANCE
        assert np.linalg.norm(expected[0] - expected[1]) > 100 * TOLERANCE * np.linalg.norm(
            expected[0]
        )  # otherwise the comparison means little


@pytest.mark.parametrize("dimension", [128, 512])
@pytest.mark.parametrize("name", NETWORKS)
def test_variables_and_parameters_are_those_of_2018(shared: Path, name: str, dimension: int) -> None:
    golden = read_variables(shared, name, dimension)
    network = skeleton(name, dimension=dimension)
    expected = {variable: tuple(shape) for variable, shape in golden["variables"].items()}
    assert tensorflow_variables(network) == expected
    counted = sum(value.numel() for value in network.parameters() if value.requires_grad)
    assert counted == golden["parameters_without_moving_statistics"]


def test_a_frozen_graph_s_constants_are_its_variables(shared: Path) -> None:
    folder = shared / "data" / "tf1_squeezenet_128"
    (path,) = folder.glob("*.pb")
    graph = read_graph(path)
    constants = {name: constant(node, str(path)) for name, node in graph.items() if node.op == "Const"}
    network = from_tensorflow(constants, source=str(path))
    golden = np.load(shared / "golden" / "networks" / "golden.npz")
    images = torch.from_numpy((golden["crops"][:2].astype(np.float32) - 127.5) / 128).permute(0, 3, 1, 2)
    with torch.no_grad():
        features = network(images).numpy()
    expected = golden["squeezenet_128/prelogits"][:2]
    assert np.abs(features - expected).max() <= TOLERANCE * np.abs(expected).max()
