"""A compiled network on the fastest runtime of this machine.

Begin with `protocol.Network`. `onnx_network.OnnxNetwork` computes with OpenVINO, or with ONNX Runtime where OpenVINO
cannot be used; `torch_network.TorchNetwork` runs a backbone in torch, on a GPU or without ONNX. `quantization` converts
convolutions to 8-bit integers. To add a runtime, write a class that satisfies `Network`, and add it to
tests/runtime/test_protocol.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.runtime.devices import Device as Device, Precision as Precision
    from facespace.runtime.onnx_network import OnnxNetwork as OnnxNetwork
    from facespace.runtime.protocol import Network as Network
    from facespace.runtime.torch_network import TorchNetwork as TorchNetwork

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "devices": ["Device", "Precision"],
        "onnx_network": ["OnnxNetwork"],
        "protocol": ["Network"],
        "torch_network": ["TorchNetwork"],
    },
)
