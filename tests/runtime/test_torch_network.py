"""Tests networks in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facespace.backbones.registry import create
from facespace.errors import RuntimeUnavailable
from facespace.runtime.torch_network import TorchNetwork, check_device


def test_features_are_those_of_the_backbone():
    backbone = create("tiny", dimension=8)
    network = TorchNetwork(backbone)
    images = np.random.default_rng(0).normal(size=(3, 3, 112, 112)).astype(np.float32)
    with torch.inference_mode():
        expected = backbone.eval()(torch.from_numpy(images)).numpy()
    (found,) = network.run(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert (network.runtime, network.precision, network.takes_uint8) == ("torch-cpu", "float32", False)
    assert network.inputs == {"images": ["n", 3, 112, 112]}
    assert network.outputs == {"features": ["n", 8]}


def test_dropout_and_batch_statistics_are_off():
    backbone = create("tiny", dimension=8)
    backbone.train()
    network = TorchNetwork(backbone)
    images = np.random.default_rng(0).normal(size=(4, 3, 112, 112)).astype(np.float32)
    np.testing.assert_allclose(network.run(images)[0][:1], network.run(images[:1])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "pinned", "expected"),
    [
        ("fastest", "", "bfloat16"),
        ("fastest", "bfloat16", "bfloat16"),
        ("fastest", "float32", "float32"),
        ("float32", "", "float32"),
    ],
)
@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_on_a_gpu_that_has_it(monkeypatch, able, precision, pinned, expected):
    """Tests only the choice: the network is not moved."""
    monkeypatch.setattr("facespace.runtime.torch_network.check_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: able)
    monkeypatch.setenv("FACESPACE_PRECISION", pinned)
    backbone = create("tiny", dimension=8)
    monkeypatch.setattr(backbone, "to", lambda *place, **form: backbone)
    network = TorchNetwork(backbone, device="cuda", precision=precision)
    assert (network.runtime, network.precision) == ("torch-cuda", expected if able else "float32")


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_missing_device_raises(device):
    if {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device]:
        pytest.skip(f"this machine has {device}")
    with pytest.raises(RuntimeUnavailable, match=f"^device {device}: torch .* finds none on this machine; it has cpu$"):
        check_device(device)
    with pytest.raises(RuntimeUnavailable):
        TorchNetwork(create("tiny"), device=device)


def test_unknown_devices_are_refused():
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or mps, got 'tpu'"):
        check_device("tpu")


def test_without_torch(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(RuntimeUnavailable, match=r"device cuda: computing there needs torch"):
        check_device("cuda")
