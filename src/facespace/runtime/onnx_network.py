"""Runs one compiled network on the fastest runtime of this machine.

ONNX Runtime is always installed. On x86-64 OpenVINO is installed as well and is used if it loads: it is two to ten times
faster on Intel's processors with AMX, and about twice as fast on AMD's Zen 5. It computes in bfloat16 if the processor
supports it (AMX, AVX512-BF16), and then uses 8-bit integers for the convolutions of models that have been measured so.

Two environment variables override the choice, for comparisons and for tracing differences: `FACESPACE_RUNTIME` =
`openvino` | `onnxruntime` and `FACESPACE_PRECISION` = `fastest` | `bfloat16` | `float32`.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from facespace.errors import ModelError, RuntimeUnavailable
from facespace.io.text import first_line
from facespace.runtime import kept_networks
from facespace.runtime.cores import usable_cores
from facespace.runtime.devices import Device, Precision
from facespace.runtime.forks import call_after_fork, never_destroy
from facespace.runtime.onnxruntime_session import OnnxRuntimeSession, check_cuda, with_fast_operators
from facespace.runtime.openvino_session import OpenVinoSession, has_bfloat16, openvino_problem

Processor = Literal["amx", "amd", "bfloat16", "other"]

_SFACE = "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"
# The fastest precision that does not change identification results, by SHA-256 of the weights and kind of processor. It
# is a table rather than a measurement at loading, so that results do not depend on the machine's load. SFace's
# depthwise convolutions take 1.48 times as long in bfloat16 as in float32 on Intel's processors with bfloat16 but without
# AMX. With AMX bfloat16 takes a third of the time, on AMD's Zen 5 0.57 of it (benchmarks/recogniser_speed.py); these two
# are not in the table.
_MEASURED: dict[str, dict[Processor, Precision]] = {_SFACE: {"bfloat16": "float32"}}


class _Session(Protocol):
    """A compiled network; `run` may be called from several threads."""

    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    takes_uint8: bool

    def run(self, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """Return the outputs for the inputs."""


class OnnxNetwork:
    """A compiled ONNX model.

    `model` is an ONNX file, or a function that reads one. With `precision="fastest"` the runtime may compute in
    bfloat16 where that is quicker; it then uses the model that `int8` returns, if given, with convolutions in 8-bit
    integers. `"float32"` does neither. The attributes `runtime` and `precision` say what is really used: `openvino`,
    `onnxruntime` or `cuda`; `float32`, `bfloat16`, or `int8`, which means bfloat16 outside the integer convolutions.

    One call uses all cores; with `side_by_side` each call uses one core and as many calls run at once as there are
    cores. `device="cuda"` computes on an NVIDIA GPU if the installed onnxruntime supports it; `auto` and `cpu` compute on
    the processor. `runtime="onnxruntime"` never uses OpenVINO, which compiles for every input shape and is slower if
    each input has another shape. `keep` is a folder and a name: ONNX Runtime then stores the network there once it is
    optimised, and loads it later without reading `model` (see `kept_networks`). ONNX Runtime also computes, in float32,
    the models that OpenVINO cannot compile.

    Safe to share between threads. In a child process after `fork` ONNX Runtime compiles the model again at the first
    call; where OpenVINO computed before, that is in float32. CUDA, and OpenVINO if `FACESPACE_RUNTIME` requires it, do not
    survive a fork, and a call raises `RuntimeUnavailable`.
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
        lowest = lowest_precision(precision)
        required = _choice("FACESPACE_RUNTIME", ("openvino", "onnxruntime")) if runtime == "fastest" else "onnxruntime"
        if on_gpu:
            check_cuda()
        read = model if callable(model) else lambda: model
        self._source = source
        self._side_by_side = side_by_side
        session = None
        if not on_gpu and required != "onnxruntime" and _can_use_openvino(required):
            session = self._on_openvino(read, int8, lowest, required)
        if session is None:
            session = self._on_onnxruntime(read, on_gpu, keep)
        self._without_openvino = functools.partial(self._on_onnxruntime, read, False, keep)
        self._must_be_openvino = required == "openvino"
        self._session: _Session | _AfterFork = session
        self._lock = threading.Lock()
        self._aside: Any = session if side_by_side else None
        self._pool: ThreadPoolExecutor | None = None
        call_after_fork(self)
        self.inputs, self.outputs, self.takes_uint8 = session.inputs, session.outputs, session.takes_uint8

    def _on_openvino(
        self, read: Callable[[], bytes], int8: Callable[[], bytes] | None, lowest: str, required: str | None
    ) -> _Session | None:
        """Compile with OpenVINO in the lowest precision allowed. Return None if that fails and ONNX Runtime may be used."""
        self.runtime, self.precision = "openvino", "float32"
        if lowest != "float32" and has_bfloat16():
            self.precision = "bfloat16"
            if int8 is not None and lowest == "fastest":
                self.precision, read = "int8", int8
        precision: Literal["float32", "bfloat16"] = "float32" if self.precision == "float32" else "bfloat16"
        # Contains every choice made above, so that sessions created later are the same.
        self._compile: Callable[..., _Session] = functools.partial(OpenVinoSession, read(), precision=precision)
        try:
            return self._compile(side_by_side=self._side_by_side)
        except RuntimeError as error:
            if required:
                raise self._not_compiled(error) from None
        return None

    def _on_onnxruntime(self, read: Callable[[], bytes], on_gpu: bool, keep: tuple[Path, str] | None) -> _Session:
        """Compile with ONNX Runtime."""
        self.runtime, self.precision = "cuda" if on_gpu else "onnxruntime", "float32"
        if not on_gpu:
            read = functools.partial(with_fast_operators, read, self._source)
        data, optimised = (
            kept_networks.rewritten(*keep, read, processor_flags()) if keep and not on_gpu else (read(), False)
        )
        self._compile = functools.partial(OnnxRuntimeSession, data, on_gpu=on_gpu, optimised=optimised)
        try:
            return self._compile(side_by_side=self._side_by_side)
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            raise self._not_compiled(error) from None

    def _not_compiled(self, error: Exception) -> ModelError:
        return ModelError(f"{self._source}: the network cannot be compiled ({first_line(error)})")

    def after_fork(self) -> None:
        """Drop the parent's sessions, whose threads do not exist in this process."""
        never_destroy((self._session, self._aside, self._pool))
        self._lock, self._aside, self._pool = threading.Lock(), None, None
        if self.runtime == "cuda" or self._must_be_openvino:
            self._session = _AfterFork(self._lost)
            return
        make: Callable[[], _Session] = functools.partial(self._compile, side_by_side=self._side_by_side)
        if self.runtime == "openvino":
            self.runtime, self.precision, make = "onnxruntime", "float32", self._without_openvino
        self._session = _AfterFork(make)

    def _lost(self) -> _Session:
        raise RuntimeUnavailable(
            f"{self.runtime} cannot compute in a child process after a fork: start processes by spawn "
            "(multiprocessing.get_context('spawn'))"
        )

    def run(self, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        """Return the network's outputs for inputs given in the order of `self.inputs`.

        Raises `ModelError` if the network cannot be computed for inputs of such shapes.
        """
        if len(inputs) != len(self.inputs):
            raise ValueError(f"the network has {len(self.inputs)} inputs, got {len(inputs)}")
        return self._run_on(self._session, inputs)

    def _run_on(
        self, session: _Session | _AfterFork, inputs: Sequence[npt.NDArray[Any]]
    ) -> list[npt.NDArray[np.float32]]:
        try:
            return session.run(inputs)
        except RuntimeUnavailable:
            raise
        except Exception as error:  # no common base, as when compiling
            shapes = ", ".join(f"{value.dtype} {value.shape}" for value in inputs)
            raise ModelError(
                f"{self._source}: the network cannot be computed for an input of {shapes} ({first_line(error)})"
            ) from None

    @property
    def wants_parts(self) -> bool:
        """Whether `run_parts` is the faster way to compute several batches: it computes them in parallel."""
        return self.runtime != "cuda" and usable_cores() > 1

    def run_parts(self, parts: Iterable[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """Return the first output of a network with one input for each of several batches; `parts` may be a generator.

        Batches are computed in parallel, each on its own core, while the next ones are prepared. Several threads
        for one batch would wait for the slowest of them at every layer, which costs most when other programs use the
        cores too.
        """
        (_,) = self.inputs  # one input
        parts = iter(parts)
        first = list(itertools.islice(parts, 2))
        if len(first) < 2 or not self.wants_parts or isinstance(self._session, _AfterFork):
            return [self.run(part)[0] for part in itertools.chain(first, parts)]
        with self._lock:
            if self._aside is None:
                self._aside = self._compile(side_by_side=True)
            if self._pool is None:
                self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="facespace-network")
        aside = self._aside
        each = itertools.chain(first, parts)
        return list(self._pool.map(lambda part: self._run_on(aside, [part])[0], each))


class _AfterFork:
    """The session of a child process after a fork, compiled at the first call."""

    def __init__(self, make: Callable[[], _Session]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._session: _Session | None = None

    def run(self, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        with self._lock:
            self._session = self._session or self._make()
        return self._session.run(inputs)


def _can_use_openvino(required: str | None) -> bool:
    """Return whether OpenVINO can be used. Raises `RuntimeUnavailable` if it cannot, but is required."""
    problem = openvino_problem()
    if problem and required:
        raise RuntimeUnavailable(f"FACESPACE_RUNTIME=openvino, but OpenVINO cannot be used here: {problem}")
    return not problem


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
    """Return the kind of processor, which decides how fast bfloat16 is, from Linux's flags; `other` without them.

    `amd` and `bfloat16` are processors with bfloat16 but without AMX, of AMD and of other makers.
    """
    flags = processor_flags().split()
    if "amx_bf16" in flags:
        return "amx"
    if "avx512_bf16" not in flags:
        return "other"
    return "amd" if _processor_line("vendor_id") == "AuthenticAMD" else "bfloat16"


def processor_flags() -> str:
    """Return the processor's features on one line, as Linux lists them; empty on other systems.

    >>> processor_flags() == " ".join(processor_flags().split())
    True
    """
    return _processor_line("flags", "Features")  # x86, ARM


def _processor_line(*names: str) -> str:
    """Return the first line of Linux's description of the processor with one of these names; empty without one."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    lines = (line for line in text.splitlines() if line.startswith(names))
    return " ".join(next(lines, "").partition(":")[2].split())


def _choice(variable: str, allowed: tuple[str, ...]) -> str | None:
    value = os.environ.get(variable)
    if value and value not in allowed:
        raise RuntimeUnavailable(f"{variable} must be one of {', '.join(allowed)}, got {value!r}")
    return value or None
