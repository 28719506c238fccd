"""The rows of a gallery's file as a search index takes them: one a person, or one a photo."""

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

_A_TIME = 4096  # photos
_IN_ONE = 500  # people in one statement
_MAX_BEHIND = 20_000  # changed people, beyond which everybody is read again
_FEW = 4096  # photos that are counted whenever a file is opened
_LAST = 256  # changed people whose names are looked up then
_FACES = (
    "SELECT face.person, face.vector, face.quality, person.extra, face.id FROM {}"
    " WHERE face.gone IS NULL AND person.gone IS NULL"
)


def everybody(store: SqlStore, cursor: Any, dimension: int, beside: Callable[[Any], Any]) -> PeopleIndex:
    """The index of everybody of the collection; `GalleryError` where the file is damaged.

    `beside` gives another cursor that reads the state which a cursor reads, for another thread, or None.
    """
    n_people, n_photos = store._counts(cursor)
    # Where few have several photos, these are read as they stand in the file, which takes a third of the time.
    if n_photos > _A_TIME and n_photos <= 1.25 * n_people and not store._sealing.encrypted:
        try:
            return PeopleIndex.build(dimension, _rows_as_they_stand(store, cursor, dimension, beside))
        except Unfit:  # to be read row by row, which tells what is wrong
            pass
    return PeopleIndex.build(dimension, people_rows(store, cursor, dimension))


def _rows_as_they_stand(store: SqlStore, cursor: Any, dimension: int, beside: Callable[[Any], Any]) -> Iterator[Rows]:
    """Everybody of the collection, by the order of the photos in the file, those who have several photos last."""
    n_people, n_photos = store._counts(cursor)
    several = np.empty(0, np.int64)
    if n_photos != n_people:
        sql = "SELECT person FROM face INDEXED BY face_person WHERE gone IS NULL GROUP BY person HAVING count(*) > 1"
        several = np.array([store._integer(person) for (person,) in cursor.rows(sql)], np.int64)
    found: list[npt.NDArray[np.int64]] = []
    sum_ = 0
    for photos in scan(cursor, store._collection_id, dimension, beside):
        store._check_lengths(photos.vectors)
        alone = ~np.isin(photos.owners, several, assume_unique=True) if len(several) else slice(None)
        owners, vectors = photos.owners[alone], photos.vectors[alone]
        found.append(owners)
        sum_ += tally.of_photos(photos.ids[alone], owners)
        yield Rows(owners, vectors, np.ones(len(owners), np.int32), photos.qualities[alone])
    seen_people = seen_photos = sum(map(len, found))
    if n_different(np.concatenate([*found, several])) != seen_people + len(several):
        raise store._damaged("a person has several photos where it counts one")
    default = store.setting("templates") or "mean"
    sql = f"{_FACES.format('face CROSS JOIN person ON person.id = face.person')} AND person.collection = ?"
    for start in range(0, len(several), _IN_ONE):
        part = several[start : start + _IN_ONE].tolist()
        chosen = f"{sql} AND face.person IN ({', '.join('?' * len(part))}) ORDER BY face.person, face.id"
        rows = cursor.rows(chosen, (store._collection_id, *part))
        piece, n = rows_of(store, rows, dimension, default)
        seen_people, seen_photos, sum_ = seen_people + n, seen_photos + len(rows), sum_ + _tally_of(rows)
        yield piece
    check_counts(store, cursor, seen_people, seen_photos, sum_)


