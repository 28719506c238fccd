"""Networks that OpenVINO compiles for the processor: whether it can be used here, its settings, and calls by threads."""

from __future__ import annotations

import importlib
import io
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from facespace.runtime.cores import are_cores_limited, usable_cores
from facespace.runtime.forks import call_after_fork, never_destroy

_Shapes = dict[str, list[int | str]]

_DEVICE = "CPU"
_TELEMETRY = "openvino_telemetry"
_PLACES = ("/proc/cpuinfo", "/sys/devices/system/cpu")  # OpenVINO counts the cores in one of them
_LOCATION = ("Exception from ", "Check '", "While validating node", "FrontEnd API failed")


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
        self._compiled, self.inputs, self.outputs, self._dtypes = _OPENVINO.compile(model, config)
        self.takes_uint8 = np.dtype(np.uint8) in self._dtypes
        self._calls = threading.Semaphore(n_calls)
        # Idle requests of `_compiled`. A request refers to the arrays it computed last.
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    def run(self, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """Return the outputs for the inputs. Raises `RuntimeError` if they do not fit the network."""
        self._check(inputs)
        with self._calls:
            compiled, request = self._request()
            try:
                found = self._computed(request, inputs)
            except Exception:
                return self._again(compiled, inputs)
            with self._lock:
                if compiled is self._compiled:
                    self._idle.append(request)
            return found

    def _check(self, inputs: Sequence[npt.NDArray[Any]]) -> None:
        """Raise `RuntimeError` for inputs of another number, type or shape, most of which OpenVINO would convert."""
        given, expected = [value.dtype for value in inputs], list(self._dtypes)
        if given != expected:
            raise RuntimeError(f"inputs must be {', '.join(map(str, expected))}, got {', '.join(map(str, given))}")
        for value, shape in zip(inputs, self.inputs.values(), strict=True):
            if len(value.shape) != len(shape) or any(
                size not in ("?", had) for size, had in zip(shape, value.shape, strict=True)
            ):
                raise RuntimeError(f"an input must have the shape ({', '.join(map(str, shape))}), got {value.shape}")

    def _request(self) -> tuple[Any, Any]:
        """Return the compiled network and an idle request of it."""
        with self._lock:
            if self._idle:
                return self._compiled, self._idle.pop()
            compiled = self._compiled
        if compiled is None:
            compiled = _OPENVINO.compile(self._model, self._config)[0]
            with self._lock:
                self._compiled = self._compiled or compiled
                compiled = self._compiled
        return compiled, compiled.create_infer_request()

    def _again(self, failed: Any, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """Compute on a network that is compiled again: one that failed for other inputs can fail for valid ones too."""
        with self._lock:
            if failed is self._compiled:
                self._compiled = None
                self._idle.clear()
        compiled = _OPENVINO.compile(self._model, self._config)[0]
        try:
            found = self._computed(compiled.create_infer_request(), inputs)
        except Exception as error:  # OpenVINO raises RuntimeError and others
            raise RuntimeError(_reason(error)) from None
        with self._lock:
            self._compiled = self._compiled or compiled
        return found

    def _computed(self, request: Any, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        found = request.infer(dict(enumerate(inputs)), share_inputs=True)
        return [found[n] for n in range(len(self.outputs))]


class _OpenVino:
    """OpenVINO in this process.

    It is not used in a child process after a `fork` if the parent used it: the child may wait for ever for the parent's
    threads, which do not exist there.
    """

    def __init__(self) -> None:
        self._core: Any = None
        self._capabilities: list[str] = []
        self._was_used = self._is_forked = False
        self._lock = threading.RLock()
        call_after_fork(self)

    def after_fork(self) -> None:
        never_destroy(self._core)
        self._core, self._is_forked, self._lock = None, self._was_used, threading.RLock()

    def core(self) -> Any:
        """Return OpenVINO's core. Raises an error of any kind if OpenVINO is not installed or does not work here."""
        with self._lock:
            if self._is_forked:
                raise RuntimeError("a process that used it was forked; start processes by spawn instead")
            if sys.platform == "linux" and not any(map(os.path.exists, _PLACES)):
                raise RuntimeError(f"it would wait for ever without {' and '.join(_PLACES)}")
            self._was_used = True
            if self._core is None:
                core = self.package().Core()
                self._capabilities = core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
                self._core = core
            return self._core

    def capabilities(self) -> list[str]:
        """Return what the processor computes fast, in OpenVINO's words."""
        self.core()
        return self._capabilities

    def package(self) -> Any:
        """Import openvino without openvino_telemetry, which would report each import to its makers over the network."""
        with self._lock:
            if "openvino" in sys.modules:  # or is being imported by another thread, for which `import_module` waits
                return importlib.import_module("openvino")
            kept = sys.modules.pop(_TELEMETRY, None)
            sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # importing it fails, and openvino does without
            try:
                return importlib.import_module("openvino")
            finally:
                del sys.modules[_TELEMETRY]
                if kept is not None:
                    sys.modules[_TELEMETRY] = kept

    def compile(self, model: bytes, config: dict[str, str]) -> tuple[Any, _Shapes, _Shapes, list[np.dtype[Any]]]:
        """Return (compiled network, inputs, outputs, types of the inputs). Raises `RuntimeError` with the reason."""
        try:
            with self._lock:
                file, read = self._read(model)
                # The compiled network has more names for the same outputs.
                inputs, outputs = _shapes(read.inputs, file), _shapes(read.outputs, file)
                dtypes = [np.dtype(port.element_type.to_dtype()) for port in read.inputs]
                return self.core().compile_model(read, _DEVICE, config), inputs, outputs, dtypes
        except Exception as error:  # OpenVINO raises RuntimeError and others
            raise RuntimeError(_reason(error)) from None

    def _read(self, model: bytes) -> tuple[Any, Any]:
        """Return the file's graph and OpenVINO's model of it."""
        # `Core.read_model` would accept other formats than ONNX too, which nothing here has checked.
        frontend = self.package().frontend.FrontEndManager().load_by_framework("onnx")
        file = frontend.load(io.BytesIO(model))
        read = frontend.convert(file)
        if not read.outputs:
            raise RuntimeError("the model has no output")
        return file, read


_OPENVINO = _OpenVino()


def openvino_problem() -> str:
    """Return why OpenVINO cannot be used here; empty if it can."""
    try:
        _OPENVINO.core()
    except ModuleNotFoundError as error:
        return "the package openvino is not installed" if error.name == "openvino" else _reason(error)
    except (Exception, SystemExit) as error:  # a library that does not load must not stop ONNX Runtime
        return _reason(error)
    return ""


def has_bfloat16() -> bool:
    """Return whether the processor computes in bfloat16; such processors also add 8-bit products without overflow."""
    return "BF16" in _OPENVINO.capabilities()


def _shapes(ports: Any, file: Any) -> _Shapes:
    """Return the names and shapes of inputs or outputs: the sizes that OpenVINO infers, else those that the file declares."""
    places = [*file.get_inputs(), *file.get_outputs()]
    declared = {name: _sizes(file.get_partial_shape(place)) for place in places for name in place.get_names()}
    found = {}
    for port in ports:
        name, inferred = port.get_any_name(), _sizes(port.get_partial_shape())
        known = declared.get(name, [])
        if len(known) == len(inferred):
            inferred = [other if size == "?" else size for size, other in zip(inferred, known, strict=True)]
        found[name] = inferred or known
    return found


def _sizes(shape: Any) -> list[int | str]:
    """Return the sizes of a shape, "?" for a free one; none if even their number is free."""
    return [] if shape.rank.is_dynamic else [size.get_length() if size.is_static else "?" for size in shape]


def _reason(error: BaseException) -> str:
    """Return the line of OpenVINO's message that says what is wrong. Lines before it name places in OpenVINO's code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useful = (line for line in lines if not line.startswith(_LOCATION) and " failed at src/" not in line)
    return next(useful, " ".join(lines) or type(error).__name__)
