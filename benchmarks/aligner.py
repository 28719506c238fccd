"""The aligner on LFW view 1 beside facenet-pytorch on the same cores: ours, theirs, ours, theirs; crops written by both.

`--peer` is the python of an environment that ../shared/tools/peers/make_venv.sh made. Ours is the command
`facespace align` from its start to its end on all photos; theirs, started and warmed up before its clock runs, aligns
every tenth photo, and the better of one by one and batches of 16 counts. Processor time is the command's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from facespace.runtime.cores import usable_cores
from speed import processor


def ours(photos: Path, out: Path) -> tuple[float, float]:
    """Seconds of the wall and of the processor."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "facespace", "align", photos, out], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    photos = args.shared / "data/lfw_view1/images"
    paths = sorted(photos.rglob("*.jpg"))
    rates, peers, shares = [], [], []
    for turn in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            wall, busy = ours(photos, Path(folder, "out"))
            n_crops = sum(1 for _ in Path(folder, "out").rglob("*.png"))
            command = [args.peer, Path(__file__).parent / "peer_aligner.py", folder, *paths[::10]]
            answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        rates.append(len(paths) / wall)
        peers.append(max(answer.values()))
        shares.append(busy / wall)
        print(
            f"round {turn + 1}: ours {rates[-1]:.1f} images/s ({n_crops} crops, processor/wall {shares[-1]:.2f}), "
            f"theirs {answer['one_by_one']:.1f} one by one, {answer['batches_of_16']:.1f} in batches: "
            f"{rates[-1] / peers[-1]:.2f}x",
            flush=True,
        )
    ratio = statistics.median(rates) / statistics.median(peers)
    print(
        f"\n{processor()}, {usable_cores()} cores, {len(paths)} photos; medians of {args.rounds}: "
        f"ours {statistics.median(rates):.1f}, theirs {statistics.median(peers):.1f} images/s: {ratio:.2f} times; "
        f"best processor/wall {max(shares):.2f}"
    )


if __name__ == "__main__":
    main()
