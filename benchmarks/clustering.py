"""Clustering: how well each method groups the album, and the cost of 100,000 faces.

Album: all faces of the photos of 75 people, alone and together with those of the group photos, grouped without their names as
in `facespace cluster` (`FaceGroups.regroup`): no two faces of one photo in a group, faces of poor quality separate,
each method at the threshold that the model's table gives for this number of faces. The largest face of every photo of the
album is evaluated: pairwise precision (of the pairs put together), recall (of the pairs that belong together) and F, and V-measure
(Rosenberg and Hirschberg 2007). For pairs known to be different, those within one photo and those of different people
of the album, the share that is in one group. Chinese whispers visits the faces in five orders drawn from a seed and keeps the
best result: the command's seed is 0; the median and range are of 20 seeds.

For comparison, the program of 2018 on the largest faces only: casia-webface, MTCNN, and DBSCAN over Euclidean distances of plain
embeddings, eps 1.0, one face per core; and its Chinese whispers, edges above 0.55, 20 rounds, one order.

Scale: simulated faces, 5,000 people with 20 faces each, in a separate process.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

import numpy as np

if TYPE_CHECKING:
    from facespace.clustering.algorithms import Method
    from facespace.clustering.groups import FaceGroups
    from facespace.embedding.embedder import Embedder

SEEDS = 20  # of Chinese whispers' orders: what it finds depends on them


class Scores(NamedTuple):
    precision: float
    recall: float
    f: float
    v: float


def scores(true: np.ndarray, found: np.ndarray) -> Scores:
    from sklearn.metrics import v_measure_score
    from sklearn.metrics.cluster import pair_confusion_matrix

    (_, wrong), (missed, right) = pair_confusion_matrix(true, found)
    f = 2 * right / (2 * right + wrong + missed)
    precision = right / (right + wrong) if right + wrong else 1.0
    return Scores(float(precision), float(right / (right + missed)), float(f), float(v_measure_score(true, found)))


def read(groups: FaceGroups, paths: list[str], embedder: Embedder) -> FaceGroups:
    """The same faces and those of more photos."""
    from facespace.clustering.groups import read_faces
    from facespace.detection.factory import create_detector

    more = dataclasses.replace(
        groups,
        **{name: list(getattr(groups, name)) for name in ("photos", "photo", "box", "score", "quality", "embedding")},
    )
    failed = list(
        read_faces(
            paths, more, embedder, create_detector(embedder.detector),
            keep=lambda *_: None, checkpoint=lambda: None, progress=lambda items, *_: iter(items),
        )
    )  # fmt: skip
    assert not failed, failed
    return more


def largest_faces(groups: FaceGroups, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the largest face of each photo below a folder, and whose it is."""
    photo, box = np.array(groups.photo), np.array(groups.box)
    area = (box[:, 2:] - box[:, :2]).prod(axis=1)
    rows, people = [], []
    for k, (path, _, _) in enumerate(groups.photos):
        here = np.flatnonzero(photo == k)
        if len(here) and Path(path).is_relative_to(root):
            rows.append(here[area[here].argmax()])
            people.append(Path(path).parent.name)
    return np.array(rows), np.unique(people, return_inverse=True)[1]


def grouped(groups: FaceGroups, embedder: Embedder, method: Method, threshold: float, seed: int) -> np.ndarray:
    from facespace.clustering import groups as room
    from facespace.clustering.algorithms import cluster, pair_threshold_for

    fresh = dataclasses.replace(groups, group=np.empty(0, np.int64))
    with mock.patch.object(room, "cluster", functools.partial(cluster, seed=seed)):
        fresh.regroup(
            method=method,
            threshold=threshold,
            pair_threshold=max(threshold, pair_threshold_for(embedder.calibration, len(groups.photo))),
            calibration=embedder.calibration,
        )
    return fresh.group


