"""The machine that numbers were measured on: its processor, its relevant features, and its load."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(line.replace("\t", "").split(":", 1) for line in reversed(lines) if ":" in line)


def processor_name() -> str:
    return _cpuinfo().get("model name", platform.processor()).strip()


def features() -> list[str]:
    flags = _cpuinfo().get("flags", "").split()
    return [name for name in FEATURES if name in flags]


def load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hold_to(n: int) -> None:
    """Let this process and all that it starts use `n` processor cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n])


def described() -> dict[str, Any]:
    path = Path("/proc/meminfo")
    memory = int(path.read_text().split("MemTotal:")[1].split()[0]) * 1024 if path.exists() else None
    return {
        "processor": processor_name(),
        "features": features(),
        "cores": cores(),
        "memory_bytes": memory,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