def people_rows(store: SqlStore, cursor: Any, dimension: int) -> Iterator[Rows]:
    """Everybody of the collection, by ascending id, some thousands at a time; `GalleryError` where the file is damaged."""
    sql = f"{_FACES.format('person CROSS JOIN face ON face.person = person.id')} AND person.collection = ? ORDER BY person.id"
    answers = cursor.stream(sql, (store._collection_id,))
    default = store.setting("templates") or "mean"
    n_people = n_photos = sum_ = 0
    left: list[Any] = []
    while True:
        more = answers.fetchmany(_A_TIME)
        rows = left + more
        cut = len(rows)
        # The last person of the piece may go on in the next one.
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
    """`GalleryError` where the people and photos that were read, of that tally, are not those that the file says it has."""
    expected = store._counts(cursor)
    # Through the table and not an index: each person once, also one whose photos are not there.
    sql = "SELECT count(*), ifnull(sum(stamp), 0) FROM person NOT INDEXED WHERE collection = ? AND gone IS NULL"
    ((n_rows, stamps),) = cursor.rows(sql, (store._collection_id,))
    names = "SELECT count(*) FROM person INDEXED BY person_name WHERE collection = ? AND gone IS NULL"
    ((n_names,),) = cursor.rows(names, (store._collection_id,))
    if (n_people, n_photos) != expected:
        what = f"{n_people} people and {n_photos} photos where it counts {expected[0]} and {expected[1]}"
    elif not n_rows == n_names == n_people or tally.added(sum_, store._integer(stamps)) != store._tally(cursor):
        what = "some of its people are those of another moment than the rest"
    else:
        return
    raise store._damaged(f"{what}; was it copied while somebody wrote? Copy it again by facespace gallery copy")


def check_on_opening(store: SqlStore, cursor: Any) -> None:
    """The same where few photos are in the collection; larger ones are checked when everybody is read first.

    Of who was changed last, the name must be in its index too: of another change pages from before and from after it are not
    together in a copy that was read from begin to end, as each is newer than the head.
    """
    named = (
        "SELECT p.id, p.gone, (SELECT i.id FROM person i INDEXED BY person_name WHERE i.collection = p.collection"
        " AND i.name = p.name AND i.gone IS NULL) FROM (SELECT person FROM touched ORDER BY seq DESC LIMIT ?) t"
        " JOIN person p ON p.id = t.person"
    )
    if any((found == key) != (gone is None) for key, gone, found in cursor.rows(named, (_LAST,))):
        raise store._damaged("its index of names is of another moment; was it copied while somebody wrote?")
    if store._counts(cursor)[1] > _FEW:
        return
    check_everybody(store, cursor)


def check_everybody(store: SqlStore, cursor: Any) -> None:
    """Read who owns which photo, without vectors, and check it as `check_counts` does."""
    sql = (
        "SELECT face.person, NULL, NULL, NULL, face.id FROM person CROSS JOIN face ON face.person = person.id"
        " WHERE face.gone IS NULL AND person.gone IS NULL AND person.collection = ? ORDER BY person.id"
    )
    answers = cursor.stream(sql, (store._collection_id,))
    n_people = n_photos = sum_ = 0
    last = None
    while rows := answers.fetchmany(_A_TIME):
        owners = [store._integer(row[0]) for row in rows]
        n_people += sum(one != before for one, before in zip(owners, [last, *owners], strict=False))
        n_photos, sum_, last = n_photos + len(rows), sum_ + _tally_of(rows), owners[-1]
    check_counts(store, cursor, n_people, n_photos, sum_)


def _tally_of(rows: Sequence[Any]) -> int:
    """The tally of photos (person, ..., id) of which the first is known to be an integer, as the last is by the table."""
    return tally.of_photos([row[4] for row in rows], [row[0] for row in rows])


def changed_rows(
    store: SqlStore, cursor: Any, dimension: int, since: int, until: int
) -> tuple[npt.NDArray[np.int64], Rows] | None:
    """Who changed after `since`, and their rows as they are now; None where too many did."""
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
    """Index rows of photos (person, vector, quality, extra) that stand person by person; and how many people these are."""
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
        own = store._known_of_person(extra).get("templates")
        if end - start == 1 or (own or default) == "best":
            kept[start:end] = True
            continue
        vectors[start] = to_unit_length(vectors[start:end].astype(np.float64).sum(axis=0))
        counts[start], qualities[start], kept[start] = end - start, qualities[start:end].mean(), True
    return Rows(ids[kept], vectors[kept], counts[kept], qualities[kept]), len(starts)
