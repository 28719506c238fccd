"""A gallery on PostgreSQL: searches with and without its index compared with the default store, enrolling, and the index.

People are simulated: normal numbers whose spread falls from the first to the last, so that strangers are about as similar as faces
are for SFace and FaceNet. Half of the probes are other photos of enrolled people (similarity 0.6), half are strangers. Give the
address of a server that is not used otherwise; the schema `facespace_benchmark` is dropped first and last.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from facespace.identification.people_index import PeopleIndex, Rows
from facespace.identification.stores.postgres import PostgresStore
from facespace.identification.stores.postgres_templates import _written
from facespace.identification.stores.protocol import Entry
from speed import processor


def drawn(n: int, dimension: int, seed: int) -> np.ndarray:
    spread = np.arange(1, dimension + 1, dtype=np.float32) ** -0.35
    vectors = np.random.default_rng(seed).standard_normal((n, dimension), np.float32) * spread
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def lines_of_people(vectors: np.ndarray, collection: int) -> tuple[Callable[[], Iterator[str]], ...]:
    def people() -> Iterator[str]:
        return (f"{key}\t{collection}\tPerson {key:08d}\t0\n" for key in range(1, len(vectors) + 1))

    def faces() -> Iterator[str]:
        return (
            f"{key}\t{key}\t1\t0\t\\\\x{key:064x}\t\t\\\\x{vector.tobytes().hex()}\n"
            for key, vector in enumerate(vectors, 1)
        )

    def templates() -> Iterator[str]:
        return (
            f"{collection}\t{key}\t0\t1\t0.75\t{text}\n" for key, text in enumerate(_written(vectors.astype("<f2")), 1)
        )

    return people, faces, templates


def fill(store: PostgresStore, vectors: np.ndarray) -> float:
    """The rows that as many calls of `add` would leave, but for the log; seconds."""
    begin = time.perf_counter()
    people, faces, templates = lines_of_people(vectors, store._collection_id)
    with store._write() as cursor:
        cursor.once("INSERT INTO making (text, actor) VALUES ('drawn', 'benchmark')")
        for columns, lines in (
            ("person (id, collection, name, added)", people),
            ("face (id, person, making, added, digest, source, vector)", faces),
            ("template (collection, person, place, n_photos, quality, vector)", templates),
        ):
            cursor._connection.run(f"COPY {columns} FROM STDIN", stream=lines())
        for table in ("person", "face"):
            cursor.once(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {len(vectors)})")
        cursor.once(f"UPDATE collection SET n_people = {len(vectors)}, n_photos = {len(vectors)}")
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--people", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--probes", type=int, default=200)
    args = parser.parse_args()
    print(f"{processor()}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f} before this began")
    separator = "&" if "?" in args.address else "?"
    address = f"{args.address}{separator}schema=facespace_benchmark&statement_timeout=3600"
    for n in args.people:
        drop(args.address)
        one(address, n, args.dimension, args.probes)
    drop(args.address)


def drop(address: str) -> None:
    from facespace.identification.stores.postgres_address import parse_address
    from facespace.identification.stores.postgres_connections import connect

    cursor = connect(parse_address(address))
    cursor.once("DROP SCHEMA IF EXISTS facespace_benchmark CASCADE")
    cursor.close()


def one(address: str, n: int, dimension: int, n_probes: int) -> None:
    store = PostgresStore(address, create=True)
    vectors = drawn(n, dimension, 0)
    filled = fill(store, vectors)
    with store._read() as cursor:
        ((version, extension),) = cursor.once(
            "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
        )
    print(f"\n{n:,} people, {dimension} numbers, PostgreSQL {version}, pgvector {extension} (filled in {filled:.0f} s)")
    half = vectors.astype(np.float16)
    ones = np.ones(n, np.int32), np.full(n, 0.75, np.float32)
    memory = PeopleIndex.build(dimension, [Rows(np.arange(1, n + 1), half, *ones)])
    rng = np.random.default_rng(1)
    own = vectors[rng.integers(0, n, n_probes // 2)] * 0.6 + drawn(n_probes // 2, dimension, 2) * 0.8
    probes = np.concatenate([own, drawn(n_probes - len(own), dimension, 3)])
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    truth = probes @ half.astype(np.float32).T
    nearest = truth.argsort(axis=1)[:, ::-1][:, :10] + 1
    store._builder = _Never()  # the index is made when its turn comes
    report("exact", store.nearest, memory, probes, nearest)
    begin = time.perf_counter()
    store.build_index(dimension)
    built = time.perf_counter() - begin
    with store._read() as cursor:
        rows = cursor.once(
            "SELECT sum(pg_relation_size(indexrelid)) FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a"
            " ON a.oid = c.relam WHERE indrelid = 'template'::regclass AND a.amname = 'hnsw'"
        )
    print(f"  index made in {built:.0f} s, {int(rows[0][0]) / 1e6:.0f} MB")
    report("index", store.nearest, memory, probes, nearest)
    with_index = enrolling(store, dimension, "with")
    with store._write() as cursor:
        cursor.once(f"DROP INDEX template_{store._collection_id}_{dimension}")
    without = enrolling(store, dimension, "without")
    print(f"  add, p50: {without:.1f} ms without the index, {with_index:.1f} ms with it", flush=True)
    store.close()


class _Never:
    def is_alive(self) -> bool:
        return True


def enrolling(store: PostgresStore, dimension: int, name: str) -> float:
    times = []
    for k, vector in enumerate(drawn(50, dimension, len(name))):
        begin = time.perf_counter()
        store.add(f"{name} {k}", Entry(vector, f"{k:064x}", "", "drawn"))
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1000


def report(what: str, search: Callable, memory: PeopleIndex, probes: np.ndarray, nearest: np.ndarray) -> None:
    times, theirs, found = [], [], []
    search(probes[:1], 10)
    memory.nearest(probes[:1], 10)
    for probe in probes:
        begin = time.perf_counter()
        found.append(search(probe[None], 10).people[0])
        middle = time.perf_counter()
        memory.nearest(probe[None], 10)
        times.append(middle - begin)
        theirs.append(time.perf_counter() - middle)
    half = len(probes) // 2
    first = np.array([one[0] for one in found]) == nearest[:, 0]
    ten = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, nearest, strict=True)])
    ms, memory_ms = statistics.median(times) * 1000, statistics.median(theirs) * 1000
    print(
        f"  {what}: p50 {ms:.1f} ms a probe, {ms / memory_ms:.1f} times the default store's index in memory ({memory_ms:.1f} ms);"
        f" recall@1 {first[:half].mean():.3f} of known, {first[half:].mean():.3f} of strangers, recall@10 {ten:.4f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
