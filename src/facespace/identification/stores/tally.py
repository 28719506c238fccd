"""A checksum of a collection, which detects files that mix two states of it.

A copy of a file that was made during a change may contain some pages from before it and some from after it, and the counts
may still agree. So the collection stores the sum, modulo 2^62, of a hash of each photo's id and owner, and of a random stamp
for each person, which changes whenever the person's fields change. Code that reads all people compares this sum.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_MASK = 2**62 - 1


def of_photos(photos: npt.NDArray[np.int64] | Sequence[int], owners: npt.NDArray[np.int64] | Sequence[int]) -> int:
    """Return the contribution of photos with these ids (n,) and owners (n,) to the tally.

    The hash is the last steps of SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number
    generators").

    >>> of_photos([7, 8], [1, 2]) == added(of_photos([8], [2]), of_photos([7], [1]))
    True
    >>> of_photos([7, 8], [1, 2]) == of_photos([7, 8], [2, 1])
    False
    """
    mixed = np.asarray(photos, np.int64).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = mixed ^ (np.asarray(owners, np.int64).astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((mixed ^ (mixed >> np.uint64(31))).sum(dtype=np.uint64)) & _MASK


def new_stamp() -> int:
    """Return a new stamp for a person: 32 random bits, which take four bytes in the file."""
    return secrets.randbits(32)


def added(tally: int, *changes: int) -> int:
    """Return a tally after adding `changes`, which may be negative.

    >>> added(added(5, -7), 7)
    5
    """
    return (tally + sum(changes)) & _MASK


def count_again(cursor: Any, collection: int) -> None:
    """Compute and store the counts and the tally of a collection from its rows; `cursor` is a `sql_tables.Cursor`."""
    stamps = cursor.rows("SELECT stamp FROM person WHERE collection = ? AND gone IS NULL", (collection,))
    rows = cursor.rows(
        "SELECT face.id, face.person FROM face JOIN person ON person.id = face.person"
        " WHERE person.collection = ? AND person.gone IS NULL AND face.gone IS NULL",
        (collection,),
    )
    pairs = np.array(rows, np.int64).reshape(len(rows), 2)
    tally = added(of_photos(pairs[:, 0], pairs[:, 1]), *(stamp for (stamp,) in stamps))
    sql = "UPDATE collection SET n_people = ?, n_photos = ?, tally = ? WHERE id = ?"
    cursor.change(sql, (len(stamps), len(rows), tally, collection))
