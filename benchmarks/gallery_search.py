"""The most similar people among 100 thousand and a million: time per probe, recall and memory, compared with faiss, usearch and NumPy.

Galleries contain real faces and simulated ones. Of LFW view 1, every second person with several photos is known: the first
photo is enrolled, the others are probes. The photos of the other people define the distribution of the simulated ones: see `drawn`.
Recall is relative to comparing with everybody: the share of probes whose most similar person is found, and the share of their
ten most similar ones. It is measured with one to eight probes per call; many at once are compared with everybody.

Times are medians of calls in this process, with all methods in rotation in each round. faiss (IndexFlatIP, float32), usearch
(`search(..., exact=True)`, float16, no copy) and a product of matrices (NumPy, float32) compare with everybody; HNSW of
usearch (float16, its defaults) does not, and is built only up to `--hnsw` people, because that takes long. Peers that are
not installed are left out: pip install faiss-cpu usearch.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import facespace
from facespace.identification.people_index import PeopleIndex, Rows
from facespace.runtime.cores import usable_cores
from speed import processor

BATCH = 4096


class Real(NamedTuple):
    """Embeddings of real faces: one of each known person, others of theirs, and those of other people."""

    enrolled: np.ndarray
    probes: np.ndarray
    owners: np.ndarray
    others: np.ndarray


def real_faces(shared: Path, model: str, n_photos: int, kept: Path | None) -> Real:
    """Of `n_photos` photos of LFW view 1; from the file `kept`, if it is there."""
    path = None if kept is None else kept / f"{model}.npz"
    if path is None or not path.exists():
        people = [sorted(folder.iterdir()) for folder in sorted((shared / "data/lfw_view1/images").iterdir())]
        photos = [(n, photo) for n, of_one in enumerate(p for p in people if len(p) > 1) for photo in of_one][:n_photos]
        embedder = facespace.Embedder.load(model)
        detector = facespace.create_detector(embedder.detector)
        found = facespace.process([photo for _, photo in photos], detector, embedder, largest=True)
        pairs = [(n, one.embeddings[0]) for (n, _), one in zip(photos, found, strict=True) if len(one.embeddings)]
        owners, vectors = np.array([n for n, _ in pairs]), np.array([np.asarray(vector) for _, vector in pairs])
        if path is not None:
            np.savez(path, owners=owners, vectors=vectors)
    else:
        with np.load(path) as arrays:
            owners, vectors = arrays["owners"], arrays["vectors"]
    known = owners % 2 == 0
    _, first = np.unique(owners, return_index=True)
    is_first = np.isin(np.arange(len(owners)), first)
    enrolled, people = vectors[known & is_first], owners[known & is_first]
    probes = known & ~is_first & np.isin(owners, people)
    return Real(enrolled, vectors[probes], np.searchsorted(people, owners[probes]), vectors[~known])


def drawn(real: np.ndarray, n: int) -> Iterator[np.ndarray]:
    """`n` float16 vectors of length 1 in batches: Gaussian with the mean and covariance of `real`, and half of them added
    to a real one, with weights w of the real and √(1 − w²) of the drawn, w uniform in [0, 1]: look-alikes of any degree,
    closer to each other than real people are, and so harder to tell apart.
    """
    rng = np.random.default_rng(0)
    mean, covariance = real.mean(axis=0), np.cov(real.T)
    root = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(covariance))).astype(np.float32)
    for start in range(0, n, BATCH):
        size = min(BATCH, n - start)
        vectors = rng.standard_normal((size, len(mean)), np.float32) @ root.T + mean
        weights = rng.uniform(0, 1, (size, 1)).astype(np.float32)
        weights[rng.random(size) < 0.5] = 0
        vectors = weights * real[rng.integers(len(real), size=size)] + np.sqrt(1 - weights**2) * vectors
        yield (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def batches(vectors: np.ndarray) -> Iterator[Rows]:
    for start in range(0, len(vectors), BATCH):
        part = vectors[start : start + BATCH]
        ids = np.arange(start, start + len(part))
        yield Rows(ids, part, np.ones(len(part), np.int32), np.full(len(part), 0.5, np.float32))


def exact(vectors: np.ndarray, probes: np.ndarray, k: int = 10) -> np.ndarray:
    """The rows (N,k) most similar to each probe, best first."""
    best = np.full((len(probes), k), -np.inf, np.float32)
    rows = np.zeros((len(probes), k), np.int64)
    for start in range(0, len(vectors), 4 * BATCH):
        part = probes @ vectors[start : start + 4 * BATCH].astype(np.float32).T
        high = np.argpartition(-part, k, axis=1)[:, :k]
        both = np.concatenate([best, np.take_along_axis(part, high, axis=1)], axis=1)
        both_rows = np.concatenate([rows, high + start], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :k]
        best, rows = np.take_along_axis(both, order, axis=1), np.take_along_axis(both_rows, order, axis=1)
    return rows


def recalls(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Of the first and of all of `truth` (N,k), the shares that stand first, and anywhere, in `found`."""
    first = float((found[:, 0] == truth[:, 0]).mean())
    return first, float(np.mean([np.isin(row, ours).mean() for row, ours in zip(truth, found, strict=True)]))


