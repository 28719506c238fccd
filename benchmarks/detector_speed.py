"""The detectors compared with facenet-pytorch's MTCNN and OpenCV's FaceDetectorYN on the same cores, in alternating rounds.

The peers are peers/facenet_pytorch.py and the environment of peers/opencv.py, created the first time. Photos are
decoded beforehand for all. For facenet-pytorch, the better of its two ways (one photo per call, batches of one size)
counts. OpenCV gets each photo at the size at which YuNet searches it in full; facespace makes that size itself, and searches
large photos a second time for large faces. A ratio is the peer's time divided by facespace's in one round; the table has medians
over the rounds, and the lowest and the highest ratio.

"networks alone" is what MTCNN could reach if only its networks took time: the recorded inputs of P-Net, R-Net and O-Net
are computed again by as many threads as there are cores. With one photo per call, each network waits for the one before it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import facespace
from facespace.detection.mtcnn.detector import MTCNN
from facespace.detection.yunet import YuNet
from facespace.detection.yunet_network import FILE
from facespace.runtime.cores import usable_cores
from side_by_side.environments import Environment, all_peers, bench_home, start_peer
from speed import best_of_theirs, processor

WAYS = ("one a call", "many")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def answer(*command: object) -> dict[str, Any]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def write_searched(path: Path, detector: YuNet, images: list[np.ndarray]) -> None:
    """Write what the full search of each photo looks at, for OpenCV."""
    searched = (detector._searches(0, image)[0].resized() for image in images)
    np.savez(path, **{f"{number:03d}": pixels for number, pixels in enumerate(searched)})


def networks_alone(detector: MTCNN, photos: list[np.ndarray]) -> tuple[Callable[[], object], Callable[[], object]]:
    """Compute the networks' inputs of each photo again: one photo after the other, and all photos together."""
    networks = (detector._pnet, detector._rnet, detector._onet)
    photo_inputs: list[list[list[np.ndarray]]] = []
    for photo in photos:
        inputs: list[list[np.ndarray]] = [[] for _ in networks]
        for network, seen in zip(networks, inputs, strict=True):
            run = network.run
            network.run = lambda one, run=run, seen=seen: seen.append(one) or run(one)  # type: ignore[method-assign]
        detector.detect(photo)
        for network in networks:
            del network.run
        photo_inputs.append(inputs)
    pool = ThreadPoolExecutor(usable_cores())

    def one_a_call() -> None:
        for inputs in photo_inputs:
            for network, seen in zip(networks, inputs, strict=True):
                list(pool.map(network.run, seen))

    def many() -> None:
        calls = [
            (network, one)
            for inputs in photo_inputs
            for network, seen in zip(networks, inputs, strict=True)
            for one in seen
        ]
        list(pool.map(lambda call: call[0].run(call[1]), calls))

    return one_a_call, many


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    paths = {
        "photos": sorted((args.shared / "data/photos").glob("*.jpg")),
        "LFW": sorted((args.shared / "data/lfw_view1/images").rglob("*.jpg"))[::83][:60],
    }
    images = {name: [facespace.read(path) for path in members] for name, members in paths.items()}
    mtcnn, yunet = facespace.create_detector("mtcnn"), YuNet()
    weights = Path(facespace.__file__).parent / "weights" / FILE
    ways = {
        (name, kind, way): work
        for name, detector in (("mtcnn", mtcnn), ("yunet", yunet))
        for kind, photos in images.items()
        for way, work in zip(
            WAYS,
            (
                lambda d=detector, photos=photos: [d.detect(photo) for photo in photos],
                lambda d=detector, photos=photos: d.detect_many(photos),
            ),
            strict=True,
        )
    }
    for kind, photos in images.items():
        for way, work in zip(WAYS, networks_alone(mtcnn, photos), strict=True):
            ways["mtcnn, networks alone", kind, way] = work
    facenet, opencv = start_peer("facenet-pytorch"), Environment(all_peers()["opencv"], bench_home())
    opencv.install()
    ours: dict[tuple[str, str, str], list[float]] = {key: [] for key in ways}
    theirs: dict[tuple[str, str], list[float]] = {}
    print(f"{processor()}, {usable_cores()} cores, load {os.getloadavg()[0]:.1f}; mtcnn {mtcnn.runtime}, yunet")
    with tempfile.TemporaryDirectory() as folder:
        for kind, photos in images.items():
            write_searched(Path(folder, f"{kind}.npz"), yunet, photos)
        for work in ways.values():
            work()
        for turn in range(args.rounds):
            for kind, members in paths.items():
                for key, work in ways.items():
                    if key[1] == kind:
                        ours[key].append(statistics.median(seconds(work) for _ in range(3)) / len(members))
                theirs.setdefault(("facenet-pytorch", kind), []).append(1 / best_of_theirs(facenet, members))
                peer = Path(__file__).with_name("peer_yunet.py")
                told = answer(opencv.python, peer, weights, Path(folder, f"{kind}.npz"))
                theirs.setdefault((f"OpenCV {told['version']}", kind), []).append(told["seconds"] / len(members))
            print(f"round {turn + 1} of {args.rounds}, load {os.getloadavg()[0]:.1f}", flush=True)
    facenet.close()

    print(f"{'':<42}{'beside':<18}{'ours ms':>9}{'theirs ms':>11}{'ratio':>8}  lowest to highest")
    for key, times in ours.items():
        for (peer, kind), others in theirs.items():
            if kind != key[1] or (key[0].startswith("mtcnn") and peer.startswith("OpenCV")):
                continue
            ratios = [b / a for a, b in zip(times, others, strict=True)]
            print(
                f"{', '.join(key):<42}{peer:<18}{1000 * statistics.median(times):>9.2f}"
                f"{1000 * statistics.median(others):>11.2f}{statistics.median(ratios):>8.2f}"
                f"  {min(ratios):.2f} to {max(ratios):.2f}"
            )


if __name__ == "__main__":
    main()
