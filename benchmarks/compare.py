"""The cost of `facespace compare a.jpg b.jpg`, the whole process, with all files in the system's cache.

Medians of seconds from start to end, processor seconds (which other programs disturb less; on two cores they may exceed the elapsed
time), and peak resident memory (ru_maxrss of the process, the system's VmHWM), compared with starting Python and
`facespace --help`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 5


def measure(command: list[str]) -> list[float]:
    """Medians over runs, after one that warms the disk: seconds, processor seconds, megabytes at the peak."""
    runs = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)  # the figures of this child alone
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {child.returncode}")
        runs.append((seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6))
    return [statistics.median(values) for values in zip(*runs[1:], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    args = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it every process would compile every module again
    facespace = str(Path(sys.executable).with_name("facespace"))
    album = sorted((args.shared / "data/album/known").iterdir())[0]
    sets = {
        "two photos of the album": sorted(map(str, album.iterdir()))[:2],
        "two photos of LFW": sorted(map(str, (args.shared / "data/lfw_view1/images/Aaron_Peirsol").iterdir()))[:2],
        "two photos of data/photos": [
            str(args.shared / "data/photos" / name) for name in ("2007_007763.jpg", "Tom_Cruise_avp_2014_4.jpg")
        ],
    }
    rows = {"bare python": [sys.executable, "-c", "pass"], "facespace --help": [facespace, "--help"]}
    rows |= {f"compare, {name}": [facespace, "compare", *paths] for name, paths in sets.items()}
    print(f"python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; medians of {RUNS}")
    print(f"{'':38}{'s':>8}{'processor s':>13}{'MB at the peak':>16}")
    for name, command in rows.items():
        seconds, processor, peak = measure(command)
        print(f"{name:38}{seconds:8.3f}{processor:13.3f}{peak:16.0f}", flush=True)


if __name__ == "__main__":
    main()