def peers(vectors: np.ndarray) -> dict[str, Callable[[np.ndarray], object]]:
    """What compares probes with everybody, by name."""
    methods: dict[str, Callable[[np.ndarray], object]] = {}
    cores = usable_cores()
    try:
        faiss = importlib.import_module("faiss")
        faiss.omp_set_num_threads(cores)
        flat = faiss.IndexFlatIP(vectors.shape[1])
        for start in range(0, len(vectors), 16 * BATCH):
            flat.add(vectors[start : start + 16 * BATCH].astype(np.float32))
        methods[f"faiss {faiss.__version__} flat"] = lambda probes: flat.search(probes, 1)
        expanded = faiss.rev_swig_ptr(flat.get_xb(), vectors.size).reshape(vectors.shape)
    except ImportError:
        expanded = vectors.astype(np.float32)
    try:
        usearch = importlib.import_module("usearch.index")
        version, metric = importlib.import_module("usearch").__version__, usearch.MetricKind.IP
        methods[f"usearch {version} exact"] = lambda probes: usearch.search(
            vectors, probes.astype(np.float16), 1, metric, exact=True, threads=cores
        )
    except ImportError:
        pass
    methods[f"NumPy {np.__version__} product"] = lambda probes: (probes @ expanded.T).argmax(axis=1)
    return methods


def hnsw(
    vectors: np.ndarray, probes: np.ndarray, truth: np.ndarray
) -> tuple[str, Callable[[np.ndarray], object]] | None:
    try:
        usearch = importlib.import_module("usearch.index")
    except ImportError:
        return None
    start = time.perf_counter()
    index = usearch.Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    index.add(np.arange(len(vectors)), vectors, threads=usable_cores())
    built = time.perf_counter() - start
    found = index.search(probes.astype(np.float16), 10).keys.astype(np.int64)
    first, ten = recalls(found, truth)
    print(
        f"usearch HNSW: built in {built:.0f} s, {index.memory_usage / 1e6:.0f} MB, recall {first:.4f}, {ten:.4f} of ten"
    )
    return "usearch HNSW", lambda values: index.search(values.astype(np.float16), 1)


def times(methods: dict[str, Callable[[np.ndarray], object]], probes: np.ndarray, rounds: int) -> None:
    """Print the medians of one probe and of 64 a call, in milliseconds a probe, and their ratios to the first method."""
    one: dict[str, list[float]] = {name: [] for name in methods}
    many: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(rounds):
        for name, search in methods.items():
            for n, kept in ((1, one[name]), (64, many[name])):
                for call in range(5 if n == 1 else 1):
                    part = probes[[(turn * 64 + call * 7 + m) % len(probes) for m in range(n)]]
                    start = time.perf_counter()
                    search(part)
                    kept.append((time.perf_counter() - start) * 1e3 / n)
    print(f"{'':28}{'one, ms':>10}{'':>8}{'of 64, ms':>12}")
    ours = next(iter(methods))
    for name in methods:
        a, b = statistics.median(one[name]), statistics.median(many[name])
        ratios = a / statistics.median(one[ours]), b / statistics.median(many[ours])
        print(f"{name:28}{a:10.2f}{ratios[0]:7.1f}x{b:12.2f}{ratios[1]:7.1f}x", flush=True)


