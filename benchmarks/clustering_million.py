"""Grouping a million faces on two cores: time and memory of each stage, and the result compared with comparing all pairs.

Faces are simulated with the distribution of real ones. The embeddings of LFW view 1 and of the album give the mean and the
covariance of people, and the covariance of photos of one person; a simulated photo is its person plus an error, with the length
and quality of a real photo. Normally distributed people have too few look-alikes, so everybody belongs to one of 2,000 kinds,
whose members share as much as needed for one pair in 100,000 of different people to be as similar as real ones. The
quality of this fit is printed. The number of photos of a person is n with a probability proportional to 1/n², from 1 to 1,000: many
people with one photo, few with many. Every third photo shows two to five faces.

"all pairs" compares all faces with all, as facespace does up to 100,000 faces; "buckets" is its method above. Pairs are
evaluated: precision is the share of true pairs among those put together, recall the share of true pairs put together, F their
harmonic mean. Edges are the pairs above the similarity threshold; "edges" is the share of existing ones that buckets find.

Time is wall-clock time and, in brackets, processor time of all threads. Peak memory is that of a separate process, including
pages mapped from files and the initial memory with NumPy, SciPy and the calibration loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

import facespace
from facespace.defaults import DEFAULT_MODEL
from gallery_strangers import Faces, real_faces, tail, unit
from speed import processor

KINDS = 2000
LARGEST = 1000  # photos of a person
SEED = 7


class Model(NamedTuple):
    """What faces are drawn from: people and errors are normal vectors times these matrices."""

    mean: np.ndarray
    people: np.ndarray
    errors: np.ndarray
    lengths: np.ndarray  # of errors of real photos, 1 on average
    quality: np.ndarray  # of the same photos
    shared: float  # of what a person is, as much is the kind's


def root(covariance: np.ndarray) -> np.ndarray:
    values, axes = np.linalg.eigh(covariance)
    return (axes * np.sqrt(np.maximum(values, 0))).T.astype(np.float32)


def fit(real: Faces) -> tuple[Model, np.ndarray, np.ndarray]:
    """The model, and similarities of real pairs: of one person, of different people."""
    _, first, person, counts = np.unique(real.people, return_index=True, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), real.vectors.shape[1]))
    np.add.at(sums, person, real.vectors)
    several = counts[person] > 1
    errors = (real.vectors - sums[person] / counts[person][:, None])[several]
    errors *= np.sqrt(counts / np.maximum(counts - 1, 1))[person][several][:, None]
    within = errors.T @ errors / len(errors)
    total = np.cov(real.vectors[first].T)
    lengths = np.linalg.norm(errors, axis=1)
    model = Model(
        real.vectors[first].mean(axis=0).astype(np.float32), root(total - within), root(within),
        (lengths / np.sqrt((lengths**2).mean())).astype(np.float32), real.quality[several].astype(np.float32), 0.0,
    )  # fmt: skip
    pairs = [
        (first_photo, second_photo)
        for rows in np.split(np.argsort(person, kind="stable"), np.cumsum(counts)[:-1])
        for k, first_photo in enumerate(rows)
        for second_photo in rows[k + 1 :]
    ]
    one, other = np.array(pairs).T
    same = np.einsum("nd,nd->n", real.vectors[one], real.vectors[other])
    different = pairs_within(real.vectors[first])
    power = bisect(
        lambda value: np.quantile(of_drawn(stretched(model, value))[0], 0.1), float(np.quantile(same, 0.1)), 4.0, 1.0
    )
    model = stretched(model, power)
    shared = bisect(
        lambda value: tail(of_drawn(model._replace(shared=value))[1])[3], float(tail(different)[3]), 0.0, 0.9
    )
    return model._replace(shared=shared), same, different


def stretched(model: Model, power: float) -> Model:
    """The model with the lengths of errors spread further about their median: some photos are much less like their person."""
    median = np.median(model.lengths)
    return model._replace(lengths=(median * (model.lengths / median) ** power).astype(np.float32))


def bisect(function: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a function that grows from `low` to `high` has a value."""
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < wanted else (low, middle)
    return (low + high) / 2


