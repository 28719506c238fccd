"""Clustering measured: how well each method groups the album, and what 100,000 faces take.

Album: the largest face of every photo of 75 people, grouped without their names; pairwise F (of the pairs put together and
of those that belong together) and V-measure (Rosenberg and Hirschberg 2007), for each method at the threshold the model's
table gives for so many faces, and beside them the program of 2018: DBSCAN over Euclidean distances of plain embeddings,
eps 1.0, one face a core; and its Chinese whispers, edges above 0.55, 20 rounds. Whispers goes over the faces in an order
drawn anew; of 20 such draws the median and the range. Scale: invented faces, 5,000 people of 20, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

DRAWS = 20  # of Chinese whispers' order: what it finds hangs on it


def scores(true: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    from sklearn.metrics import v_measure_score
    from sklearn.metrics.cluster import pair_confusion_matrix

    (_, wrong), (missed, right) = pair_confusion_matrix(true, found)
    return float(2 * right / (2 * right + wrong + missed)), float(v_measure_score(true, found))


def album(root: Path) -> None:
    from facespace.clustering.algorithms import METHODS, Method, cluster, threshold_for
    from facespace.detection.mtcnn.detector import MTCNN
    from facespace.embedding.embedder import Embedder
    from facespace.faces.alignment import align
    from facespace.pipeline.photos import find_images, process

    embedder = Embedder.load()
    people, crops = [], []
    for photo in process(
        list(find_images([root / "known", root / "unknown"])), MTCNN(), largest=True, keep_pixels=True
    ):
        if photo.faces and photo.pixels is not None:
            people.append(Path(photo.path).parent.name)
            crops.append(align(photo.pixels, photo.faces[0], embedder.spec))
    _, true = np.unique(people, return_inverse=True)
    stack = np.stack(crops)
    vectors, plain = embedder.represent(stack), embedder.embed(stack)
    assert embedder.calibration is not None
    print(f"album: {len(true)} faces of {true.max() + 1} people\n{'':36} similarity  groups  pairwise F  V-measure")

    def row(name: str, embeddings: np.ndarray, method: Method, threshold: float) -> None:
        draws = DRAWS if method == "whispers" else 1
        found = [cluster(embeddings, method=method, threshold=threshold, seed=seed) for seed in range(draws)]
        groups = int(np.median([labels.max() + 1 for labels in found]))
        f, v = np.transpose([scores(true, labels) for labels in found])
        spread = f"   F {f.min():.4f} to {f.max():.4f} over {draws} draws" if draws > 1 else ""
        print(f"  {name:34} {threshold:10.4f} {groups:7} {np.median(f):11.4f} {np.median(v):10.4f}{spread}", flush=True)

    for method in METHODS:
        row(method, vectors, method, threshold_for(embedder.calibration, len(true), method))
    row("2018: DBSCAN, eps 1.0", plain, "dbscan", 0.5)
    row("2018: Chinese whispers, 0.55", plain, "whispers", 0.55)


def scale(method: str, n_people: int, n_photos: int) -> None:
    from facespace.clustering.algorithms import cluster, threshold_for
    from facespace.embedding.embedder import Embedder

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n_people, 512)).astype(np.float32)
    true = np.repeat(np.arange(n_people), n_photos)
    vectors = centres[true] + np.float32(0.6) * rng.standard_normal((len(true), 512), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = rng.permutation(len(true))
    calibration = Embedder.load().calibration
    assert calibration is not None
    threshold = threshold_for(calibration, len(true), method)  # type: ignore[arg-type]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = cluster(vectors[order], method=method, threshold=threshold)  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    f, _ = scores(true[order], found)
    print(
        json.dumps({"seconds": seconds, "peak": peak, "before": before * 1024, "groups": int(found.max()) + 1, "f": f})
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--people", type=int, default=5000)
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--one", metavar="METHOD", help="measure the scale of this method in this process")
    args = parser.parse_args()
    if args.one:
        scale(args.one, args.people, args.photos)
        return
    print(f"{args.people * args.photos:,} invented faces of {args.people:,} people, two threads")
    for method in ("average", "whispers", "dbscan"):
        command = [
            sys.executable,
            __file__,
            "--one",
            method,
            "--people",
            str(args.people),
            "--photos",
            str(args.photos),
        ]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        print(
            f"  {method:9} {found['seconds']:6.1f} s, peak of the process {found['peak'] / 1e9:.2f} GB "
            f"(its faces and the network {found['before'] / 1e9:.2f}), {found['groups']:,} groups, pairwise F {found['f']:.4f}",
            flush=True,
        )
    album(args.shared / "data/album")


if __name__ == "__main__":
    main()
