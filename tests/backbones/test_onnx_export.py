"""Torch networks as ONNX: the same numbers for any number of images."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from facespace.backbones.onnx_export import backbone_to_onnx
from facespace.backbones.registry import create
from facespace.errors import RuntimeUnavailable
from facespace.runtime.onnx_network import OnnxNetwork


@pytest.mark.parametrize(("name", "size"), [("tiny", 112), ("squeezenet", 96)])
def test_the_same_numbers_for_any_number_of_images(name, size, capfd):
    torch.manual_seed(0)
    backbone = create(name, dimension=16).train()
    onnx = backbone_to_onnx(backbone, size)
    assert backbone.training
    network = OnnxNetwork(onnx, source=name, precision="float32")
    assert network.inputs == {"images": ["n", 3, size, size]}
    assert list(network.outputs) == ["features"]
    for n in (1, 2, 5):
        images = np.random.default_rng(n).normal(size=(n, 3, size, size)).astype(np.float32)
        with torch.inference_mode():
            wanted = backbone.eval()(torch.from_numpy(images)).numpy()
        found = network.run(images)[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_the_exporters_packages(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeUnavailable, match=rf"^writing ONNX needs {package}; pip install"):
        backbone_to_onnx(create("tiny"), 112)
