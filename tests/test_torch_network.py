"""Networks computed by torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facespace.backbones import create
from facespace.errors import RuntimeUnavailable
from facespace.torch_network import TorchNetwork, check_device


def test_it_computes_what_the_network_computes():
    backbone = create("tiny", dimension=8)
    network = TorchNetwork(backbone)
    images = np.random.default_rng(0).normal(size=(3, 3, 112, 112)).astype(np.float32)
    with torch.inference_mode():
        wanted = backbone.eval()(torch.from_numpy(images)).numpy()
    (found,) = network.run(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert (network.runtime, network.precision, network.takes_uint8) == ("torch-cpu", "float32", False)
    assert network.inputs == {"images": ["n", 3, 112, 112]}
    assert network.outputs == {"features": ["n", 8]}


def test_dropout_and_batch_statistics_are_off():
    backbone = create("tiny", dimension=8)
    backbone.train()
    network = TorchNetwork(backbone)
    images = np.random.default_rng(0).normal(size=(4, 3, 112, 112)).astype(np.float32)
    np.testing.assert_allclose(network.run(images)[0][:1], network.run(images[:1])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_fails_loudly(device):
    if {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device]:
        pytest.skip(f"this machine has {device}")
    with pytest.raises(RuntimeUnavailable, match=f"^device {device}: torch .* sees none here; it has cpu$"):
        check_device(device)
    with pytest.raises(RuntimeUnavailable):
        TorchNetwork(create("tiny"), device=device)


def test_devices_nobody_knows():
    with pytest.raises(ValueError, match="device wants auto, cpu, cuda or mps; got 'tpu'"):
        check_device("tpu")


def test_without_torch(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(RuntimeUnavailable, match=r"device cuda: computing there needs torch"):
        check_device("cuda")