def of_photos(title: str, groups: FaceGroups, embedder: Embedder, root: Path) -> None:
    """A table of all methods over these faces, judged by those of the album in `root`."""
    from facespace.clustering.algorithms import METHODS, threshold_for

    assert embedder.calibration is not None
    rows, true = largest_faces(groups, root)
    photo, poor = np.array(groups.photo), groups.too_poor()
    first, second = np.triu_indices(len(photo), 1)
    same_photo = photo[first] == photo[second]
    person = np.full(len(photo), -1)
    person[rows] = true
    others = (person[first] >= 0) & (person[second] >= 0) & (person[first] != person[second])
    print(
        f"\n{title}: {len(photo)} faces in {len(groups.photos)} photos, {poor.sum()} too poor; judged {len(true)} of "
        f"{true.max() + 1} people, {poor[rows].sum()} of them too poor; known to differ {(same_photo | others).sum()} pairs\n"
        f"{'':12} similarity  groups  precision  recall        F  V-measure  a photo twice  different in one group"
    )

    def row(name: str, threshold: float, found: np.ndarray, note: str = "") -> None:
        together = found[first] == found[second]
        twice = len(np.unique(found[first[together & same_photo]]))
        share = (together & (same_photo | others)).sum() / (same_photo | others).sum()
        sizes = np.bincount(found)
        s = scores(true, found[rows])
        print(
            f"{name:12} {threshold:10.4f} {(sizes > 1).sum():7} {s.precision:10.4f} {s.recall:7.4f} {s.f:8.4f} {s.v:10.4f} "
            f"{twice:14} {share:23.6f}{note}",
            flush=True,
        )

    for method in METHODS:
        threshold = threshold_for(embedder.calibration, len(photo), method)
        found = [grouped(groups, embedder, method, threshold, k) for k in range(SEEDS if method == "whispers" else 1)]
        f = np.array([scores(true, one[rows]).f for one in found])
        note = f"   F of {SEEDS} seeds {np.median(f):.4f}, {f.min():.4f} to {f.max():.4f}" if len(f) > 1 else ""
        row(method, threshold, found[0], note)


def of_2018(root: Path) -> None:
    from facespace.clustering import algorithms
    from facespace.detection.factory import create_detector
    from facespace.embedding.embedder import Embedder
    from facespace.faces.alignment import align
    from facespace.pipeline.photos import find_images, process

    embedder = Embedder.load("casia-webface")
    detector = create_detector(embedder.detector)
    people, crops = [], []
    for photo in process(list(find_images([root])), detector, largest=True, keep_pixels=True):
        if photo.faces and photo.pixels is not None:
            people.append(Path(photo.path).parent.name)
            crops.append(align(photo.pixels, photo.faces[0], embedder.spec))
    true = np.unique(people, return_inverse=True)[1]
    vectors = np.asarray(embedder.embed(np.stack(crops)))
    print(f"\nthe program of 2018, {len(true)} faces of {true.max() + 1} people\n{'':26} similarity  groups         F")

    def row(name: str, method: Method, threshold: float) -> None:
        draws = range(SEEDS if method == "whispers" else 1)
        with mock.patch.object(algorithms, "_DRAWS", 1):
            found = [algorithms.cluster(vectors, method=method, threshold=threshold, seed=seed) for seed in draws]
        f = np.array([scores(true, labels).f for labels in found])
        groups = int(np.median([(np.bincount(labels) > 1).sum() for labels in found]))
        spread = f"   {f.min():.4f} to {f.max():.4f} of {len(f)} draws" if len(f) > 1 else ""
        print(f"{name:26} {threshold:10.4f} {groups:7} {np.median(f):9.4f}{spread}", flush=True)

    row("DBSCAN, eps 1.0", "dbscan", 0.5)
    row("Chinese whispers, 0.55", "whispers", 0.55)


def scale(method: str, n_people: int, n_photos: int) -> None:
    from facespace.clustering.algorithms import cluster, threshold_for
    from facespace.embedding.embedder import Embedder

    embedder = Embedder.load()
    assert embedder.calibration is not None
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n_people, embedder.dimension)).astype(np.float32)
    true = np.repeat(np.arange(n_people), n_photos)
    vectors = centres[true] + np.float32(0.6) * rng.standard_normal((len(true), centres.shape[1]), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = rng.permutation(len(true))
    threshold = threshold_for(embedder.calibration, len(true), method)  # type: ignore[arg-type]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = cluster(vectors[order], method=method, threshold=threshold)  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    f = scores(true[order], found).f
    print(
        json.dumps({"seconds": seconds, "peak": peak, "before": before * 1024, "groups": int(found.max()) + 1, "f": f})
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--people", type=int, default=5000)
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--one", metavar="METHOD", help="measure only the scale of this method, in this process")
    parser.add_argument(
        "--quick", action="store_true", help="measure only the photos, without the program of 2018 and the scale"
    )
    args = parser.parse_args()
    if args.one:
        scale(args.one, args.people, args.photos)
        return
    photos(args.shared / "data")
    if args.quick:
        return
    of_2018(args.shared / "data/album")
    print(f"\n{args.people * args.photos:,} invented faces of {args.people:,} people, two threads")
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


def photos(data: Path) -> None:
    from facespace.clustering.groups import FaceGroups
    from facespace.embedding.embedder import Embedder
    from facespace.pipeline.photos import find_images

    embedder = Embedder.load()
    print(f"{embedder.name}, {embedder.detector}, {embedder.runtime} {embedder.precision}")
    album = read(FaceGroups(embedder.dimension), list(find_images([data / "album"])), embedder)
    mixed = read(album, list(find_images([data / "groups"])), embedder)
    of_photos("album", album, embedder, data / "album")
    of_photos("album and data/groups", mixed, embedder, data / "album")


if __name__ == "__main__":
    main()
