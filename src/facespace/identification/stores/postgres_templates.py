"""Search in a gallery on PostgreSQL: the table `template` with one row for each person or photo, and its HNSW index.

A search takes candidates by the inner product of half-precision vectors, and compares them exactly as `people_index` does.
Without an index every row of the collection is compared, and the result is proven to be the nearest people: rounding the
probe to half precision changes no similarity by more than the length of the rounding error. With an index (Malkov and
Yashunin 2018, "Efficient and robust approximate nearest neighbor search using HNSW graphs") a person may be missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import GalleryError
from facespace.identification.people_index import Nearest, Rows
from facespace.identification.stores.postgres_connections import Cursor
from facespace.identification.stores.sql import SqlStore
from facespace.identification.stores.sql_tables import Row
from facespace.identification.stores.sqlite_rows import rows_of

# Collections with at least this many photos get an index; see benchmarks/results/postgres.txt.
INDEXED_FROM = 100_000
# More neighbours and a wider search than pgvector's defaults (16, 64 and 40): the vectors of different people are far from
# each other in all directions, which is the hardest case for such graphs.
_NEIGHBOURS, _BUILD_WIDTH, _WIDTH = 32, 200, 1000
_INDEX_DIMENSION_LIMIT = 4000  # pgvector's limit for halfvec
_CANDIDATES = 40
_ROUNDING = 1e-5  # the largest difference between the server's sums and ours
_BUILD_MEMORY = (64, 2048)  # megabytes
_ON = {True: "on", False: "off"}
_BATCH = 500  # people whose photos are read at once
_LOCK = 0x696E6478  # "indx": the advisory lock, with a collection's id, for building its index


def update_templates(store: SqlStore, cursor: Cursor, people: Sequence[int]) -> None:
    """Recompute the rows of these people in the table `template`, within the current transaction."""
    default = store.setting("templates") or "mean"
    for start in range(0, len(people), _BATCH):
        part = [int(one) for one in people[start : start + _BATCH]]
        collection = store._collection_id
        cursor.change("DELETE FROM template WHERE collection = ? AND person = ANY(?::bigint[])", (collection, part))
        faces = cursor.rows(
            "SELECT face.person, face.vector, face.quality, person.extra FROM face JOIN person ON person.id = face.person"
            " WHERE face.gone IS NULL AND person.gone IS NULL AND person.collection = ? AND face.person = ANY(?::bigint[])"
            " ORDER BY face.person, face.id",
            (collection, part),
        )
        if faces:
            rows, _ = rows_of(store, faces, len(faces[0][1]) // 2, default)
            _insert(cursor, collection, rows)


def update_all_templates(store: SqlStore, cursor: Cursor) -> None:
    """Recompute the search rows of all people with several photos, after the setting `templates` was changed.

    People with a single photo have the same row with every setting.
    """
    rows = cursor.rows(
        "SELECT face.person FROM face JOIN person ON person.id = face.person WHERE face.gone IS NULL AND person.gone IS NULL"
        " AND person.collection = ? GROUP BY face.person HAVING count(*) > 1",
        (store._collection_id,),
    )
    update_templates(store, cursor, [person for (person,) in rows])


def _insert(cursor: Cursor, collection: int, rows: Rows) -> None:
    places = np.arange(len(rows.ids)) - np.searchsorted(rows.ids, rows.ids)
    cursor.rows(
        "INSERT INTO template (collection, person, place, n_photos, quality, vector) SELECT ?, * FROM"
        " unnest(?::bigint[], ?::int[], ?::int[], ?::real[], ?::halfvec[])",
        (
            collection, rows.ids.tolist(), places.tolist(), rows.n_photos.tolist(), rows.qualities.tolist(),
            list(_written(rows.vectors)),
        ),
    )  # fmt: skip


def _written(vectors: npt.NDArray[np.float16]) -> Iterator[str]:
    """Yield vectors in pgvector's text format; five digits are enough to distinguish all float16 numbers."""
    for vector in vectors.tolist():
        yield f"[{','.join([f'{number:.5g}' for number in vector])}]"


