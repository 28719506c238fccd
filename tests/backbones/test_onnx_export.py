"""ONNX export: the same numbers as torch for any number of images."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import pytest
import torch

from facespace.backbones.backbone import Backbone
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
    (shape,) = network.inputs.values()
    assert list(network.inputs) == ["images"] and isinstance(shape[0], str) and shape[1:] == [3, size, size]
    assert list(network.outputs) == ["features"]
    for n in (1, 2, 5):
        images = np.random.default_rng(n).normal(size=(n, 3, size, size)).astype(np.float32)
        with torch.inference_mode():
            reference = backbone.eval()(torch.from_numpy(images)).numpy()
        found = network.run(images)[0]
        np.testing.assert_allclose(found, reference, rtol=1e-3, atol=1e-4 * np.abs(reference).max())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_the_exporters_packages(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeUnavailable, match=rf"^writing ONNX needs {package}; pip install"):
        backbone_to_onnx(create("tiny"), 112)


SIZES = {"tiny": (112, 112), "squeezenet": (47, 50)}  # the second needs padding of 3 and 3, and of 2 and 3


class Together(torch.nn.Module):
    """Two networks in one, each with its own images, because each call of the exporter takes seconds."""

    def __init__(self, first: Backbone, second: Backbone) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.first(one), self.second(other)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # from the exporter's own code
def test_onnx() -> None:
    torch.manual_seed(0)
    together = Together(*(create(name, dimension=8) for name in SIZES))

    def images_for(n: int) -> list[torch.Tensor]:
        return [torch.randn(n, 3, *size) for size in SIZES.values()]

    with torch.no_grad():
        for _ in range(3):
            together(*images_for(8))  # moves the running statistics
    together.eval()
    program = torch.onnx.export(
        together,
        tuple(images_for(2)),
        dynamo=True,
        dynamic_shapes={"one": {0: torch.export.Dim("n")}, "other": {0: torch.export.Dim("m")}},
        input_names=list(SIZES),
        verbose=False,
    )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (1, 5):
        images = images_for(n)
        with torch.no_grad():
            expected = together(*images)
        outputs = session.run(None, {name: each.numpy() for name, each in zip(SIZES, images, strict=True)})
        for output, reference in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(output, reference, atol=1e-5 * float(reference.abs().max()))
