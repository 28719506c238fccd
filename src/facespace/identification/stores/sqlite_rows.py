"""Reads a gallery's file into rows for the search index, one for each person or photo, and checks the counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.embedding.calibration import UNKNOWN_QUALITY
from facespace.identification.people_index import PeopleIndex, Rows, n_different
from facespace.identification.stores import tally
from facespace.identification.stores.sql import SqlStore
from facespace.identification.stores.sqlite_scan import Unfit, scan
from facespace.metrics.unit_vectors import to_unit_length

_BATCH = 4096  # photos
_VALUES_PER_STATEMENT = 500  # people in one statement
_MAX_BEHIND = 20_000  # changed people; after more changes all people are read again
_COUNTED_ON_OPENING = 4096  # galleries with at most this many photos are counted whenever a file is opened
_LAST = 256  # last changed people whose names are checked on opening
_FACES = (
    "SELECT face.person, face.vector, face.quality, person.extra, face.id FROM {}"
    " WHERE face.gone IS NULL AND person.gone IS NULL"
)


def read_index(store: SqlStore, cursor: Any, dimension: int, second_cursor: Callable[[Any], Any]) -> PeopleIndex:
    """Return the index of all people of the collection; raise `GalleryError` if the file is damaged.

    `second_cursor` takes a cursor and returns another one, for another thread, that reads the same state, or None.
    """
    n_people, n_photos = store._counts(cursor)
    # If few people have several photos, reading the photos in file order takes a third of the time.
    if n_photos > _BATCH and n_photos <= 1.25 * n_people and not store._sealing.encrypted:
        try:
            return PeopleIndex.build(dimension, _rows_in_file_order(store, cursor, dimension, second_cursor))
        except Unfit:  # reading row by row reports what is wrong
            pass
    return PeopleIndex.build(dimension, people_rows(store, cursor, dimension))


def _rows_in_file_order(
    store: SqlStore, cursor: Any, dimension: int, second_cursor: Callable[[Any], Any]
) -> Iterator[Rows]:
    """Yield all people of the collection in the order of their photos in the file; people with several photos last."""
    n_people, n_photos = store._counts(cursor)
    several = np.empty(0, np.int64)
    if n_photos != n_people:
        sql = "SELECT person FROM face INDEXED BY face_person WHERE gone IS NULL GROUP BY person HAVING count(*) > 1"
        several = np.array([store._integer(person) for (person,) in cursor.rows(sql)], np.int64)
    found: list[npt.NDArray[np.int64]] = []
    sum_ = 0
    for photos in scan(cursor, store._collection_id, dimension, second_cursor):
        store._check_lengths(photos.vectors)
        alone = ~np.isin(photos.owners, several, assume_unique=True) if len(several) else slice(None)
        owners, vectors = photos.owners[alone], photos.vectors[alone]
        found.append(owners)
        sum_ += tally.of_photos(photos.ids[alone], owners)
        yield Rows(owners, vectors, np.ones(len(owners), np.int32), photos.qualities[alone])
    seen_people = seen_photos = sum(map(len, found))
    if n_different(np.concatenate([*found, several])) != seen_people + len(several):
        raise store._damaged("a person has more photos than its index counts")
    default = store.setting("templates") or "mean"
    sql = f"{_FACES.format('face CROSS JOIN person ON person.id = face.person')} AND person.collection = ?"
    for start in range(0, len(several), _VALUES_PER_STATEMENT):
        part = several[start : start + _VALUES_PER_STATEMENT].tolist()
        chosen = f"{sql} AND face.person IN ({', '.join('?' * len(part))}) ORDER BY face.person, face.id"
        rows = cursor.rows(chosen, (store._collection_id, *part))
        piece, n = rows_of(store, rows, dimension, default)
        seen_people, seen_photos, sum_ = seen_people + n, seen_photos + len(rows), sum_ + _tally_of(rows)
        yield piece
    check_counts(store, cursor, seen_people, seen_photos, sum_)


def people_rows(store: SqlStore, cursor: Any, dimension: int) -> Iterator[Rows]:
    """Yield all people of the collection by ascending id, some thousands at a time; raise `GalleryError` for damage."""
    sql = f"{_FACES.format('person CROSS JOIN face ON face.person = person.id')} AND person.collection = ? ORDER BY person.id"
    answers = cursor.stream(sql, (store._collection_id,))
    default = store.setting("templates") or "mean"
    n_people = n_photos = sum_ = 0
    left: list[Any] = []
    while True:
        more = answers.fetchmany(_BATCH)
        rows = left + more
        cut = len(rows)
        # The photos of the last person may continue in the next batch.
        while more and cut and rows[cut - 1][0] == rows[-1][0]:
            cut -= 1
        rows, left = rows[:cut], rows[cut:]
        if not rows and more:
            continue
        if not rows:
            break
        piece, n = rows_of(store, rows, dimension, default)
        n_people, n_photos, sum_ = n_people + n, n_photos + len(rows), sum_ + _tally_of(rows)
        yield piece
    check_counts(store, cursor, n_people, n_photos, sum_)


def check_counts(store: SqlStore, cursor: Any, n_people: int, n_photos: int, sum_: int) -> None:
    """Raise `GalleryError` if the counts or the tally of the people that were read differ from those in the file."""
    expected = store._counts(cursor)
    # Reading the table instead of an index finds each person once, even one whose photos are missing.
    sql = "SELECT count(*), ifnull(sum(stamp), 0) FROM person NOT INDEXED WHERE collection = ? AND gone IS NULL"
    ((n_rows, stamps),) = cursor.rows(sql, (store._collection_id,))
    names = "SELECT count(*) FROM person INDEXED BY person_name WHERE collection = ? AND gone IS NULL"
    ((n_names,),) = cursor.rows(names, (store._collection_id,))
    if (n_people, n_photos) != expected:
        what = f"{n_people} people and {n_photos} photos, but its counts are {expected[0]} and {expected[1]}"
    elif not n_rows == n_names == n_people or tally.added(sum_, store._integer(stamps)) != store._tally(cursor):
        what = "its people are from two different states"
    else:
        return
    raise store._damaged(f"{what}; if it was copied during a change, copy it again with facespace gallery copy")


def check_on_opening(store: SqlStore, cursor: Any) -> None:
    """Check the names of the last changed people and, in a small collection, the counts; raise `GalleryError` for damage.

    The counts of larger collections are checked when all people are first read. The names of the people changed last must
    also be in the index of names. Checking earlier changes is not necessary: a copy that is read from beginning to end
    cannot mix pages from before and after them, as the pages are read after the head.
    """
    named = (
        "SELECT p.id, p.gone, (SELECT i.id FROM person i INDEXED BY person_name WHERE i.collection = p.collection"
        " AND i.name = p.name AND i.gone IS NULL) FROM (SELECT person FROM touched ORDER BY seq DESC LIMIT ?) t"
        " JOIN person p ON p.id = t.person"
    )
    if any((found == key) != (gone is None) for key, gone, found in cursor.rows(named, (_LAST,))):
        raise store._damaged("its index of names is from another state; was it copied during a change?")
    if store._counts(cursor)[1] > _COUNTED_ON_OPENING:
        return
    check_everybody(store, cursor)


def check_everybody(store: SqlStore, cursor: Any) -> None:
    """Read the owners of all photos, without vectors, and check them as `check_counts` does."""
    sql = (
        "SELECT face.person, NULL, NULL, NULL, face.id FROM person CROSS JOIN face ON face.person = person.id"
        " WHERE face.gone IS NULL AND person.gone IS NULL AND person.collection = ? ORDER BY person.id"
    )
    answers = cursor.stream(sql, (store._collection_id,))
    n_people = n_photos = sum_ = 0
    last = None
    while rows := answers.fetchmany(_BATCH):
        owners = [store._integer(row[0]) for row in rows]
        n_people += sum(one != before for one, before in zip(owners, [last, *owners], strict=False))
        n_photos, sum_, last = n_photos + len(rows), sum_ + _tally_of(rows), owners[-1]
    check_counts(store, cursor, n_people, n_photos, sum_)


def _tally_of(rows: Sequence[Any]) -> int:
    """Return the tally of rows (person, ..., id); the caller has checked that person is an integer, the table that id is."""
    return tally.of_photos([row[4] for row in rows], [row[0] for row in rows])


def changed_rows(
    store: SqlStore, cursor: Any, dimension: int, since: int, until: int
) -> tuple[npt.NDArray[np.int64], Rows] | None:
    """Return the ids of the people who changed after number `since`, and their rows; None if too many changed."""
    if until < since or until - since > _MAX_BEHIND:
        return None
    touched = cursor.rows("SELECT seq, person FROM touched WHERE seq > ?", (since,))
    if len(touched) != until - since:
        return None
    people = sorted({store._integer(person) for _, person in touched})
    default = store.setting("templates") or "mean"
    rows: list[Any] = []
    sql = f"{_FACES.format('face JOIN person ON person.id = face.person')} AND person.collection = ? AND face.person = ? ORDER BY face.id"
    for person in people:
        rows += cursor.rows(sql, (store._collection_id, person))
    piece, _ = rows_of(store, rows, dimension, default)
    return np.array(people, np.int64), piece


def rows_of(store: SqlStore, rows: Sequence[Any], dimension: int, default: str) -> tuple[Rows, int]:
    """Return the index rows of photos (person, vector, quality, extra), sorted by person, and the number of people."""
    vectors = store._vectors_of([row[1] for row in rows], dimension)
    ids = np.array([store._integer(row[0]) for row in rows], np.int64)
    qualities = np.array([UNKNOWN_QUALITY if row[2] is None else store._quality(row[2]) for row in rows], np.float32)
    starts = np.flatnonzero(np.diff(ids, prepend=-1))
    ends = np.append(starts[1:], len(ids))
    ones = np.ones(len(ids), np.int32)
    if len(starts) == len(ids):
        return Rows(ids, vectors, ones, qualities), len(starts)
    kept = np.zeros(len(ids), bool)
    counts = ones.copy()
    vectors = vectors.copy()
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        extra = rows[start][3]
        own = store._person_fields(extra).get("templates")
        if end - start == 1 or (own or default) == "best":
            kept[start:end] = True
            continue
        vectors[start] = to_unit_length(vectors[start:end].astype(np.float64).sum(axis=0))
        counts[start], qualities[start], kept[start] = end - start, qualities[start:end].mean(), True
    return Rows(ids[kept], vectors[kept], counts[kept], qualities[kept]), len(starts)
