"""Networks that OpenVINO compiles for the processor: whether it can be used here, its settings, and calls by threads."""

from __future__ import annotations

import functools
import importlib
import io
import queue
import sys
import threading
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from facespace.runtime.cores import are_cores_limited, usable_cores
from facespace.runtime.forks import call_after_fork, never_destroy

_DEVICE = "CPU"
_TELEMETRY = "openvino_telemetry"
_LOCATION = (
    "Exception from ",
    "Check '",
    "While validating node",
    "FrontEnd API failed",
)  # begin lines about OpenVINO's code


class OpenVinoSession:
    """An ONNX model (bytes) compiled by OpenVINO.

    A call uses all cores and calls from several threads wait for each other; with `side_by_side` each call uses one core,
    and as many calls run at once as there are cores. `precision` is `float32`, or `bfloat16` for inner values. `inputs`
    and `outputs` map names to shapes, in which a free size is "?". OpenVINO compiles some layers again for a new input
    shape. Raises `RuntimeError` if the model cannot be compiled.
    """

    def __init__(self, model: bytes, *, precision: Literal["float32", "bfloat16"], side_by_side: bool) -> None:
        config = {"INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16"}
        n_calls = usable_cores() if side_by_side else 1
        if side_by_side:
            config["NUM_STREAMS"] = str(n_calls)
        else:
            config["PERFORMANCE_HINT"] = "LATENCY"
        if side_by_side or are_cores_limited():
            # Pinned, the threads of several processes or containers would share the machine's first cores.
            config |= {"INFERENCE_NUM_THREADS": str(usable_cores()), "ENABLE_CPU_PINNING": "NO"}
        self._model = model
        self._config = config
        self._lock = threading.Lock()
        try:
            read = _read(model)
            # The compiled network has more names for the same outputs.
            self.inputs = {port.get_any_name(): _shape(port) for port in read.inputs}
            self.outputs = {port.get_any_name(): _shape(port) for port in read.outputs}
            self.takes_uint8 = any(port.element_type.get_type_name() == "u8" for port in read.inputs)
            self._compiled = _compile(read, config)
        except Exception as error:  # OpenVINO raises RuntimeError and others
            raise RuntimeError(_reason(error)) from None
        # Requests with the compiled network they belong to; None is replaced at the first use.
        self._idle: queue.LifoQueue[tuple[Any, Any] | None] = queue.LifoQueue()
        for _ in range(n_calls):
            self._idle.put(None)

    def run(self, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """Return the outputs for the inputs. Raises `RuntimeError` if their shapes do not fit the network."""
        idle = self._idle.get()
        try:
            idle = self._usable(idle)
            found = idle[1].infer(dict(enumerate(inputs)), share_inputs=True)
            return [found[n] for n in range(len(self.outputs))]
        except Exception as error:
            self._forget(idle)
            raise RuntimeError(_reason(error)) from None
        finally:
            self._idle.put(idle)

    def _usable(self, idle: tuple[Any, Any] | None) -> tuple[Any, Any]:
        """Return the request, or a new one if it belongs to a network that failed."""
        with self._lock:
            if self._compiled is None:
                self._compiled = _compile(_read(self._model), self._config)
            compiled = self._compiled
        return idle if idle is not None and idle[0] is compiled else (compiled, compiled.create_infer_request())

    def _forget(self, idle: tuple[Any, Any] | None) -> None:
        """Compile the network again at the next call: after a failure it would fail for all inputs."""
        with self._lock:
            if idle is not None and idle[0] is self._compiled:
                self._compiled = None


class _OpenVino:
    """OpenVINO in this process. A child process after `fork` opens it again, because the parent's threads are missing."""

    def __init__(self) -> None:
        self._core: Any = None
        self._importing = threading.Lock()
        call_after_fork(self)

    def after_fork(self) -> None:
        never_destroy(self._core)
        self._core, self._importing = None, threading.Lock()

    def core(self) -> Any:
        if self._core is None:
            self._core = self.package().Core()
        return self._core

    def package(self) -> Any:
        """Import openvino without openvino_telemetry, which would report each import to its makers over the network."""
        with self._importing:
            if "openvino" in sys.modules:
                return sys.modules["openvino"]
            kept = sys.modules.pop(_TELEMETRY, None)
            sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # importing it fails, and openvino does without
            try:
                return importlib.import_module("openvino")
            finally:
                del sys.modules[_TELEMETRY]
                if kept is not None:
                    sys.modules[_TELEMETRY] = kept


_OPENVINO = _OpenVino()


@functools.cache
def openvino_problem() -> str:
    """Return why OpenVINO cannot be used here; empty if it can."""
    try:
        _OPENVINO.package()
    except ImportError as error:
        return "the package openvino is not installed" if error.name == "openvino" else str(error).splitlines()[0]
    try:
        found = _OPENVINO.core().available_devices
    except Exception as error:  # a library that does not load must not stop ONNX Runtime
        return _reason(error)
    return "" if _DEVICE in found else "it reports no CPU device"


@functools.cache
def has_bfloat16() -> bool:
    """Return whether the processor computes in bfloat16; such processors also add 8-bit products without overflow."""
    return "BF16" in _OPENVINO.core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")


def _compile(model: Any, config: dict[str, str]) -> Any:
    return _OPENVINO.core().compile_model(model, _DEVICE, config)


def _read(model: bytes) -> Any:
    """Read an ONNX model. `Core.read_model` would accept other formats too, which nothing here has checked."""
    frontend = _OPENVINO.package().frontend.FrontEndManager().load_by_framework("onnx")
    read = frontend.convert(frontend.load(io.BytesIO(model)))
    if not read.outputs:
        raise RuntimeError("the model has no output")
    return read


def _shape(port: Any) -> list[int | str]:
    """Return the sizes of an input or output."""
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return []
    return [size.get_length() if size.is_static else "?" for size in shape]


def _reason(error: Exception) -> str:
    """Return the line of OpenVINO's message that says what is wrong; the lines before it name places in its code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(_LOCATION)), " ".join(lines) or type(error).__name__)
