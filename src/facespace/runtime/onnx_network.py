"""Runs one compiled network on the fastest runtime of this machine.

ONNX Runtime is always installed. On x86-64 the OpenVINO execution provider is installed as well and is used if it
loads: it is two to ten times faster. It computes in bfloat16 if the processor supports it (AMX, AVX512-BF16), and then
uses 8-bit integers for the convolutions of models that have been measured so.

Two environment variables override the choice, for comparisons and for tracing differences: `FACESPACE_RUNTIME` =
`openvino` | `onnxruntime` and `FACESPACE_PRECISION` = `fastest` | `bfloat16` | `float32`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import json
import os
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from facespace.errors import ModelError, RuntimeUnavailable
from facespace.io.text import first_line
from facespace.runtime import kept_networks
from facespace.runtime.cores import are_cores_limited, usable_cores
from facespace.runtime.devices import Device, Precision
from facespace.runtime.forks import call_after_fork, never_destroy

Processor = Literal["amx", "bfloat16", "other"]

_SFACE = "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"
# The fastest precision that does not change identification results, by SHA-256 of the weights and kind of processor. It
# is a table rather than a measurement at loading, so that results do not depend on the machine's load. SFace's
# depthwise convolutions take 1.48 times as long in bfloat16 as in float32 if the processor has bfloat16 without AMX;
# with AMX, which is not in the table, bfloat16 takes a third of the time (benchmarks/recogniser_speed.py).
_MEASURED: dict[str, dict[Processor, Precision]] = {_SFACE: {"bfloat16": "float32"}}

_CUDA = "CUDAExecutionProvider"
_OPENVINO = "OpenVINOExecutionProvider"


class OnnxNetwork:
    """A compiled ONNX model.

    `model` is an ONNX file, or a function that reads one. With `precision="fastest"` the runtime may compute in
    bfloat16 where that is quicker; it then uses the model that `int8` returns, if given, with convolutions in 8-bit
    integers. `"float32"` does neither. The attributes `runtime` and `precision` say what is really used: `openvino` or
    `onnxruntime`; `float32`, `bfloat16`, or `int8`, which means bfloat16 outside the integer convolutions.

    One call uses all cores, and calls from several threads wait for each other; with `side_by_side` each call uses one
    core and as many calls run at once as there are cores. `device="cuda"` computes on an NVIDIA GPU if the installed
    onnxruntime supports it; `auto` and `cpu` compute on the processor. `runtime="onnxruntime"` never uses OpenVINO,
    which compiles for every input shape and is slower if each input has another shape. `keep` is a folder and a name:
    plain ONNX Runtime then stores the network there once it is optimised, and loads it later without reading `model`
    (see `kept_networks`).

    Safe to share between threads. In a child process after `fork` ONNX Runtime compiles the model again at the first
    call; OpenVINO and CUDA do not survive a fork, and a call raises `RuntimeUnavailable`.
    """

    def __init__(
        self,
        model: bytes | Callable[[], bytes],
        *,
        source: str,
        precision: Precision = "fastest",
        side_by_side: bool = False,
        device: Device = "auto",
        int8: Callable[[], bytes] | None = None,
        runtime: Literal["fastest", "onnxruntime"] = "fastest",
        keep: tuple[Path, str] | None = None,
    ) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be auto, cpu or cuda, got {device!r}")
        on_gpu = device == "cuda"
        openvino = _chosen_openvino(on_gpu) if runtime == "fastest" or on_gpu else None
        lowest = lowest_precision(precision)
        self.runtime = "cuda" if on_gpu else "onnxruntime" if openvino is None else "openvino"
        self.precision = "float32"
        read = model if callable(model) else lambda: model
        if openvino is not None and lowest != "float32" and _has_bfloat16(openvino):
            self.precision = "bfloat16"
            if int8 is not None and lowest == "fastest":
                self.precision, read = "int8", int8
        if self.runtime == "onnxruntime":
            read = functools.partial(_with_fast_operators, read, source)
        data, rewritten = (
            kept_networks.rewritten(*keep, read, processor_flags())
            if keep and self.runtime == "onnxruntime"
            else (read(), False)
        )
        # Contains every choice made above, so that sessions created later are the same.
        self._compile = functools.partial(_session, data, openvino, self.precision, on_gpu, rewritten)
        try:
            session = self._compile(side_by_side)
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            raise ModelError(f"{source}: the network cannot be compiled ({first_line(error)})") from None
        # OpenVINO runs the calls on one session one after the other; plain ONNX Runtime runs each call in its own
        # thread.
        self._session: Any = session
        if openvino is not None:
            self._session = _Renewed(functools.partial(self._compile, side_by_side), session)
            if side_by_side:
                self._session = _SideBySide(self._alone, self._session)
        self._lock = threading.Lock()
        self._aside: Any = None
        self._source = source
        self._side_by_side = side_by_side
        call_after_fork(self)
        self.inputs = {value.name: list(value.shape) for value in session.get_inputs()}
        self.outputs = {value.name: list(value.shape) for value in session.get_outputs()}
        self.takes_uint8 = any(value.type == "tensor(uint8)" for value in session.get_inputs())

    def after_fork(self) -> None:
        """Drop the parent's sessions, whose threads do not exist in this process."""
        never_destroy((self._session, self._aside))
        self._lock, self._aside = threading.Lock(), None
        self._session = _AfterFork(functools.partial(self._compile, self._side_by_side), self.runtime)

    def run(self, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        """Return the network's outputs for inputs given in the order of `self.inputs`.

        Raises `ModelError` if the network cannot be computed for inputs of such shapes.
        """
        return self._run_on(self._session, dict(zip(self.inputs, inputs, strict=True)))

    def _run_on(self, session: Any, feed: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        try:
            outputs: list[npt.NDArray[np.float32]] = session.run(None, feed)
        except RuntimeUnavailable:
            raise
        except Exception as error:  # no common base, as when compiling
            shapes = ", ".join(f"{value.dtype} {value.shape}" for value in feed.values())
            raise ModelError(
                f"{self._source}: the network cannot be computed for an input of {shapes} ({first_line(error)})"
            ) from None
        return outputs

    @property
    def wants_parts(self) -> bool:
        """Whether `run_parts` computes its parts in parallel."""
        return self.runtime != "cuda" and usable_cores() > 1

    def run_parts(self, parts: Iterable[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """Return the first output of a network with one input for each of several batches; `parts` may be a generator.

        Batches are computed in parallel, each on its own core, while the next ones are prepared. Several threads
        for one batch would wait for the slowest of them at every layer, which costs most when other programs use the
        cores too.
        """
        parts = iter(parts)
        first = list(itertools.islice(parts, 2))
        if len(first) < 2 or not self.wants_parts or isinstance(self._session, _AfterFork):
            return [self.run(part)[0] for part in itertools.chain(first, parts)]
        with self._lock:
            if self._aside is None:
                self._aside = _SideBySide(self._alone) if self.runtime == "openvino" else self._compile(True)
                self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="facespace-network")
        aside, (name,) = self._aside, self.inputs
        each = itertools.chain(first, parts)
        return list(self._pool.map(lambda part: self._run_on(aside, {name: part})[0], each))

    def _alone(self) -> _Renewed:
        """Return an OpenVINO session on one core."""
        return _Renewed(functools.partial(self._compile, True))


class _AfterFork:
    """The session of a child process after a fork: created at the first call by ONNX Runtime, an error for others."""

    def __init__(self, make: Callable[[], Any], runtime: str) -> None:
        self._make = make
        self._runtime = runtime
        self._lock = threading.Lock()
        self._session: Any = None

    def run(self, outputs: None, feed: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        if self._runtime != "onnxruntime":
            raise RuntimeUnavailable(
                f"{self._runtime} cannot compute in a child process after a fork: start processes by spawn "
                "(multiprocessing.get_context('spawn')), load the model in the child, or set FACESPACE_RUNTIME=onnxruntime"
            )
        with self._lock:
            self._session = self._session or self._make()
        found: list[npt.NDArray[np.float32]] = self._session.run(outputs, feed)
        return found


class _Renewed:
    """An OpenVINO session that is created again after a failure, because a failed one computes nothing any more."""

    def __init__(self, make: Callable[[], Any], first: Any = None) -> None:
        self._make = make
        self._session = make() if first is None else first

    def run(self, outputs: None, feed: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        try:
            found: list[npt.NDArray[np.float32]] = self._session.run(outputs, feed)
        except Exception:  # no common base, as when compiling
            self._session = self._make()
            raise
        return found


class _SideBySide:
    """Runs calls in parallel, each in its own session of one network; creates up to one session a core when needed."""

    def __init__(self, make: Callable[[], Any], first: Any = None) -> None:
        self._make = make
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._idle.put(make() if first is None else first)
        self._more = usable_cores() - 1
        self._lock = threading.Lock()

    def run(self, outputs: None, feed: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        session = self._take()
        try:
            found: list[npt.NDArray[np.float32]] = session.run(outputs, feed)
        finally:
            self._idle.put(session)
        return found

    def _take(self) -> Any:
        """Return an idle session; create one if all are busy and there may be more."""
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        with self._lock:
            make, self._more = self._more > 0, max(self._more - 1, 0)
        return self._make() if make else self._idle.get()


def _with_fast_operators(read: Callable[[], bytes], source: str) -> bytes:
    """Return the model with operators that plain ONNX Runtime computes fast."""
    model = read()
    if b"PRelu" in model:
        from facespace.formats.onnx_prelu import with_split_prelu  # imported here because few models need it

        model = with_split_prelu(model, source)
    return model


def _session(model: bytes, openvino: Any, precision: str, on_gpu: bool, rewritten: bool, one_core: bool) -> Any:
    """Return an ONNX Runtime session on all cores or on one, with the OpenVINO device if there is one."""
    import onnxruntime

    options = kept_networks.options_without_optimisation() if rewritten else onnxruntime.SessionOptions()
    options.log_severity_level = 4  # failures are raised; keep the runtime's own lines off stderr
    if openvino is not None:
        hint = "f32" if precision == "float32" else "bf16"
        config = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if one_core:  # unpinned, otherwise all sessions would share the first core
            config |= {"INFERENCE_NUM_THREADS": "1", "ENABLE_CPU_PINNING": "NO"}
        elif are_cores_limited():  # pinned, several containers would share the host's first cores
            config |= {"INFERENCE_NUM_THREADS": str(usable_cores()), "ENABLE_CPU_PINNING": "NO"}
        options.add_provider_for_devices([openvino], {"load_config": json.dumps({"CPU": config})})
        return onnxruntime.InferenceSession(model, options)
    options.intra_op_num_threads = 1 if one_core else usable_cores()
    # Threads that spin while waiting for the next run would take cores from other sessions.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # With memory patterns, one block for a whole run would be requested from the system at every run of a large photo,
    # page by page; without them blocks stay with the session. YuNet then takes a fifth less time on 3 megapixels.
    options.enable_mem_pattern = False
    providers: list[Any] = ["CPUExecutionProvider"]
    if on_gpu:
        # TF32 would round float32 to ten bits of mantissa.
        providers.insert(0, (_CUDA, {"use_tf32": "0"}))
    return onnxruntime.InferenceSession(model, options, providers=providers)


def _chosen_openvino(on_gpu: bool) -> Any:
    """Return the OpenVINO device to compile for, or None if OpenVINO is not to be used.

    Raises `RuntimeUnavailable` if the requested device or runtime is missing.
    """
    requested = _choice("FACESPACE_RUNTIME", ("openvino", "onnxruntime"))
    if on_gpu:
        import onnxruntime

        if _CUDA not in onnxruntime.get_available_providers():
            raise RuntimeUnavailable(
                "device cuda: the installed onnxruntime computes on the processor only; "
                "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
        return None
    openvino = None if requested == "onnxruntime" else openvino_device()
    if requested == "openvino" and openvino is None:
        raise RuntimeUnavailable(f"FACESPACE_RUNTIME=openvino, but OpenVINO cannot be used here: {openvino_problem()}")
    return openvino


def _has_bfloat16(openvino: Any) -> bool:
    """Return whether the processor computes in bfloat16; such processors also add 8-bit products without overflow."""
    return "BF16" in openvino.ep_metadata.get("OPTIMIZATION_CAPABILITIES", "").split()


def lowest_precision(precision: Precision) -> str:
    """Return the lowest precision a network may use: `fastest`, `bfloat16` or `float32`.

    `precision` is the caller's choice; `FACESPACE_PRECISION` excludes lower precisions. Raises `ValueError` for an
    unknown precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be {' or '.join(get_args(Precision))}, got {precision!r}")
    pinned = _choice("FACESPACE_PRECISION", ("fastest", "bfloat16", "float32"))
    return "float32" if precision == "float32" else pinned or precision


def measured_precision(fingerprint: str, processor: Processor | None = None) -> Precision:
    """Return the precision to use when `fastest` is requested, for weights with this SHA-256 on this kind of processor.

    It comes from a table of measurements, and is `fastest` for weights outside the table. `fastest` leaves the choice
    to the runtime: bfloat16, or 8-bit integers if ranges were measured, on processors that support them.

    >>> measured_precision("0" * 64)
    'fastest'
    """
    return _MEASURED.get(fingerprint, {}).get(processor or processor_kind(), "fastest")


@functools.cache
def processor_kind() -> Processor:
    """Return the kind of processor, which decides how fast bfloat16 is, from Linux's flags; `other` without them."""
    flags = processor_flags().split()
    return "amx" if "amx_bf16" in flags else "bfloat16" if "avx512_bf16" in flags else "other"


def processor_flags() -> str:
    """Return the processor's features on one line, as Linux lists them; empty on other systems.

    >>> processor_flags() == " ".join(processor_flags().split())
    True
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))  # x86, ARM
    return " ".join(next(lines, "").partition(":")[2].split())


def _choice(variable: str, allowed: tuple[str, ...]) -> str | None:
    value = os.environ.get(variable)
    if value and value not in allowed:
        raise RuntimeUnavailable(f"{variable} must be one of {', '.join(allowed)}, got {value!r}")
    return value or None


@functools.cache
def _openvino() -> tuple[Any, str]:
    """Return (OpenVINO's CPU device in ONNX Runtime, ""), or (None, the reason why it cannot be used)."""
    try:
        plugin = importlib.import_module("onnxruntime_ep_openvino")
    except ImportError:
        return None, "the package onnxruntime-ep-openvino is not installed"
    import onnxruntime

    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return None, f"onnxruntime {onnxruntime.__version__} has no plugin interface"
    try:
        onnxruntime.register_execution_provider_library("facespace_openvino", plugin.get_library_path())
        for device in onnxruntime.get_ep_devices():
            kind = device.device.type == onnxruntime.OrtHardwareDeviceType.CPU
            if kind and device.ep_name == _OPENVINO:
                return device, ""
    except Exception as error:  # a library that does not load must not stop the plain runtime
        return None, str(error).strip().splitlines()[0]
    return None, "it reports no CPU device"


def openvino_device() -> Any:
    """Return the device to compile for, or None if OpenVINO cannot be used."""
    return _openvino()[0]


def openvino_problem() -> str:
    """Return why OpenVINO is not used; empty if it is."""
    return _openvino()[1]
