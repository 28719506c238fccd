"""Networks that ONNX Runtime compiles for the processor or for an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import RuntimeUnavailable
from facespace.runtime import kept_networks
from facespace.runtime.cores import usable_cores

_CUDA = "CUDAExecutionProvider"


class OnnxRuntimeSession:
    """An ONNX model (bytes) compiled by ONNX Runtime; each call computes in the thread that calls, on all cores or one.

    `optimised`: the model was optimised and written by ONNX Runtime before (see `kept_networks`). `inputs` and `outputs`
    map names to shapes, in which a free size is a string. Raises ONNX Runtime's errors, which have no common base.
    """

    def __init__(self, model: bytes, *, on_gpu: bool = False, optimised: bool = False, side_by_side: bool) -> None:
        import onnxruntime

        options = kept_networks.options_without_optimisation() if optimised else onnxruntime.SessionOptions()
        options.log_severity_level = 4  # failures are raised; keep the runtime's own lines off stderr
        options.intra_op_num_threads = 1 if side_by_side else usable_cores()
        # Threads that spin while waiting for the next run would take cores from other sessions.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # With memory patterns, one block for a whole run would be requested from the system at every run of a large
        # photo, page by page; without them blocks stay with the session. YuNet then takes a fifth less time on 3 megapixels.
        options.enable_mem_pattern = False
        providers: list[Any] = ["CPUExecutionProvider"]
        if on_gpu:
            # TF32 would round float32 to ten bits of mantissa.
            providers.insert(0, (_CUDA, {"use_tf32": "0"}))
        self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        self.inputs = {value.name: list(value.shape) for value in self._session.get_inputs()}
        self.outputs = {value.name: list(value.shape) for value in self._session.get_outputs()}
        self.takes_uint8 = any(value.type == "tensor(uint8)" for value in self._session.get_inputs())

    def run(self, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """Return the outputs for the inputs."""
        found: list[npt.NDArray[np.float32]] = self._session.run(None, dict(zip(self.inputs, inputs, strict=True)))
        return found


def check_cuda() -> None:
    """Raise `RuntimeUnavailable` if the installed ONNX Runtime cannot compute on an NVIDIA GPU."""
    import onnxruntime

    if _CUDA not in onnxruntime.get_available_providers():
        raise RuntimeUnavailable(
            "device cuda: the installed onnxruntime computes on the processor only; "
            "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )


def with_fast_operators(read: Callable[[], bytes], source: str) -> bytes:
    """Return the model with operators that ONNX Runtime computes fast."""
    model = read()
    if b"PRelu" in model:
        from facespace.formats.onnx_prelu import with_split_prelu  # imported here because few models need it

        model = with_split_prelu(model, source)
    return model
