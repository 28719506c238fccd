"""Where networks compute, and in what."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fastest", "float32"]


def processor_flags() -> str:
    """What the processor can compute, as Linux lists it on one line; empty where nothing lists it.

    >>> processor_flags() == " ".join(processor_flags().split())
    True
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))  # x86, ARM
    return " ".join(next(lines, "").partition(":")[2].split())
