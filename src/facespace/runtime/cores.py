"""How many processor cores this process may use: the scheduler's affinity, a container's CPU quota, FACESPACE_CORES."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CORES_VARIABLE = "FACESPACE_CORES"  # lowers the number of cores, for example for one of several worker processes

_PROC = Path("/proc/self")
_OCTAL = re.compile(r"\\([0-7]{3})")  # how mountinfo writes spaces
_UNLIMITED = 2**20  # assumed if there is no quota


def usable_cores() -> int:
    """Return the number of cores that this process may keep busy, at least 1.

    It is the smallest of three numbers: the cores that the scheduler allows (`sched_getaffinity`), the CPU quota of the
    process's control group and its parents, rounded up (`docker --cpus 1.5` gives 2), and the variable
    `FACESPACE_CORES`. The quota is read once.
    """
    n_cores = min(_scheduled_cores(), _quota(_PROC) or _UNLIMITED)
    share = os.environ.get(CORES_VARIABLE, "")
    return min(n_cores, max(1, int(share))) if share.isascii() and share.isdigit() and len(share) < 9 else n_cores


def are_cores_limited() -> bool:
    """Return whether a quota or `FACESPACE_CORES` leaves fewer cores than the scheduler allows.

    Libraries that count cores themselves see only the scheduler's limit, so they must be told `usable_cores()`.
    """
    return usable_cores() < _scheduled_cores()


def limit_library_threads() -> None:
    """Limit the threads of OpenMP and OpenBLAS to `usable_cores` if these libraries would start more.

    It sets environment variables that are not set yet, so it must run before NumPy or torch is imported.
    """
    if are_cores_limited():
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(variable, str(usable_cores()))


def _scheduled_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _quota(proc: Path) -> int | None:
    """Return the cores of the CPU quota of the process described in the folder `proc`; None without a quota.

    Missing or malformed files count as no quota.
    """
    try:
        mounts = (proc / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        groups = (proc / "cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    quotas = [quota for folder in _cgroup_folders(mounts, groups) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _cgroup_folders(mounts: str, groups: str) -> Iterator[Path]:
    """Yield the mounted folders of the process's control groups for CPU time, and of their parents.

    `mounts` is `/proc/self/mountinfo`, `groups` is `/proc/self/cgroup`: lines `id:controllers:path`, for version 2 with
    no controllers.
    """
    paths = {}
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            paths[controller] = PurePosixPath(path)
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        if kind[0] == "cgroup" and "cpu" not in kind[2].split(","):
            continue
        own = paths.get("" if kind[0] == "cgroup2" else "cpu")
        if own is None:
            continue
        root, mount_point = (_OCTAL.sub(lambda code: chr(int(code[1], 8)), field) for field in fields[3:5])
        # A container may see only its own group mounted, under a path that exists only outside.
        inside = own.relative_to(root) if own.is_relative_to(root) else PurePosixPath()
        if ".." in inside.parts:
            inside = PurePosixPath()
        for below in (inside, *inside.parents):
            yield Path(mount_point) / below


def _quota_of(folder: Path) -> int | None:
    """Return the cores that the quota of one control group allows, rounded up; None if it has no quota."""
    if (limit := _words(folder / "cpu.max")) is None:  # version 2: `quota period` or `max period`
        quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
        limit = [*(quota or []), *(period or [])]  # version 1: -1 for no quota
    numbers = [int(word) for word in limit if word.isascii() and word.isdigit() and len(word) < 19]
    if len(limit) != 2 or len(numbers) != 2 or 0 in numbers:
        return None
    return -(-numbers[0] // numbers[1])


def _words(file: Path) -> list[str] | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return None
