"""Speed beside facenet-pytorch on the same cores: ours, theirs, ours, theirs; ratios of medians.

`--peer` is the python of an environment that ../shared/tools/peers/make_venv.sh made. Photos are decoded beforehand on
both sides; their better way of detecting (one by one, or batches of equal sizes) counts. Embedding has rounds of its
own, shorter and more: how fast the matrix unit is depends on what other programs compute on the processor, and changes
within seconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import facespace


def rate(work: Callable[[], object], n: int, repeat: int = 3) -> float:
    """Items a second: the median of `repeat` runs."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return n / statistics.median(times)


def theirs(peer: Path, shared: Path, paths: list[Path]) -> dict[str, object]:
    command = [peer, shared / "tools/peers/time_facenet_pytorch.py", "--rounds", "2", *paths]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    sets = {
        "photos": sorted((args.shared / "data/photos").glob("*.jpg")),
        "LFW view 1": sorted((args.shared / "data/lfw_view1/images").rglob("*.jpg"))[::83][:60],
    }
    images = {name: [facespace.read(path) for path in paths] for name, paths in sets.items()}
    detector = facespace.MTCNN()
    crops = np.random.default_rng(0).integers(0, 256, (32, 160, 160, 3), np.uint8)
    embedders = {p: facespace.Embedder.load(precision=p) for p in ("float32", "fastest")}

    ours: dict[str, list[float]] = {}
    peers: dict[str, list[float]] = {}

    def compare(turn: int, what: str, measured: dict[str, float], other: float) -> None:
        for key, value in measured.items():
            ours.setdefault(key, []).append(value)
            peers.setdefault(key, []).append(other)
        ratios = ", ".join(f"{value / other:.2f}x" for value in measured.values())
        print(f"round {turn + 1} {what}: {ratios}", flush=True)

    for name in sets:
        detector.detect_many(images[name])  # compile for these shapes
    for embedder in embedders.values():
        embedder.embed(crops)
    for turn in range(args.rounds):
        for name, paths in sets.items():
            measured = {f"detect {name}": rate(lambda name=name: detector.detect_many(images[name]), len(paths))}
            measured[f"detect {name}, one a call"] = rate(
                lambda name=name: [detector.detect(image) for image in images[name]], len(paths), 1
            )
            answer = theirs(args.peer, args.shared, paths)
            compare(turn, name, measured, max(answer["detect_photos_per_s"], answer["detect_batches_of_16"] or 0))
    for turn in range(4 * args.rounds):
        measured = {f"embed {p}": rate(lambda e=e: e.embed(crops), len(crops), 9) for p, e in embedders.items()}
        answer = theirs(args.peer, args.shared, sets["LFW view 1"][:1])
        compare(turn, "embedding, batch 32", measured, answer["embed_faces_per_s"]["32"])

    what = {p: f"{e.runtime} {e.precision}" for p, e in embedders.items()}
    print(
        f"\n{processor()}, {facespace.runtime.onnx_network.usable_cores()} cores; detector {detector.runtime} float32; "
        f"embed float32 = {what['float32']}, fastest = {what['fastest']}; medians of {args.rounds} "
        f"rounds, of {4 * args.rounds} for embedding"
    )
    print(f"{'':<34}{'ours/s':>9}{'theirs/s':>10}{'ratio':>8}")
    for key in ours:
        a, b = statistics.median(ours[key]), statistics.median(peers[key])
        print(f"{key:<34}{a:>9.1f}{b:>10.1f}{a / b:>8.2f}")


if __name__ == "__main__":
    main()
