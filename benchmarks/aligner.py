"""The aligner on LFW view 1 compared with facenet-pytorch on the same cores, in alternating rounds; both write crops.

facenet-pytorch is peers/facenet_pytorch.py. facespace is measured as the whole command `facespace align` on all photos.
facenet-pytorch is started and warmed up before its clock runs and aligns every tenth photo; the better of single photos and
batches of 16 counts. Processor time is the command's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from facespace.runtime.cores import usable_cores
from side_by_side.conversation import Conversation
from side_by_side.environments import start_peer
from speed import processor


def ours(photos: Path, out: Path) -> tuple[float, float]:
    """Seconds of the wall and of the processor."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "facespace", "align", photos, out], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def theirs(peer: Conversation, paths: list[str]) -> dict[str, float]:
    """Images a second, one by one and in batches of 16."""
    rates = {}
    with tempfile.TemporaryDirectory() as out:
        for label, size in (("one_by_one", 1), ("batches_of_16", 16)):
            peer.ask("align", paths=paths[:32], out=out, size=size)
            rates[label] = len(paths) / peer.ask("align", paths=paths, out=out, size=size)["seconds"]
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    photos = args.shared / "data/lfw_view1/images"
    paths = sorted(photos.rglob("*.jpg"))
    rates, peers, shares = [], [], []
    peer = start_peer("facenet-pytorch")
    for turn in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            wall, busy = ours(photos, Path(folder, "out"))
            n_crops = sum(1 for _ in Path(folder, "out").rglob("*.png"))
        answer = theirs(peer, list(map(str, paths[::10])))
        rates.append(len(paths) / wall)
        peers.append(max(answer.values()))
        shares.append(busy / wall)
        print(
            f"round {turn + 1}: ours {rates[-1]:.1f} images/s ({n_crops} crops, processor/wall {shares[-1]:.2f}), "
            f"theirs {answer['one_by_one']:.1f} one by one, {answer['batches_of_16']:.1f} in batches: "
            f"{rates[-1] / peers[-1]:.2f}x",
            flush=True,
        )
    peer.close()
    ratio = statistics.median(rates) / statistics.median(peers)
    print(
        f"\n{processor()}, {usable_cores()} cores, {len(paths)} photos; medians of {args.rounds}: "
        f"ours {statistics.median(rates):.1f}, theirs {statistics.median(peers):.1f} images/s: {ratio:.2f} times; "
        f"best processor/wall {max(shares):.2f}"
    )


if __name__ == "__main__":
    main()