def memory(dimension: int, n: int) -> None:
    """Build an index of drawn vectors that come batch by batch, search it, and print the peak of this process."""

    def arriving() -> Iterator[Rows]:
        rng = np.random.default_rng(0)
        for start in range(0, n, BATCH):
            vectors = rng.standard_normal((min(BATCH, n - start), dimension), np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            for rows in batches(vectors.astype(np.float16)):
                yield rows._replace(ids=rows.ids + start)

    index = PeopleIndex.build(dimension, arriving())
    index.nearest(np.full((64, dimension), dimension**-0.5, np.float32), 10)
    # getrusage would count what the process that started this one had.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--models", nargs="+", default=["casia-webface", "sface"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--photos", type=int, default=1800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hnsw", type=int, default=100_000, help="maximum number of people for HNSW")
    parser.add_argument(
        "--keep", type=Path, help="folder in which embeddings of the real faces are stored between runs"
    )
    parser.add_argument(
        "--memory", nargs=2, type=int, metavar=("NUMBERS", "PEOPLE"), help="measure memory in this process"
    )
    args = parser.parse_args()
    if args.memory:
        memory(*args.memory)
        return
    print(f"{processor()}, {usable_cores()} cores, load before {os.getloadavg()[0]:.1f}")
    for model in args.models:
        real = real_faces(args.shared, model, args.photos, args.keep)
        dimension = real.probes.shape[1]
        print(
            f"\n{model}, {dimension} numbers: {len(real.enrolled)} real people enrolled, {len(real.probes)} probes of them, "
            f"{len(real.others)} photos of others"
        )
        for size in args.sizes:
            vectors = np.empty((size, dimension), np.float16)
            # Real people stand at random places among the drawn.
            places = np.random.default_rng(1).permutation(size)
            mine, start = np.sort(places[: len(real.enrolled)]), 0
            rest = np.setdiff1d(np.arange(size), mine)
            vectors[mine] = real.enrolled
            for part in drawn(real.others, len(rest)):
                vectors[rest[start : start + len(part)]] = part
                start += len(part)
            begin = time.perf_counter()
            index = PeopleIndex.build(dimension, batches(vectors))
            built = time.perf_counter() - begin
            truth = exact(vectors, real.probes)
            # Eight at a time, as many more are compared with everybody.
            found = np.concatenate(
                [index.nearest(real.probes[n : n + 8], 10).people for n in range(0, len(real.probes), 8)]
            )
            first, ten = recalls(found, truth)
            right, should = (np.mean(people[:, 0] == mine[real.owners]) for people in (found, truth))
            command = [sys.executable, __file__, "--memory", str(dimension), str(size)]
            peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(
                f"\n{size:,} people: built in {built:.2f} s; peak of a process {peak / 1e6:,.0f} MB, vectors alone "
                f"{vectors.nbytes / 1e6:,.0f} MB\nrecall {first:.4f} of the most similar person, {ten:.4f} of the ten "
                f"most similar; the right person is first for {right:.4f} of probes, compared with "
                f"everybody {should:.4f}",
                flush=True,
            )
            methods: dict[str, Callable[[np.ndarray], object]] = {
                "facespace": lambda probes, index=index: index.nearest(probes, 1)
            }
            methods |= peers(vectors)
            if size <= args.hnsw and (graph := hnsw(vectors, real.probes, truth)):
                methods[graph[0]] = graph[1]
            times(methods, real.probes, args.rounds)
            del methods, index
    print(f"\nload after {os.getloadavg()[0]:.1f}; other programs on the cores lengthen every time")


if __name__ == "__main__":
    main()
