"""A network of `backbones/` computed by torch, on a GPU or where there is no ONNX file of it."""

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
    """A `Network` that torch computes; `runtime` is `torch-cpu`, `torch-cuda` or `torch-mps`.

    On a GPU with bfloat16 `precision="fastest"` computes in it, unless `FACESPACE_PRECISION` says float32; everything
    else is float32, without TF32. Raises `RuntimeUnavailable` for a device that torch does not see. Safe to share
    between threads.
    """

    def __init__(self, backbone: Backbone, *, device: str = "cpu", precision: Precision = "fastest") -> None:
        import torch

        check_device(device)
        self.runtime = f"torch-{device}"
        self._device = torch.device(device)
        half = lowest_precision(precision) != "float32" and device == "cuda" and torch.cuda.is_bf16_supported()
        self.precision = "bfloat16" if half else "float32"
        move: Any = backbone.eval().to  # of whose forms mypy knows not this one
        self._backbone = move(self._device, memory_format=torch.channels_last)
        side: int | str = backbone.input_size or "side"
        self.inputs: dict[str, list[int | str]] = {"images": ["n", 3, side, side]}
        self.outputs: dict[str, list[int | str]] = {"features": ["n", backbone.dimension]}
        self.takes_uint8 = False
        self.wants_parts = False

    def run(self, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        """The features (N,D) of preprocessed images (N,3,H,W), the one input."""
        import torch

        (images,) = inputs
        autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.precision == "bfloat16":
            autocast = torch.autocast(self._device.type, torch.bfloat16)
        # TF32 would round what is called float32 to ten bits.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), autocast, exact:
            features = self._backbone(torch.from_numpy(np.ascontiguousarray(images)).to(self._device))
        result: npt.NDArray[np.float32] = features.float().cpu().numpy()
        return [result]

    def run_parts(self, parts: Iterable[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """The features of several batches, one after the other."""
        return [self.run(part)[0] for part in parts]


def check_device(device: str) -> None:
    """Raises `RuntimeUnavailable` unless torch is installed and computes on this device: cpu, cuda or mps."""
    try:
        import torch
    except ImportError:
        raise RuntimeUnavailable(
            f"device {device}: computing there needs torch; pip install 'facespace[train]'"
        ) from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device not in there:
        raise ValueError(f"device wants auto, cpu, cuda or mps; got {device!r}")
    if not there[device]:
        present = ", ".join(name for name, is_there in there.items() if is_there)
        raise RuntimeUnavailable(f"device {device}: torch {torch.__version__} sees none here; it has {present}")
