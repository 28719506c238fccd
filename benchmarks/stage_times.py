"""The cost of each stage on this machine, in processor seconds, for `scale_simulation.py`: written to a JSON file.

Photos are the 569 of the album (CelebA, original sizes) or those of the folder --photos. Every stage is measured alone,
in the batches of `facespace embed`, on all photos, in processor time of all threads, best of --rounds: reading files
from the system's cache, decoding, detecting, aligning (and rating the crop), embedding photo and mirror image, writing
rows.

Pairs and merging are those of `facespace cluster` on simulated faces of two numbers, --faces and twice as many, so that the
exponent of their growth is measured too: people with 1 to 20 photos, whose photos have a cosine of 0.6 and whose
means are random. Real faces have more pairs by chance, so merging them takes longer.

Last, `facespace embed` itself on the first --run photos, in a separate process, for comparison with `scale_simulation.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import facespace
from facespace.clustering import algorithms
from facespace.detection.factory import create_detector
from facespace.faces.alignment import align
from facespace.faces.quality import face_quality
from facespace.io.image import decode
from facespace.pipeline.face_batches import in_chunks
from facespace.runtime.onnx_network import usable_cores
from speed import processor

RESULTS = Path(__file__).with_name("results")


class Clock:
    """Processor and wall-clock seconds between two looks."""

    def __init__(self) -> None:
        self.cpu, self.wall = 0.0, 0.0

    def __enter__(self) -> Clock:
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time() - self._cpu
        self.wall += time.perf_counter() - self._wall


def timed(clock: Clock, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        with clock:
            return function(*arguments, **options)

    return call


def photo_stages(paths: list[Path]) -> tuple[dict[str, Clock], int]:
    """The clock of each stage over all photos, and how many faces there were."""
    detector, embedder = create_detector(), facespace.Embedder.load()
    clocks = {name: Clock() for name in ("read", "decode", "detect", "align", "embed", "write")}
    n_faces = 0
    warm = np.zeros((64, embedder.spec.size, embedder.spec.size, 3), np.uint8)
    embedder.represent(warm)  # the runtime compiles
    for chunk in in_chunks(decoded(paths, clocks), lambda photo: photo.size // 3):
        with clocks["detect"]:
            found = detector.detect_many(chunk)
        with clocks["align"]:
            pairs = [(image, face) for image, faces in zip(chunk, found, strict=True) for face in faces]
            crops = [align(image, face, embedder.spec) for image, face in pairs]
            for (image, face), crop in zip(pairs, crops, strict=True):
                face_quality(image, face, crop)
        n_faces += len(crops)
        for start in range(0, len(crops), 64):
            with clocks["embed"]:
                vectors = embedder.represent(np.stack(crops[start : start + 64]))
            with tempfile.TemporaryFile() as file, clocks["write"]:
                np.savez(file, embedding=vectors)
                file.flush()
                os.fsync(file.fileno())
    return clocks, n_faces


def decoded(paths: list[Path], clocks: dict[str, Clock]) -> Iterator[np.ndarray]:
    for path in paths:
        with clocks["read"]:
            encoded = path.read_bytes()
        with clocks["decode"]:
            image = decode(encoded, str(path))
        yield image


def drawn(n: int, dimension: int) -> np.ndarray:
    """Unit vectors (n,D) of people of 1 to 20 photos, in an order without meaning."""
    rng = np.random.default_rng(7)
    sizes = rng.integers(1, 21, n // 10 + 1000)
    person = rng.permutation(np.repeat(np.arange(len(sizes)), sizes)[:n])
    people = rng.standard_normal((len(sizes), dimension), np.float32) / np.sqrt(dimension)
    errors = rng.standard_normal((n, dimension), np.float32) / np.sqrt(dimension)
    vectors = np.sqrt(0.6).astype(np.float32) * people[person] + np.sqrt(0.4).astype(np.float32) * errors
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cluster_stages(n: int, dimension: int) -> dict[str, float]:
    """Processor seconds a face of finding similar pairs, and of making groups of them."""
    vectors, pairs, whole = drawn(n, dimension), Clock(), Clock()
    finders = [name for name in ("similar_pairs", "similar_pairs_on_disk") if hasattr(algorithms, name)]
    patches = [mock.patch.object(algorithms, name, timed(pairs, getattr(algorithms, name))) for name in finders]
    for patch in patches:
        patch.start()
    with whole:
        algorithms.cluster(vectors, threshold=0.36)
    for patch in patches:
        patch.stop()
    return {"pairs": pairs.cpu / n, "merge": (whole.cpu - pairs.cpu) / n}


def run_embed(paths: list[Path]) -> dict[str, float]:
    """Seconds and processor seconds of the command on these photos, its start included, and of the command on one."""
    times, rows, n_bytes = {}, 0, 0
    for name, some in (("one photo", paths[:1]), ("all", paths)):
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder, "faces.npz")
            command = [sys.executable, "-m", "facespace", "embed", *map(str, some), "--output", str(output)]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            wall = time.perf_counter() - start
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            times[name] = {"wall": wall, "cpu": cpu}
            rows, n_bytes = len(np.load(output)["score"]), output.stat().st_size
    return {
        "photos": len(paths),
        "start_wall": times["one photo"]["wall"],
        "start_cpu": times["one photo"]["cpu"],
        "wall": times["all"]["wall"],
        "cpu": times["all"]["cpu"],
        "bytes_per_face": n_bytes / rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--photos", type=Path, help="folder of photos (default: the album)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--run", type=int, default=1000, help="number of photos for the real command; repeated if there are fewer"
    )
    parser.add_argument("--faces", type=int, default=125_000)
    parser.add_argument("--output", type=Path, default=RESULTS / "stage_times.json")
    args = parser.parse_args()
    folder = args.photos or args.shared / "data/album"
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        parser.error(f"{folder}: no photos")
    per_photo: dict[str, list[Clock]] = {}
    for turn in range(args.rounds):
        clocks, n_faces = photo_stages(paths)
        for name, clock in clocks.items():
            per_photo.setdefault(name, []).append(clock)
        print(
            f"round {turn + 1}: " + ", ".join(f"{name} {clock.cpu:.2f} s" for name, clock in clocks.items()), flush=True
        )
    run = run_embed((paths * (args.run // len(paths) + 1))[: args.run])
    print(
        f"facespace embed, {run['photos']} photos: {run['wall']:.1f} s, {run['cpu']:.1f} s of processor time",
        flush=True,
    )
    dimension = facespace.Embedder.load().dimension
    grouped = {n: cluster_stages(n, dimension) for n in (args.faces, 2 * args.faces)}
    for n, stages in grouped.items():
        print(
            f"cluster, {n} faces: " + ", ".join(f"{name} {1e6 * t:.0f} µs a face" for name, t in stages.items()),
            flush=True,
        )
    best = {name: min(clocks, key=lambda clock: clock.cpu) for name, clocks in per_photo.items()}
    units = {name: len(paths) if name in ("read", "decode", "detect") else n_faces for name in best}
    facts = {
        "machine": {"processor": processor(), "cores": usable_cores(), "system": platform.platform(), "python": platform.python_version()},
        "photos": {
            "folder": folder.name,
            "photos": len(paths),
            "faces_per_photo": n_faces / len(paths),
            "bytes_per_photo": sum(path.stat().st_size for path in paths) / len(paths),
        },
        "bytes_per_vector": 4 * dimension,
        "bytes_per_face": run["bytes_per_face"],
        "core_seconds": {
            **{name: {"of": "photo" if units[name] == len(paths) else "face", "seconds": clock.cpu / units[name]} for name, clock in best.items()},
            **{
                name: {
                    "of": "face",
                    "seconds": grouped[2 * args.faces][name],
                    "at_faces": 2 * args.faces,
                    "exponent": float(np.log2(2 * grouped[2 * args.faces][name] / grouped[args.faces][name])),
                }
                for name in ("pairs", "merge")
            },
        },
        "run": run,
    }  # fmt: skip
    args.output.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{args.output}: written")


if __name__ == "__main__":
    main()