def nearest(store: SqlStore, cursor: Cursor, probes: npt.NDArray[np.float32], k: int) -> tuple[Nearest, bool]:
    """Return the k most similar people of each probe (N,D), and whether the collection needs an index."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    probes = np.ascontiguousarray(probes, np.float32)
    n, dimension = probes.shape
    found = Nearest(
        np.full((n, k), -1, np.int64), np.full((n, k), -np.inf, np.float32),
        np.zeros((n, k), np.int32), np.zeros((n, k), np.float32),
    )  # fmt: skip
    n_people, n_photos = store._counts(cursor)
    if not n or not n_people:
        return found, False
    indexed = _index_state(cursor, _index_name(store, dimension)) is True
    rounded = probes.astype(np.float16)
    errors = np.linalg.norm(probes - rounded.astype(np.float32), axis=1) + _ROUNDING
    for place, probe in enumerate(probes):
        most, by_index = _CANDIDATES + 4 * k, indexed
        while True:
            rows = _candidates(store, cursor, rounded[place], most, by_index)
            parts = Nearest(*(values[place] for values in found))
            n_found, last = _rank(store, probe, rows, parts)
            n_best = min(k, n_people)
            # Except for rounding, all other people are at most as similar as the last candidate.
            proven = len(rows) < most or last + errors[place] < parts.similarities[n_best - 1]
            if n_found >= n_best and (by_index or proven):
                break
            if not by_index and len(rows) < most:
                raise store._damaged(f"{n_found} people in its search table, but it counts {n_people}")
            most, by_index = 4 * most, False
    return found, n_photos >= INDEXED_FROM and not indexed and dimension <= _INDEX_DIMENSION_LIMIT


def _candidates(store: SqlStore, cursor: Cursor, probe: npt.NDArray[np.float16], most: int, indexed: bool) -> list[Row]:
    """Return the `most` rows with the largest inner product with the probe (D,).

    A row is (person, n_photos, quality, vector, inner product).
    """
    # Override the planner's choice between the index and a scan.
    cursor.rows(
        "SELECT set_config('enable_seqscan', ?, true), set_config('enable_sort', ?, true), set_config('enable_indexscan', ?, true),"
        " set_config('hnsw.ef_search', ?, true), set_config('hnsw.iterative_scan', 'relaxed_order', true)",
        (*(_ON[value] for value in (not indexed, not indexed, indexed)), str(min(max(_WIDTH, most), 1000))),
    )
    # The planner uses the index only if the dimension and the collection are literals, as in the index's definition.
    dimension, (text,) = len(probe), _written(probe[None])
    vector = f"vector::halfvec({dimension})" if indexed else "vector"
    return cursor.rows(
        "SELECT person, n_photos, quality, substr(halfvec_send(vector), 5), -far FROM (SELECT person, place, n_photos, quality,"
        f" vector, {vector} <#> ?::halfvec AS far FROM template WHERE collection = {store._collection_id:d}"
        f" ORDER BY {vector} <#> ?::halfvec LIMIT ?) nearest ORDER BY person, place",
        (text, text, most),
    )


def _rank(store: SqlStore, probe: npt.NDArray[np.float32], rows: Sequence[Row], best: Nearest) -> tuple[int, float]:
    """Write the best of the candidates into `best` (k,); return their number of people and the smallest inner product."""
    if not rows:
        return 0, -np.inf
    ids = np.array([row[0] for row in rows], np.int64)
    blob = b"".join(row[3] for row in rows)
    if len(blob) != 2 * len(rows) * len(probe):
        raise store._damaged(f"an embedding is not of {len(probe)} numbers")
    # The server sends the most significant byte first.
    vectors = np.frombuffer(blob, ">f2").reshape(len(rows), -1).astype(np.float32)
    similarities = np.einsum("ij,j->i", vectors, probe)
    order = np.lexsort((ids, -similarities))
    _, first = np.unique(ids[order], return_index=True)
    chosen = order[np.sort(first)[: len(best.people)]]
    n = len(chosen)
    best.people[:n], best.similarities[:n] = ids[chosen], similarities[chosen]
    best.n_photos[:n] = [rows[one][1] for one in chosen]
    best.qualities[:n] = [rows[one][2] for one in chosen]
    return len(first), min(float(row[4]) for row in rows)


# The index


def _index_name(store: SqlStore, dimension: int) -> str:
    return f"template_{store._collection_id:d}_{dimension:d}"


def _index_state(cursor: Cursor, name: str) -> Any:
    """Return True for a complete index, False for an unfinished index, None if there is no index."""
    rows = cursor.rows(
        "SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE c.relname = ? AND i.indrelid = 'template'::regclass",
        (name,),
    )
    return rows[0][0] if rows else None


def build_index(store: SqlStore, cursor: Cursor, dimension: int) -> bool:
    """Build the index of a collection, outside of a transaction; return False if another process is building it."""
    if not 1 <= dimension <= _INDEX_DIMENSION_LIMIT:
        raise ValueError(f"dimension must be from 1 to {_INDEX_DIMENSION_LIMIT} to build an index, got {dimension}")
    name, collection = _index_name(store, dimension), store._collection_id
    # Do not wait for the lock: PostgreSQL completes an index only after all waiting transactions have ended.
    if not cursor.once("SELECT pg_try_advisory_lock(?::int, ?::int)", (_LOCK, collection % 2**31))[0][0]:
        return False
    state = _index_state(cursor, name)
    if state is True:
        return True
    ((n_rows,),) = cursor.once("SELECT count(*) FROM template WHERE collection = ?", (collection,))
    # pgvector builds several times faster if the graph fits into memory.
    needed = n_rows * (2 * dimension + 8 * _NEIGHBOURS * 2 + 200) >> 20
    megabytes = min(max(needed, _BUILD_MEMORY[0]), _BUILD_MEMORY[1])
    cursor.once("SELECT set_config('maintenance_work_mem', ?, false)", (f"{megabytes}MB",))
    sql = (
        f"CREATE INDEX CONCURRENTLY {name} ON template USING hnsw ((vector::halfvec({dimension})) halfvec_ip_ops)"
        f" WITH (m = {_NEIGHBOURS}, ef_construction = {_BUILD_WIDTH}) WHERE collection = {collection:d}"
    )
    for workers in (None, 0):
        if workers is not None:
            cursor.once("SET max_parallel_maintenance_workers = 0")
        if state is not None:  # a build was interrupted
            cursor.once(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        try:
            cursor.once(sql)
        except GalleryError as error:
            # Containers have little shared memory, which only several workers need.
            if workers == 0 or "shared memory" not in str(error):
                raise
            state = False
        else:
            break
    return True
