"""Galleries of simulated people for the other benchmarks, filled quickly, with the same file content as many calls of `add`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from facespace.embedding.calibration import Calibration
from facespace.faces.input_spec import InputSpec
from facespace.identification.stores import tally
from facespace.identification.stores.sqlite import SQLiteStore

PIECE = 10_000  # people drawn at once
A_TRANSACTION = 100_000
KEPT_LOG, KEPT_TOUCHED = 1_000, 100_000  # what a store keeps of its last changes

Vectors = Callable[[int, int], np.ndarray]  # (first person, how many) -> (n,D) float32 of length 1


def drawn_vectors(dimension: int, seed: int = 0) -> Vectors:
    """People spread evenly over the sphere: what times and sizes need. Similarities of faces need more, see `strangers`."""

    def vectors(first: int, n: int) -> np.ndarray:
        x = np.random.default_rng((seed, first)).standard_normal((n, dimension), np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    return vectors


def name_of(person: int) -> str:
    return f"Person {person:08d}"


def fill(path: Path, n_people: int, dimension: int, vectors: Vectors | None = None, first: int = 0) -> None:
    """Enrol people of one photo each into the collection "default"; rows are those that `SqlStore.add` writes."""
    vectors = vectors or drawn_vectors(dimension)
    with contextlib.closing(SQLiteStore(path, create=True)) as store:
        connection = store._connection
        connection.execute("PRAGMA synchronous = OFF")  # a kill may spoil the file; it is made for this benchmark
        connection.execute("PRAGMA cache_size = -400000")
        for start in range(0, n_people, A_TRANSACTION):
            with store._write() as cursor:
                stop = min(start + A_TRANSACTION, n_people)
                for at in range(start, stop, PIECE):
                    _put(store, cursor, first + at, vectors(first + at, min(PIECE, stop - at)))
                counts = "UPDATE collection SET n_people = n_people + ?, n_photos = n_photos + ? WHERE id = ?"
                cursor.change(counts, (stop - start, stop - start, store._collection_id))
        with store._write() as cursor:
            tally.count_again(cursor, store._collection_id)


def _put(store: SQLiteStore, cursor: Any, first: int, vectors: np.ndarray) -> None:
    rng = np.random.default_rng((1, first))
    now, making, n = int(time.time()), store._making(cursor, "onnxruntime float32"), len(vectors)
    (held,) = cursor.rows("SELECT max(id) FROM person")[0]
    ids = range((held or 0) + 1, (held or 0) + 1 + n)
    digests = rng.bytes(32 * n)
    qualities = rng.uniform(0.5, 1, n).tolist()
    blobs = vectors.astype("<f2")
    people = "INSERT INTO person (id, collection, name, added, stamp) VALUES (?, ?, ?, ?, ?)"
    connection = store._connection
    connection.executemany(
        people, ((key, store._collection_id, name_of(first + k), now, tally.new_stamp()) for k, key in enumerate(ids))
    )
    connection.executemany(
        "INSERT INTO face (person, making, added, quality, digest, source, vector) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (key, making, now, qualities[k], digests[32 * k : 32 * k + 32], f"photos/{first + k:08d}.jpg", blobs[k].tobytes())
            for k, key in enumerate(ids)
        ),
    )  # fmt: skip
    seq = store._seq(cursor)
    connection.executemany("INSERT INTO touched VALUES (?, ?)", ((seq + k + 1, key) for k, key in enumerate(ids)))
    cursor.change("DELETE FROM touched WHERE seq <= ?", (seq + n - KEPT_TOUCHED,))
    cursor.change("UPDATE head SET seq = ? WHERE id = 1", (seq + n,))
    for key in ids[-KEPT_LOG:]:
        store._log(cursor, "enroll", "", json.dumps({"photo": key, "person": key, "new": True}))


@dataclasses.dataclass
class DrawnModel:
    """Stands in for an `Embedder` where vectors are drawn: the name of a model, and thresholds as a real one has them."""

    dimension: int
    calibration: Calibration
    name: str = "drawn"
    fingerprint: str = "f" * 64
    spec: InputSpec = InputSpec(size=112, template="arcface")  # noqa: RUF009
    runtime: str = "onnxruntime"
    precision: str = "float32"
    detector: str = "yunet"


def drawn_model(dimension: int) -> DrawnModel:
    rates = tuple(10.0**-k for k in range(1, 7))
    calibration = Calibration(
        model="drawn", fingerprint="f" * 64, runtime="onnxruntime", precision="float32", fmr=rates,
        similarity=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6), template_shift=((1, 0.0),), center=np.zeros(dimension, np.float32),
        n_photos=1, n_people=1,
    )  # fmt: skip
    return DrawnModel(dimension, calibration)


@contextlib.contextmanager
def timed(into: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    into.append(time.perf_counter() - start)


def status_kib(key: str, pid: int | None = None) -> int:
    """A line of /proc/PID/status, such as VmHWM, in KiB."""
    lines = Path(f"/proc/{pid or os.getpid()}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))
