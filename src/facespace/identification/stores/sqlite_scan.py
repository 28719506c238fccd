"""Reads all photos of a file in file order, with two threads and some thousands of rows at once.

Returning one row to Python takes a microsecond or two, so a million rows take seconds. Therefore SQLite concatenates the
vectors and numbers of some thousands of rows and checks their types, and returns them as one row of long values.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from facespace.embedding.calibration import UNKNOWN_QUALITY
from facespace.runtime.cores import usable_cores

_BATCH = 4096  # photos
_BATCH_BYTES = 8 << 20  # of the vectors of a batch
_QUEUE_SIZE = 4  # pieces that were read and not yet yielded
_MIN = -(2**63)

# Rows of people who are not removed. `fits` is 0 for a row with wrong types: then all rows are read one by one, which raises
# the error. SQLite sorts bytes after any text, and text after any number; comparing is faster than asking for the types.
_ROWS = """
SELECT face.id AS photo, person.id AS person, face.quality AS quality, face.vector AS vector,
  face.id >= 0 AND person.id >= 0 AND face.vector >= x'' AND length(face.vector) = ?
  AND (face.quality IS NULL OR face.quality BETWEEN 0 AND 1) AS fits
FROM face CROSS JOIN person ON person.id = face.person
WHERE face.id > ? AND face.id <= ? AND face.gone IS NULL AND person.gone IS NULL AND person.collection = ?
ORDER BY face.id LIMIT ?
"""
# A quality is returned as an integer number of these parts, which is exact for float32 and faster than a decimal fraction.
_QUALITY = 2**24
# `group_concat` joins bytes like text, without interpreting them.
_PIECE = f"""
SELECT count(*), sum(fits), max(photo), group_concat(photo), group_concat(person),
  group_concat(CAST(coalesce(quality, {UNKNOWN_QUALITY}) * {_QUALITY} + 0.5 AS INTEGER)),
  CAST(group_concat(vector, '') AS BLOB)
FROM ({_ROWS})
"""


class Photos(NamedTuple):
    """Photos by ascending id: ids, owners and qualities (n,), and vectors (n,D), whose length is not checked yet."""

    ids: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    qualities: npt.NDArray[np.float32]
    vectors: npt.NDArray[np.float16]


class Unfit(Exception):
    """A row has values of the wrong type or size."""


def scan(cursor: Any, collection: int, dimension: int, second_cursor: Callable[[Any], Any]) -> Iterator[Photos]:
    """Yield all photos of the collection's people, in pieces without a fixed order; raise `Unfit` if a row is wrong.

    `cursor` reads one state of the file. `second_cursor` takes it and returns a cursor on another connection that reads
    the same state, or None.
    """
    first, last = cursor.rows("SELECT min(id), max(id) FROM face")[0]
    if first is None:
        return
    other = second_cursor(cursor) if usable_cores() > 1 else None
    if other is None:
        yield from _pieces(cursor, collection, dimension, _MIN, last)
        return
    waiting: queue.Queue[Photos | BaseException | None] = queue.Queue(_QUEUE_SIZE)
    stopped = threading.Event()
    middle = (first + last) // 2
    with contextlib.closing(other):
        threads = [
            threading.Thread(target=_read, args=(waiting, stopped, one, collection, dimension, *part))
            for one, part in ((cursor, (_MIN, middle)), (other, (middle, last)))
        ]
        for thread in threads:
            thread.start()
        try:
            running = len(threads)
            while running:
                piece = waiting.get()
                if isinstance(piece, BaseException):
                    raise piece
                if piece is None:
                    running -= 1
                else:
                    yield piece
        finally:
            stopped.set()
            for thread in threads:
                while thread.is_alive():
                    with contextlib.suppress(queue.Empty):
                        waiting.get(timeout=0.01)
            for thread in threads:
                thread.join()


def _read(
    waiting: queue.Queue[Photos | BaseException | None],
    stopped: threading.Event,
    cursor: Any,
    collection: int,
    dimension: int,
    after: int,
    last: int,
) -> None:
    try:
        for piece in _pieces(cursor, collection, dimension, after, last):
            waiting.put(piece)
            if stopped.is_set():
                return
        waiting.put(None)
    except BaseException as error:
        waiting.put(error)


def _pieces(cursor: Any, collection: int, dimension: int, after: int, last: int) -> Iterator[Photos]:
    most = max(1, min(_BATCH, _BATCH_BYTES // (2 * max(1, dimension))))
    while True:
        values = (2 * dimension, after, last, collection, most)
        n, n_fit, end, photos, owners, qualities, vectors = cursor.rows(_PIECE, values)[0]
        if not n:
            return
        if n != n_fit or len(vectors) != n * 2 * dimension:
            raise Unfit
        yield Photos(
            np.fromstring(photos, np.int64, sep=","),
            np.fromstring(owners, np.int64, sep=","),
            (np.fromstring(qualities, np.int64, sep=",") / _QUALITY).astype(np.float32),
            np.frombuffer(vectors, "<f2").reshape(n, dimension).astype(np.float16, copy=False),
        )
        if n < most:
            return
        after = end
