"""Two Ray workers compared with one process on the same two cores, embedding LFW photos: photos per second, and their ratio.

    python benchmarks/ray_speed.py > benchmarks/results/ray_speed.txt

Both are whole commands. Starting Ray and loading the model take seconds, whatever the number of photos, so the speed is computed from
the difference of two runs with few and with many photos: (many - few) / (seconds of many - seconds of few). Runs alternate; medians.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FEW, MANY, ROUNDS = 128, 1_408, 3
CORES = 2


def seconds(photos: Path, output: Path, *more: str) -> float:
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "facespace", "embed", str(photos), "--output", str(output), *more],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    shared = parser.parse_args().shared.resolve()
    images = sorted((shared / "data" / "lfw_view1" / "images").rglob("*.jpg"))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # for the processes started here, too
    print(f"{platform.processor() or platform.machine()}, {CORES} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        sets = {}
        for n in (FEW, MANY):
            sets[n] = Path(folder, str(n))
            sets[n].mkdir()
            for photo in images[:n]:
                (sets[n] / photo.name).symlink_to(photo)
        ways: dict[str, tuple[str, ...]] = {"one process": (), "two Ray workers": ("--ray", "local")}
        rates: dict[str, list[float]] = {way: [] for way in ways}
        starts: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, more in ways.items():
                few = seconds(sets[FEW], Path(folder, "few.npz"), *more)
                many = seconds(sets[MANY], Path(folder, "many.npz"), *more)
                rates[way].append((MANY - FEW) / (many - few))
                starts[way].append(few - FEW / rates[way][-1])
        for way in ways:
            print(
                f"{way:16} {statistics.median(rates[way]):6.1f} photos/s "
                f"({', '.join(f'{rate:.1f}' for rate in rates[way])}), {statistics.median(starts[way]):.1f} s to start"
            )
        ratios = [ray / alone for ray, alone in zip(rates["two Ray workers"], rates["one process"], strict=True)]
        print(f"ratio {statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
