"""Peak memory of `facespace identify` against the number of photos: 10,000 by default, LFW view 1 repeated.

Runs the command itself and reads its resident memory while it works: VmHWM at every thousand photos it prints.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def resident(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--photos", type=int, default=10_000)
    args = parser.parse_args()
    command = str(Path(sys.executable).with_name("facespace"))
    photos = sorted(map(str, (args.shared / "data/lfw_view1/images").rglob("*.jpg")))
    work = (photos * (args.photos // len(photos) + 1))[: args.photos]
    with tempfile.TemporaryDirectory() as folder:
        gallery = str(Path(folder, "g"))
        subprocess.run(
            [command, "enroll", "--gallery", gallery, "--folder", str(args.shared / "data/album/known")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        start = time.perf_counter()
        process = subprocess.Popen([command, "identify", "--gallery", gallery, "--json", *work], stdout=subprocess.PIPE)
        for n, _ in enumerate(process.stdout, 1):
            if n % 1000 == 0:
                print(
                    f"{n:>6} photos  resident {resident(process.pid, 'VmRSS:'):7.0f} MB  peak {resident(process.pid, 'VmHWM:'):7.0f} MB  {n / (time.perf_counter() - start):6.1f} photos/s",
                    flush=True,
                )
        print(f"exit code {process.wait()}")


if __name__ == "__main__":
    main()
