"""Classifiers: closed set on train_182, open set on the album, and the time to add a person.

train_182: trained on every second crop of each person (sorted), tested on the rest, without strangers. Album: trained on the first
six photos (sorted) of each known person, tested on the others and all strangers; the threshold is the one that
`facespace classify train` chooses without strangers. Refit: 1,000 simulated people with 10 photos each, and one
more, from existing embeddings; thresholds and evidence are measured again each time.
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

import numpy as np

from facespace.embedding.embedder import Embedder
from facespace.identification.classifier import Classifier
from facespace.identification.classifier_methods import METHODS


def facespace(*arguments: object) -> str:
    command = [sys.executable, "-m", "facespace", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):  # 1: some photos have no face, which is reported
        raise SystemExit(f"{command}: {done.returncode}")
    return done.stdout


def link(files: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        os.symlink(file.resolve(), folder / file.name)


def images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def closed_set(data: Path, root: Path) -> None:
    for person in sorted(path for path in data.iterdir() if path.is_dir()):
        crops = images(person)
        link(crops[::2], root / "train" / person.name)
        link(crops[1::2], root / "test" / person.name)
    print("train_182, 130 people, every second crop to learn from", flush=True)
    for method in METHODS:
        file = root / "train_182.classifier"
        start = time.perf_counter()
        facespace("classify", "train", root / "train", "--aligned", "--method", method, "--output", file)
        seconds = time.perf_counter() - start
        found = json.loads(facespace("classify", "test", file, root / "test", "--aligned", "--json"))["test"]
        right = found["closed_set_accuracy"]
        print(
            f"  {method:9} closed-set accuracy {right['share']:.4f} ({right['low']:.4f} to {right['high']:.4f}), "
            f"{right['n']} crops; {seconds:.0f} s to learn",
            flush=True,
        )


def open_set(data: Path, root: Path) -> None:
    for person in sorted((data / "known").iterdir()):
        photos = images(person)
        link(photos[:6], root / "known" / person.name)
        link(photos[6:], root / "probes" / person.name)
    for person in sorted((data / "unknown").iterdir()):
        link(images(person), root / "probes" / person.name)
    print("album, 35 people of six photos each; 95 % intervals over people")
    for method in METHODS:
        file = root / "album.classifier"
        trained = json.loads(
            facespace("classify", "train", root / "known", "--method", method, "--output", file, "--json")
        )
        tested = json.loads(facespace("classify", "test", file, root / "probes", "--json"))
        thresholds = {person["threshold"] for person in trained["people"]}
        held, found = trained["held_out"], tested["test"]
        print(f"  {method}: similarity to reach {min(thresholds):.4f} to {max(thresholds):.4f}")
        for name, rate in [
            *((f"held out: {name}", held[name]) for name in ("known_named_right", "unknown_detected")),
            *found.items(),
        ]:
            print(f"    {name:28} {rate['share']:.4f} ({rate['low']:.4f} to {rate['high']:.4f}), {rate['n']} photos")
    sys.stdout.flush()


def refit(root: Path) -> None:
    rng = np.random.default_rng(0)
    embedder = Embedder.load()
    centres = rng.standard_normal((1001, embedder.dimension))
    owners = np.repeat(np.arange(1001), 10)
    vectors = centres[owners] + 0.8 * rng.standard_normal((len(owners), embedder.dimension))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = [f"person {k:04}" for k in owners]
    digests = tuple(f"photo:{k:064x}" for k in range(len(owners)))
    file = root / "thousand.classifier"
    first = Classifier().fit(
        vectors[:10_000], names[:10_000], calibration=embedder.calibration, digests=digests[:10_000]
    )
    first.save(file, embedder)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        kept = Classifier.load(file, embedder)
        everybody = np.concatenate([kept.embeddings_, vectors[10_000:]])
        known = [kept.names_[k] for k in kept.owners_] + names[10_000:]
        grown = Classifier().fit(everybody, known, calibration=embedder.calibration, digests=digests)
        grown.save(root / "grown.classifier", embedder)
        times.append(time.perf_counter() - start)
    print(
        f"1,000 people of 10 photos and one more: read, learned again with its evidence and written in "
        f"{statistics.median(times):.2f} s (median of {len(times)}, {min(times):.2f} to {max(times):.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        refit(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        open_set(args.shared / "data/album", Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        closed_set(args.shared / "data/train_182", Path(folder))


if __name__ == "__main__":
    main()
