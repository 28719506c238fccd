"""A two-node Ray cluster on this machine embeds 2,000 photos; one node is killed in the middle.

The archive must be identical, array by array and bit by bit, to that of a single process; no face may be lost or duplicated.

    python benchmarks/ray_kill.py > benchmarks/results/ray_kill.txt

It reads the LFW view 1 images of the research data.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.ray_cluster import TwoNodes

N_PHOTOS = 2_000
KILLED_AFTER = 10  # parts of 64 photos


def command(photos: Path, output: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "facespace", "embed", str(photos), "--output", str(output), *more]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    shared = parser.parse_args().shared.resolve()
    found = sorted((shared / "data" / "lfw_view1" / "images").rglob("*.jpg"))[:N_PHOTOS]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        photos.mkdir()
        for photo in found:
            (photos / photo.name).symlink_to(photo)
        (photos / "damaged.jpg").write_bytes(b"no photo")
        cluster = TwoNodes(2, Path(folder, "log.txt"))
        try:
            start = time.monotonic()
            output = Path(folder, "ray.npz")
            running = subprocess.Popen(
                command(photos, output, "--ray", cluster.address),
                env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            parts = Path(f"{output}.parts")
            while len(list(parts.glob("part-*.npz"))) < KILLED_AFTER:
                assert running.poll() is None, "ended before the node was killed"
                time.sleep(0.05)
            cluster.lose_a_node()
            n_done = len(list(parts.glob("part-*.npz")))
            summary, _ = running.communicate(timeout=1800)
            print(f"two nodes of 2 cores, one killed after {n_done} of {-(-(N_PHOTOS + 1) // 64)} parts:")
            print(
                f"  {summary.splitlines()[-1].split(' ->')[0]}, exit {running.returncode}, {time.monotonic() - start:.0f} s"
            )
        finally:
            cluster.stop()
        start = time.monotonic()
        alone = subprocess.run(command(photos, Path(folder, "alone.npz")), capture_output=True, text=True, check=False)
        print("one process:")
        print(
            f"  {alone.stdout.splitlines()[-1].split(' ->')[0]}, exit {alone.returncode}, {time.monotonic() - start:.0f} s"
        )
        with np.load(output) as ours, np.load(Path(folder, "alone.npz")) as theirs:
            assert ours.files == theirs.files
            different = [name for name in ours.files if ours[name].tobytes() != theirs[name].tobytes()]
        print(f"arrays that differ in any bit: {', '.join(different) or 'none'}")
        sys.exit(bool(different))


if __name__ == "__main__":
    main()
