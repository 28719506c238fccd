"""Runs a network of `backbones/` in torch, on a GPU or if there is no ONNX file of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from facespace.errors import RuntimeUnavailable
from facespace.runtime.devices import Precision
from facespace.runtime.onnx_network import lowest_precision

if TYPE_CHECKING:
    from facespace.backbones.backbone import Backbone


class TorchNetwork:
    """A `Network` that runs in torch; `runtime` is `torch-cpu`, `torch-cuda` or `torch-mps`.

    With `precision="fastest"` a CUDA GPU that supports bfloat16 computes in bfloat16, unless `FACESPACE_PRECISION` is
    `float32`. In all other cases the network computes in float32, without TF32. Raises `RuntimeUnavailable` for a
    device that torch does not find. Safe to share between threads.
    """

    def __init__(self, backbone: Backbone, *, device: str = "cpu", precision: Precision = "fastest") -> None:
        import torch

        check_device(device)
        self.runtime = f"torch-{device}"
        self._device = torch.device(device)
        half = lowest_precision(precision) != "float32" and device == "cuda" and torch.cuda.is_bf16_supported()
        self.precision = "bfloat16" if half else "float32"
        move: Any = backbone.eval().to  # mypy does not know this overload
        self._backbone = move(self._device, memory_format=torch.channels_last)
        side: int | str = backbone.input_size or "side"
        self.inputs: dict[str, list[int | str]] = {"images": ["n", 3, side, side]}
        self.outputs: dict[str, list[int | str]] = {"features": ["n", backbone.dimension]}
        self.takes_uint8 = False
        self.wants_parts = False

    def run(self, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        """Return the features (N,D) of preprocessed images (N,3,H,W), which are the only input."""
        import torch

        (images,) = inputs
        autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.precision == "bfloat16":
            autocast = torch.autocast(self._device.type, torch.bfloat16)
        # TF32 would round float32 to ten bits of mantissa.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), autocast, exact:
            features = self._backbone(torch.from_numpy(np.ascontiguousarray(images)).to(self._device))
        result: npt.NDArray[np.float32] = features.float().cpu().numpy()
        return [result]

    def run_parts(self, parts: Iterable[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """Return the features of several batches, one after the other."""
        return [self.run(part)[0] for part in parts]


def check_device(device: str) -> None:
    """Raise `RuntimeUnavailable` unless torch is installed and computes on this device: cpu, cuda or mps."""
    try:
        import torch
    except ImportError:
        raise RuntimeUnavailable(
            f"device {device}: computing there needs torch; pip install 'facespace[train]'"
        ) from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device not in available:
        raise ValueError(f"device must be auto, cpu, cuda or mps, got {device!r}")
    if not available[device]:
        present = ", ".join(name for name, is_available in available.items() if is_available)
        raise RuntimeUnavailable(
            f"device {device}: torch {torch.__version__} finds none on this machine; it has {present}"
        )
