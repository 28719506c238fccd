"""The recipe `fine-tune` on train_182: LFW view 1 and identification of the album (other people), before and after.

LFW: whole photos, flip and mean subtraction, angular distance, threshold from pairsDevTrain. Album: six photos of each of
35 people enrolled, six of each and 40 strangers' photos as probes. Both networks represent a face by photo and mirror
image added, and are compared at the threshold at which 1 % of the strangers' photos are named; intervals by bootstrap over
people. These figures are not used to choose anything.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from facespace import MTCNN, Embedder
from facespace.faces.alignment import align
from facespace.faces.face import central_face
from facespace.io.image import read

RATE = 0.01


def facespace(*arguments: object) -> str:
    command = [sys.executable, "-m", "facespace", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def lfw(model: object, view: Path) -> None:
    report = facespace(
        "verify", "lfw", view / "images", "--pairs", view / "pairsDevTest.txt", "--threshold-from",
        view / "pairsDevTrain.txt", "--flip", "--subtract-mean", "--distance", "angle", "--model", model, "--json",
    )  # fmt: skip
    figures = json.loads(report)
    low, high = figures["intervals_95_over_people"]["accuracy"]
    print(
        f"  LFW view 1: accuracy {figures['accuracy']['mean']:.4f}, 95 % over people {low:.4f} to {high:.4f}",
        flush=True,
    )


def vectors(embedder: Embedder, crops: list[np.ndarray]) -> np.ndarray:
    stack = np.stack(crops)
    added = embedder.embed(stack) + embedder.embed(np.ascontiguousarray(stack[:, :, ::-1]))
    return added / np.linalg.norm(added, axis=1, keepdims=True)


def album(model: object, root: Path) -> None:
    embedder, detector = Embedder.load(model), MTCNN()  # type: ignore[arg-type]

    def crops(folder: Path) -> list[np.ndarray]:
        found = []
        for path in sorted(folder.iterdir()):
            pixels = read(path)
            faces = detector.detect(pixels)
            if faces:
                found.append(align(pixels, central_face(faces, pixels.shape[1], pixels.shape[0]), embedder.spec))
        return found

    known = [vectors(embedder, crops(folder)) for folder in sorted((root / "known").iterdir())]
    strangers = [vectors(embedder, crops(folder)) for folder in sorted((root / "unknown").iterdir())]
    templates = np.stack([person[:6].mean(0) for person in known])
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    impostor = np.sort(np.concatenate([(person @ templates.T).max(1) for person in strangers]))
    threshold = impostor[int(np.ceil(len(impostor) * (1 - RATE))) - 1]
    named, ranked = [], []
    for k, person in enumerate(known):
        similarity = person[6:] @ templates.T
        first = similarity.argmax(1) == k
        ranked.append(first)
        named.append(first & (similarity.max(1) > threshold))
    random = np.random.default_rng(0)
    drawn = [random.integers(0, len(known), len(known)) for _ in range(2000)]
    for what, right in (("rank-1", ranked), (f"named right at {RATE:.0%} of strangers named", named)):
        share = np.concatenate(right).mean()
        low, high = np.quantile([np.concatenate([right[k] for k in draw]).mean() for draw in drawn], [0.025, 0.975])
        print(f"  album: {what} {share:.4f}, 95 % over people {low:.4f} to {high:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE that overrides the recipe")
    args = parser.parse_args()
    data = args.shared / "data"
    print("before: casia-webface")
    lfw("casia-webface", data / "lfw_view1")
    album("casia-webface", data / "album")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        print(f"after: $ facespace train fine-tune data=train_182 {' '.join(args.overrides)}", flush=True)
        begin = time.perf_counter()
        lines = facespace("train", "fine-tune", f"data={data / 'train_182'}", *args.overrides, "--output", run)
        steps = [line for line in lines.splitlines() if line.startswith("step ")]
        print(f"  {steps[0].rpartition(', rate')[0]}\n  {steps[-1].rpartition(', rate')[0]}")
        print(f"  wall {time.perf_counter() - begin:.0f} s")
        lfw(run / "model", data / "lfw_view1")
        album(run / "model", data / "album")


if __name__ == "__main__":
    main()
