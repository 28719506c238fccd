"""Seconds and peak memory of `facespace identify PHOTO --gallery G` as a new process: medians.

With the network that a first run stored (`runtime/kept_networks.py`), without it, and if it cannot be stored. Each process is
new; files are in the system's cache, and modules are compiled already. The peak is what the kernel counted (`ru_maxrss`). Plain Python and `facespace --help`
are measured for comparison.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# In a process of its own: the kernel counts the memory of a process that starts another as the other's, too.
ENROLL = """
import pathlib, sys
import facespace

analyzer = facespace.FaceAnalyzer()
with facespace.Gallery(sys.argv[1], analyzer.embedder, create=True) as gallery:
    for person in map(pathlib.Path, sys.argv[2:]):
        analyzer.enroll(gallery, person.name, sorted(person.iterdir())[0], largest=True, any_quality=True)
"""


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Seconds, seconds of the processor and peak MB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--runs", type=int, default=11)
    args = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it every process would compile every module again
    facespace = [sys.executable, "-m", "facespace"]
    people = sorted((args.shared / "data/album/known").iterdir())
    photo = sorted(people[0].iterdir())[8]
    with tempfile.TemporaryDirectory() as name:
        home, blocked, gallery = Path(name, "home"), Path(name, "blocked"), Path(name, "people.gallery")
        blocked.mkdir()
        (blocked / "networks").touch()  # a file stands where the folder would be made
        subprocess.run([sys.executable, "-c", ENROLL, gallery, *people[:10]], check=True)
        identify = [*facespace, "identify", str(photo), "--gallery", str(gallery)]
        cases = {
            "bare python": ([sys.executable, "-c", "pass"], home, False),
            "facespace --help": ([*facespace, "--help"], home, False),
            "identify, kept network": (identify, home, False),
            "identify, nothing kept": (identify, home, True),
            "identify, cannot be kept": (identify, blocked, False),
        }
        found: dict[str, list[tuple[float, float, float]]] = {case: [] for case in cases}
        for turn in range(args.runs + 1):
            for case, (command, folder, forget) in cases.items():
                if forget:
                    shutil.rmtree(folder / "networks", ignore_errors=True)
                taken = measure(command, {"FACESPACE_HOME": str(folder)})
                if turn:  # the first is not warm
                    found[case].append(taken)
        print(f"python {sys.version.split()[0]}, {os.cpu_count()} processors, medians of {args.runs} runs")
        print(f"{'':<28}{'seconds':>9}{'processor':>11}{'peak MB':>9}")
        for case, runs in found.items():
            wall, processor, peak = (statistics.median(part) for part in zip(*runs, strict=True))
            print(f"{case:<28}{wall:>9.2f}{processor:>11.2f}{peak:>9.0f}")


if __name__ == "__main__":
    main()
