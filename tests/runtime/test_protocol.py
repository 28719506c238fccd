"""Tests the contract of every compiled network, over ONNX Runtime and torch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from facespace.backbones.backbone import Backbone  # noqa: E402
from facespace.backbones.onnx_export import backbone_to_onnx  # noqa: E402
from facespace.backbones.registry import create  # noqa: E402
from facespace.runtime.onnx_network import OnnxNetwork  # noqa: E402
from facespace.runtime.protocol import Network  # noqa: E402
from facespace.runtime.torch_network import TorchNetwork  # noqa: E402

SIDE, DIMENSION = 112, 8


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return create("tiny", dimension=DIMENSION).eval()


def onnx_network(backbone: Backbone, side_by_side: bool = False) -> OnnxNetwork:
    pytest.importorskip("onnxscript")
    data = backbone_to_onnx(backbone, SIDE)
    return OnnxNetwork(data, source="tiny", precision="float32", side_by_side=side_by_side)


# Add a line for a new runtime: it must compute the same backbone.
NETWORKS: dict[str, Callable[[Backbone], Network]] = {
    "onnx": onnx_network,
    "onnx, side by side": lambda backbone: onnx_network(backbone, side_by_side=True),
    "torch": lambda backbone: TorchNetwork(backbone, precision="float32"),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, backbone: Backbone) -> Network:
    return NETWORKS[request.param](backbone)


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 3, SIDE, SIDE)).astype(np.float32)


def expected(backbone: Backbone, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return backbone(torch.from_numpy(x)).numpy()


def test_a_network_describes_its_inputs_and_outputs(network: Network) -> None:
    (taken,), (given,) = network.inputs.values(), network.outputs.values()
    assert list(taken)[1:] == [3, SIDE, SIDE] and isinstance(next(iter(taken)), str), "any number of images"
    assert list(given)[1] == DIMENSION
    assert network.precision == "float32" and network.runtime
    assert network.takes_uint8 is False
    assert isinstance(network.wants_parts, bool)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_a_network_computes_the_backbone(network: Network, backbone: Backbone, n: int) -> None:
    x = images(n)
    (features,) = network.run(x)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected(backbone, x), atol=1e-4)


def test_parts_are_computed_as_they_are_alone(network: Network, backbone: Backbone) -> None:
    parts = [images(2, 1), images(1, 2), images(4, 3)]
    for found, part in zip(network.run_parts(parts), parts, strict=True):
        np.testing.assert_allclose(found, expected(backbone, part), atol=1e-4)
    assert list(network.run_parts([])) == []


def test_threads_share_it(network: Network, backbone: Backbone) -> None:
    inputs = [images(2, seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: network.run(x)[0], inputs))
    for features, x in zip(found, inputs, strict=True):
        np.testing.assert_allclose(features, expected(backbone, x), atol=1e-4)
