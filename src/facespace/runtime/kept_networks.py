"""Keeps networks as ONNX Runtime optimised them for this processor, between runs of a program.

Reading and optimising a network takes longer than computing a few faces. The files may be deleted at any time.
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

_KEPT = 8  # newest networks that are kept


def rewritten(folder: Path, name: str, read: Callable[[], bytes], processor: str = "") -> tuple[bytes, bool]:
    """Return the ONNX file of the network `name`, and whether it is already optimised for this processor.

    An optimised file in the folder is returned if there is one. Otherwise `read` is called for the ONNX file, which is
    optimised and kept in the folder. If it cannot be kept (full disk, no permission), the result of `read` is returned.
    Only files that this user wrote, that no other user can write, and whose checksum is that in their name are used.
    `processor` lists the processor's features (`processor_flags`).
    """
    stem = ""
    with contextlib.suppress(OSError):
        stem = f"{name[:32]}-{_environment_digest(processor)}"
        for file in folder.glob(f"{stem}-*.onnx"):
            if (data := _intact(file)) is not None:
                return data, True
    model = read()
    if not stem:  # the package is not in a folder, so its code has no modification times
        return model, False
    try:
        data = _rewrite(model, folder)
        write_bytes(folder / f"{stem}-{masked_crc(data):08x}.onnx", data)
    except Exception:  # of the disk or ONNX Runtime: keeping the network only saves time
        return model, False
    with contextlib.suppress(OSError):
        for file in sorted(folder.glob("*.onnx"), key=lambda path: -path.stat().st_mtime)[_KEPT:]:
            file.unlink()
    return data, True


def _intact(file: Path) -> bytes | None:
    """Return the content of a kept file, or None if others can write it or it is damaged; a damaged file is removed."""
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
    """Return the ONNX file as optimised by ONNX Runtime, after loading it once to check it."""
    import onnxruntime

    folder.mkdir(parents=True, exist_ok=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as unfinished:
        path = Path(unfinished, "network.onnx")
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        data = path.read_bytes()
    onnxruntime.InferenceSession(data, options_without_optimisation(), providers=["CPUExecutionProvider"])
    return data


def options_without_optimisation() -> Any:
    """Return session options that run an optimised network without optimising it again."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


@functools.cache
def _environment_digest(processor: str = "") -> str:
    """Return a hash of what an optimised network depends on besides weights: runtime, processor and reading code."""
    import onnxruntime

    # Only source files, because compiled files next to them change when a program first runs.
    formats = os.scandir(Path(__file__).parents[1] / "formats")
    code = [(entry.name, entry.stat().st_mtime_ns) for entry in formats if entry.name.endswith(".py")]
    facts = (onnxruntime.__version__, __version__, platform.machine(), processor or platform.processor(), sorted(code))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