def of_drawn(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Similarities of drawn pairs: two photos each of 5,000 people, and one photo each of different people."""
    centres, rng = people(model, 5000, 3)
    photos = []
    for _ in range(2):
        errors = rng.standard_normal(centres.shape, np.float32) @ model.errors
        photos.append(unit(centres + errors * rng.choice(model.lengths, (len(centres), 1))))
    return np.einsum("nd,nd->n", *photos), pairs_within(photos[0])


def pairs_within(vectors: np.ndarray) -> np.ndarray:
    return np.concatenate([vectors[k] @ vectors[k + 1 :].T for k in range(len(vectors) - 1)])


def people(model: Model, n: int, seed: int) -> tuple[np.ndarray, np.random.Generator]:
    """Drawn people (n,D), not of length 1, with the generator to go on with."""
    rng = np.random.default_rng(seed)
    kinds = rng.standard_normal((KINDS, len(model.mean)), np.float32)
    own = rng.standard_normal((n, len(model.mean)), np.float32)
    own *= np.float32(np.sqrt(1 - model.shared))
    own += np.float32(np.sqrt(model.shared)) * kinds[rng.integers(0, KINDS, n)]
    return own @ model.people + model.mean, rng


def draw(model: Model, n: int, folder: Path, dimension: int | None) -> None:
    """Write n faces: vectors, whose they are, their photos and their qualities, in an order without meaning.

    With a `dimension` the vectors are turned into a space of as many by an orthonormal matrix, which keeps similarities.
    """
    rng = np.random.default_rng(SEED)
    weights = 1 / np.arange(1, LARGEST + 1.0) ** 2
    sizes = rng.choice(np.arange(1, LARGEST + 1), n, p=weights / weights.sum())
    sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), n)) + 1]
    person = np.repeat(np.arange(len(sizes)), sizes)[:n]
    rng.shuffle(person)
    centres, _ = people(model, len(sizes), SEED)
    chosen = rng.integers(0, len(model.lengths), n)
    turn = np.eye(len(model.mean), dtype=np.float32)
    if dimension:
        turn = np.linalg.qr(rng.standard_normal((dimension, len(model.mean))))[0].T.astype(np.float32)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (n, turn.shape[1]))
    for start in range(0, n, 50_000):
        rows = slice(start, min(start + 50_000, n))
        errors = rng.standard_normal((rows.stop - start, len(model.mean)), np.float32) @ model.errors
        vectors[rows] = unit(centres[person[rows]] + errors * model.lengths[chosen[rows], None]) @ turn
    faces = rng.choice([1, 2, 3, 4, 5], n, p=[2 / 3, 1 / 12, 1 / 12, 1 / 12, 1 / 12])
    photo = np.repeat(np.arange(n), faces)[:n]
    # Nobody is twice in a photo: a second face gets a photo of its own.
    _, first = np.unique(np.stack([photo, person]), axis=1, return_index=True)
    again = np.setdiff1d(np.arange(n), first)
    photo[again] = n + np.arange(len(again))
    for name, values in (("person", person), ("photo", photo), ("quality", model.quality[chosen])):
        np.save(folder / f"{name}.npy", values)


def scores(true: np.ndarray, found: np.ndarray) -> tuple[float, float, float]:
    """Pairwise precision, recall and F."""

    def pairs(numbers: np.ndarray) -> float:
        counts = np.unique(numbers, return_counts=True)[1].astype(np.float64)
        return float((counts * (counts - 1)).sum() / 2)

    right = pairs(true.astype(np.int64) * (found.max() + 1) + found)
    together, belonging = pairs(found), pairs(true)
    return right / together, right / belonging, 2 * right / (together + belonging)


class Stages:
    """Time of functions that are called one after the other, or in threads below another one."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            with self.during(name):
                return function(*arguments, **options)

        return call

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
            self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu


def peak() -> float:
    """The most memory that this process had, in GB; `getrusage` would tell that of the process it was started from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def one(folder: Path, way: str, thresholds: list[float]) -> None:
    """Group the faces of a folder in this process and print what it took, in JSON."""
    import scipy.sparse  # noqa: F401

    from facespace.clustering import algorithms, disk_graph
    from facespace.clustering.similarity_graph import similar_pairs

    stages = Stages()
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    photo, handicaps = np.load(folder / "photo.npy"), np.load(folder / "handicaps.npy")
    before = peak()
    work = folder / "stages"
    shutil.rmtree(work, ignore_errors=True)
    names = [
        (disk_graph, "_key", "inputs read"), (disk_graph, "_buckets", "buckets"), (disk_graph, "write_shard", "shards"),
        (disk_graph, "_neighbours", "neighbours"), (algorithms, "similar_pairs", "all pairs"),
        (algorithms, "whispers", "whispers"), (algorithms, "_agreement", "agreement"), (algorithms, "_split_weak_pairs", "pairs apart"),
    ]  # fmt: skip
    n_edges = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal n_edges
        graph = similar_pairs(*arguments, **options)
        n_edges = len(graph.first)
        return graph

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(algorithms, "similar_pairs", counted))
        for room, name, title in names:
            stack.enter_context(mock.patch.object(room, name, stages.timed(title, getattr(room, name))))
        stack.enter_context(mock.patch.object(algorithms, "_MANY", -1 if way == "buckets" else sys.maxsize))
        with stages.during("in all"):
            found = algorithms.cluster(
                vectors, threshold=thresholds[0], pair_threshold=thresholds[1], photos=photo, handicaps=handicaps,
                folder=work,
            )  # fmt: skip
    told = {name: [stages.wall[name], stages.cpu[name]] for name in stages.wall}
    disk = sum(path.stat().st_size for path in work.glob("*")) / 1e9
    if way == "buckets":
        n_edges = (work / "neighbours-others").stat().st_size // 8
    print(json.dumps({"stages": told, "peak": peak(), "before": before, "disk": disk, "edges": n_edges}))
    np.save(folder / f"{way}.npy", found)


def measure(folder: Path, title: str, ways: list[str], thresholds: tuple[float, float]) -> None:
    """One row for each way, and the time of its stages."""
    true = np.load(folder / "person.npy")
    sizes = np.bincount(true)
    print(
        f"\n{title}: {len(true):,} faces of {(sizes > 0).sum():,} people, {(sizes == 1).sum():,} of them with one; "
        f"similarity to reach {thresholds[0]:.4f}, of two faces alone {thresholds[1]:.4f}"
    )
    for way in ways:
        command = [sys.executable, __file__, "--one", str(folder), way, *map(str, thresholds)]
        told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        found = np.load(folder / f"{way}.npy")
        precision, recall, f = scores(true, found)
        wall, cpu = told["stages"].pop("in all")
        print(
            f"  {way:9} {wall:7.1f} s ({cpu:.1f} s), peak {told['peak']:.2f} GB ({told['before']:.2f} before), "
            f"{(np.bincount(found) > 1).sum():,} groups of several faces; precision {precision:.4f}, recall {recall:.4f}, "
            f"F {f:.4f}",
            flush=True,
        )
        print("    " + ", ".join(f"{name} {a:.1f} s ({b:.1f} s)" for name, (a, b) in told["stages"].items()))
        if told["edges"]:
            print(f"    {told['edges']:,} edges, {told['disk']:.2f} GB of files", flush=True)


def prepare(folder: Path, calibration: Any, quality: np.ndarray) -> tuple[float, float]:
    """Write the handicaps of the faces of a folder; returns the similarities to reach."""
    from facespace.clustering.algorithms import handicaps_of, pair_threshold_for, threshold_for

    np.save(folder / "handicaps.npy", handicaps_of(calibration, quality))
    least = threshold_for(calibration, len(quality))
    return least, max(least, pair_threshold_for(calibration, len(quality)))


def quantiles(values: np.ndarray) -> str:
    return " ".join(f"{value:.3f}" for value in np.quantile(values, (0.01, 0.1, 0.5, 0.9)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--faces", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dimension", type=int, help="rotate the vectors into a space with this number of dimensions")
    parser.add_argument(
        "--all-pairs-up-to", type=int, default=100_000, help="maximum number of faces that are compared all with all"
    )
    parser.add_argument("--folder", type=Path, help="folder for the files (default: a temporary folder)")
    parser.add_argument("--cache", type=Path, help="folder in which embeddings of the photos are stored between runs")
    parser.add_argument("--one", nargs=4, metavar=("FOLDER", "WAY", "T", "T2"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(Path(args.one[0]), args.one[1], [float(value) for value in args.one[2:]])
        return
    portraits, album, told = real_faces(args.shared, args.model, args.cache)
    calibration = facespace.Embedder.load(args.model).calibration
    assert calibration is not None
    print(f"{processor()}; load {os.getloadavg()[0]:.1f} at the beginning\n{told}")
    real = Faces(*(np.concatenate(both) for both in zip(portraits, album, strict=True)))
    model, same, different = fit(real)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        show_fit(model, same, different)
        for values, key in ((real.vectors.astype(np.float32), "vectors"), (np.arange(len(real.people)), "photo")):
            np.save(folder / f"{key}.npy", values)
        np.save(folder / "person.npy", np.unique(real.people, return_inverse=True)[1])
        measure(
            folder, "LFW view 1 and the album", ["all pairs", "buckets"], prepare(folder, calibration, real.quality)
        )
        for n in args.faces:
            draw(model, n, folder, args.dimension)
            ways = ["all pairs", "buckets"] if n <= args.all_pairs_up_to else ["buckets"]
            thresholds = prepare(folder, calibration, np.load(folder / "quality.npy"))
            dimension = args.dimension or len(model.mean)
            measure(folder, f"drawn, {dimension} numbers each", ways, thresholds)


def show_fit(model: Model, same: np.ndarray, different: np.ndarray) -> None:
    """How similar drawn pairs are, beside real ones."""
    drawn, others = of_drawn(model)
    print(f"kinds share {model.shared:.3f} of a person")
    print("similarity of pairs of one person at the quantiles 0.01, 0.1, 0.5, 0.9: "
          f"real {quantiles(same)}, drawn {quantiles(drawn)}")  # fmt: skip
    print("that 1e-2, 1e-3, 1e-4, 1e-5, 1e-6 of pairs of different people reach: real "
          + " ".join(f"{value:.3f}" for value in tail(different)) + ", drawn "
          + " ".join(f"{value:.3f}" for value in tail(others)), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
