"""Records of people with all their photos, for copying between stores, and how they are merged with existing people."""

from __future__ import annotations

import calendar
import dataclasses
import datetime
import functools
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from facespace.identification.stores.protocol import Entry, PersonState

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


class PhotoRecord(NamedTuple):
    """One photo of a person; `added` is a UTC time, `actor` the user or client who enrolled it, if known."""

    entry: Entry
    added: str
    actor: str = ""


@dataclass(frozen=True, slots=True)
class PersonRecord:
    """One person with at least one photo; `added` is a UTC time."""

    state: PersonState
    added: str
    photos: tuple[PhotoRecord, ...]


class Counts(NamedTuple):
    """Counts of people and photos that were added to a store.

    `new_people` and `new_photos` were added; `known_people` and `known_photos` were already there; `rejected_photos` were
    left out because a user rejected them as not showing the person. `remarks` are lines for the user.
    """

    new_people: int = 0
    known_people: int = 0
    new_photos: int = 0
    known_photos: int = 0
    rejected_photos: int = 0
    remarks: tuple[str, ...] = ()

    def plus(self, other: Counts) -> Counts:
        """Return the sum of each count and the same count in `other`, and the remarks of both.

        >>> Counts(1, remarks=("a",)).plus(Counts(2, 3)).new_people
        3
        """
        return Counts(
            self.new_people + other.new_people, self.known_people + other.known_people,
            self.new_photos + other.new_photos, self.known_photos + other.known_photos,
            self.rejected_photos + other.rejected_photos, self.remarks + other.remarks,
        )  # fmt: skip


class Joined(NamedTuple):
    """The result of `joined`: the person's new state, the photos to add, and the counts."""

    state: PersonState
    photos: tuple[PhotoRecord, ...]
    counts: Counts


def joined(
    record: PersonRecord, held: PersonState | None, digests: Collection[str], is_free: Callable[[str], bool]
) -> Joined:
    """Merge `record` with the person of the same name in a store; merging again changes nothing.

    `held` is that person's state in the store, or None if there is no such person; `digests` are the digests of the
    person's photos there. New photos are added, except those that were rejected in the store. If `record` and the store
    both have a value for a field, the store's value is kept. `is_free` takes an external id and returns whether no
    other person in the store has it.
    """
    remarks: tuple[str, ...] = ()
    external_id = record.state.external_id if held is None else held.external_id or record.state.external_id
    if external_id and (held is None or external_id != held.external_id) and not is_free(external_id):
        remarks = (f"{record.state.name}: another person has the external id {external_id!r}; it was left out",)
        external_id = "" if held is None else held.external_id
    if held is None:
        state = dataclasses.replace(record.state, external_id=external_id)
        return Joined(state, record.photos, Counts(1, 0, len(record.photos), remarks=remarks))
    new = tuple(
        one for one in record.photos if one.entry.digest not in digests and one.entry.digest not in held.rejected
    )
    n_rejected = sum(one.entry.digest in held.rejected for one in record.photos)
    rejected = (*held.rejected, *(one for one in record.state.rejected if one not in digests))
    state = PersonState(
        held.name, external_id, {**record.state.metadata, **held.metadata}, tuple(dict.fromkeys(rejected)),
        held.templates or record.state.templates,
    )  # fmt: skip
    n_known = len(record.photos) - len(new) - n_rejected
    return Joined(state, new, Counts(0, 1, len(new), n_known, n_rejected, remarks))


@functools.lru_cache(4096)  # many photos of one import have the same time
def seconds_of(time: str) -> int:
    """Return a UTC time, written as stores return it, in seconds since 1970; raise `ValueError` for anything else.

    >>> seconds_of("2026-01-02T03:04:05Z")
    1767323045
    """
    if not _TIME.fullmatch(time):
        raise ValueError(f"a time must be written like 2026-01-02T03:04:05Z, got {time[:40]!r}")
    seconds = calendar.timegm(datetime.datetime.fromisoformat(time[:-1]).timetuple())
    if seconds < 0:
        raise ValueError(f"a time must be after 1970, got {time}")
    return seconds
