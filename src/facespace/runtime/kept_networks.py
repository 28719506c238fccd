"""Networks as ONNX Runtime rewrote them for this processor, kept between runs of a program.

Reading and rewriting a network takes longer than computing a few faces. What is kept may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from facespace._version import __version__
from facespace.io.checksums import masked_crc
from facespace.io.files import TEMPORARY, write_bytes

_KEPT = 8  # networks; of these the latest are kept


def rewritten(folder: Path, name: str, read: Callable[[], bytes], processor: str = "") -> tuple[bytes, bool]:
    """The network `name`, and whether it is rewritten for this processor, so that nothing is left to optimise.

    It comes from the folder, or from `read` as an ONNX file and is kept in the folder. Where it cannot be kept (a full disk,
    no right to write) it is what `read` gives. Only files that this user wrote and nobody else can write are believed, and
    only with the checksum that their name says. `processor` says what this processor can compute (`processor_flags`).
    """
    stem = ""
    with contextlib.suppress(OSError):
        stem = f"{name[:32]}-{_circumstances(processor)}"
        for file in folder.glob(f"{stem}-*.onnx"):
            if (data := _whole(file)) is not None:
                return data, True
    model = read()
    if not stem:  # the package is in no folder, so that its code has no time to be told by
        return model, False
    try:
        data = _rewrite(model, folder)
        write_bytes(folder / f"{stem}-{masked_crc(data):08x}.onnx", data)
    except Exception:  # of the disk, or whatever ONNX Runtime raises: what is kept is only for speed
        return model, False
    with contextlib.suppress(OSError):
        for file in sorted(folder.glob("*.onnx"), key=lambda path: -path.stat().st_mtime)[_KEPT:]:
            file.unlink()
    return data, True


def _whole(file: Path) -> bytes | None:
    """The content of a kept file; None for one that is not ours, or damaged, which is removed."""
    status = file.lstat()
    mine = not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)
    if not mine or not stat.S_ISREG(status.st_mode):
        return None
    data = file.read_bytes()
    if f"{masked_crc(data):08x}" == file.stem.rpartition("-")[2]:
        return data
    file.unlink()
    return None


def _rewrite(model: bytes, folder: Path) -> bytes:
    """The ONNX file as ONNX Runtime's optimisers leave it; it was loaded once, so that it is known to be whole."""
    import onnxruntime

    folder.mkdir(parents=True, exist_ok=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as unfinished:
        path = Path(unfinished, "network.onnx")
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        data = path.read_bytes()
    onnxruntime.InferenceSession(data, as_it_is(), providers=["CPUExecutionProvider"])
    return data


def as_it_is() -> Any:
    """Options of a session that computes a rewritten network without looking for more to rewrite."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


@functools.cache
def _circumstances(processor: str = "") -> str:
    """What a rewritten network depends on beside its weights: the runtime, the processor, and the code that read it."""
    import onnxruntime

    # Of the code alone: the folder of compiled code beside it changes when a program is run for the first time.
    formats = os.scandir(Path(__file__).parents[1] / "formats")
    code = [(entry.name, entry.stat().st_mtime_ns) for entry in formats if entry.name.endswith(".py")]
    told = (onnxruntime.__version__, __version__, platform.machine(), processor or platform.processor(), sorted(code))
    return hashlib.sha256(repr(told).encode()).hexdigest()[:32]
