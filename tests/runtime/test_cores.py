from __future__ import annotations

import os
from pathlib import Path

import pytest

from facespace.runtime import cores
from facespace.runtime.cores import are_cores_limited, limit_library_threads, usable_cores


@pytest.fixture
def without_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_PROC", Path("/nowhere"))
    monkeypatch.delenv("FACESPACE_CORES", raising=False)


class Machine:
    """A folder that looks like /proc/self, with control groups mounted next to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.groups, self.mounts = "", ""

    def mount(self, kind: str, root: str = "/", options: str = "rw", name: str = "group") -> Path:
        point = self.folder / name
        point.mkdir(exist_ok=True)
        written = str(point).replace(" ", "\\040")
        self.mounts += f"31 23 0:28 {root} {written} rw,relatime shared:9 - {kind} {kind} {options}\n"
        return point

    def quota(self) -> int | None:
        (self.folder / "cgroup").write_text(self.groups)
        (self.folder / "mountinfo").write_text(f"22 1 0:5 / / rw - ext4 /dev/vda rw\n{self.mounts}")
        return cores._quota.__wrapped__(self.folder)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1000 1000000\n", 1),
        ("max 100000\n", None),
        ("max", None),
        ("200000", None),
        ("", None),
        ("0 100000", None),
        ("200000 0", None),
        ("-1 100000", None),
        ("2e5 100000", None),
        ("²00000 100000", None),
        ("200000 100000 7", None),
        ("9" * 5000 + " 1", None),
    ],
)
def test_version_2_quota(machine: Machine, limit: str, expected: int | None):
    machine.groups = "0::/\n"
    write(machine.mount("cgroup2"), cpu__max=limit)
    assert machine.quota() == expected


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [("300000", "100000", 3), ("-1", "100000", None), ("10000", "100000", 1), ("many", "100000", None)],
)
def test_version_1_quota(machine: Machine, quota: str, period: str, expected: int | None):
    machine.groups = "5:devices:/\n4:cpu,cpuacct:/\n"
    machine.mount("cgroup", options="rw,devices", name="devices")
    point = machine.mount("cgroup", options="rw,cpu,cpuacct")
    write(point, cpu__cfs_quota_us=quota, cpu__cfs_period_us=period)
    assert machine.quota() == expected


def test_smallest_quota_of_the_parents_counts(machine: Machine):
    machine.groups = "0::/system.slice/docker-1.scope\n"
    point = machine.mount("cgroup2")
    write(point / "system.slice/docker-1.scope", cpu__max="800000 100000")
    write(point / "system.slice", cpu__max="300000 100000")
    write(point / "other.slice", cpu__max="100000 100000")
    assert machine.quota() == 3


def test_container_that_sees_only_its_own_group(machine: Machine):
    """Version 1 without a namespace: /proc/self/cgroup has the host's path, the mount shows the group itself."""
    machine.groups = "4:cpu:/docker/abc\n"
    point = machine.mount("cgroup", root="/docker/abc", options="rw,cpu")
    write(point, cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")
    assert machine.quota() == 2


@pytest.mark.parametrize("path", ["/../../elsewhere", "/docker/another"])
def test_group_outside_of_what_is_mounted(machine: Machine, path: str):
    machine.groups = f"0::{path}\n"
    point = machine.mount("cgroup2", root="/docker/abc" if "another" in path else "/")
    write(point, cpu__max="400000 100000")
    assert machine.quota() == 4


def test_both_versions_at_once(machine: Machine):
    machine.groups = "3:cpu:/a\n0::/b\n"
    write(machine.mount("cgroup2", name="two") / "b", cpu__max="900000 100000")
    point = machine.mount("cgroup", options="rw,cpu", name="one")
    write(point / "a", cpu__cfs_quota_us="500000", cpu__cfs_period_us="100000")
    assert machine.quota() == 5


def test_mount_point_with_a_space(tmp_path: Path):
    folder = tmp_path / "with space"
    folder.mkdir()
    machine = Machine(folder)
    machine.groups = "0::/\n"
    write(machine.mount("cgroup2"), cpu__max="200000 100000")
    assert machine.quota() == 2


@pytest.mark.parametrize(
    "mounts", ["", "nonsense", "1 2 3 - cgroup2 cgroup2 rw", "1 2 3 / /x rw - cgroup2", " - - -\n\x00"]
)
def test_malformed_mounts_are_no_quota(machine: Machine, mounts: str):
    machine.groups, machine.mounts = "0::/\nnonsense\n:::\n", mounts
    assert machine.quota() is None


def test_no_files_are_no_quota(tmp_path: Path):
    assert cores._quota.__wrapped__(tmp_path / "missing") is None


@pytest.mark.usefixtures("without_quota")
def test_cores_are_those_of_the_scheduler_without_a_quota():
    expected = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert usable_cores() == expected
    assert not are_cores_limited()


@pytest.mark.usefixtures("without_quota")
@pytest.mark.parametrize(
    ("share", "expected"), [("1", 1), ("0", 1), ("3", 3), ("100000", 8), ("all", 8), ("", 8), ("9" * 9, 8)]
)
def test_variable_lowers_the_cores(monkeypatch: pytest.MonkeyPatch, share: str, expected: int):
    monkeypatch.setattr(cores, "_scheduled_cores", lambda: 8)
    monkeypatch.setenv("FACESPACE_CORES", share)
    assert usable_cores() == expected
    assert are_cores_limited() == (expected < 8)


@pytest.mark.usefixtures("without_quota")
@pytest.mark.parametrize(("quota", "expected"), [(2, 2), (64, 8), (None, 8)])
def test_quota_lowers_the_cores(monkeypatch: pytest.MonkeyPatch, quota: int | None, expected: int):
    monkeypatch.setattr(cores, "_scheduled_cores", lambda: 8)
    monkeypatch.setattr(cores, "_quota", lambda proc: quota)
    assert usable_cores() == expected


@pytest.mark.usefixtures("without_quota")
def test_threads_of_libraries_are_limited_where_they_would_be_too_many(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cores, "_scheduled_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "5")
    limit_library_threads()
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("FACESPACE_CORES", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    limit_library_threads()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"]) == ("2", "5")
