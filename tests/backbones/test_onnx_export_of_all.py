"""Networks leave as ONNX with any number of images, and ONNX Runtime gives what torch gives."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from facespace.backbones.backbone import Backbone
from facespace.backbones.registry import create

SIZES = {"tiny": (112, 112), "squeezenet": (47, 50)}  # the second wants padding of 3 and 3, and of 2 and 3


class Together(torch.nn.Module):
    """Two networks, each with images of its own: one call of the exporter takes seconds, however small they are."""

    def __init__(self, first: Backbone, second: Backbone) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.first(one), self.second(other)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of the exporter's own making
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
        for output, wanted in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(output, wanted, atol=1e-5 * float(wanted.abs().max()))
