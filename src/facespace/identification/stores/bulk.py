"""Reads and writes many people with all their photos at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from facespace.errors import GalleryError
from facespace.identification.stores import sql_bulk
from facespace.identification.stores.protocol import Change, Conflict, Entry, PersonChange, Store, StoredPerson
from facespace.identification.stores.records import Counts, PersonRecord, PhotoRecord, joined
from facespace.identification.stores.sql import SqlStore

_PAGE = 500  # people read at once
_BATCH_PHOTOS = 2_000  # read at once, unless one person has more
_BATCH_BYTES = 32 * 2**20  # of crops in one change
_N_ATTEMPTS = 20


def people_of(store: Store) -> Iterator[PersonRecord]:
    """Yield all people of a collection with their photos, by name.

    The photos of a few hundred people are read at a time, in SQL stores in one transaction. People who are renamed
    during the read, or photos that are moved to another person, may be missing or occur twice: compare
    `store.version()` before and after. Raise `GalleryError` if the store cannot be read.
    """
    after = ""
    # With encrypted names, reading one page takes as long as reading all people.
    limit = None if isinstance(store, SqlStore) and store._sealing.encrypted else _PAGE
    while page := store.people(after=after, limit=limit):
        after = page[-1].state.name
        for part in _parts(page):
            yield from sql_bulk.read_people(store, part) if isinstance(store, SqlStore) else _read(store, part)


def _parts(people: Sequence[StoredPerson]) -> Iterator[list[StoredPerson]]:
    """Yield the people in parts with at most `_BATCH_PHOTOS` photos."""
    part: list[StoredPerson] = []
    n_photos = 0
    for one in people:
        if part and n_photos + one.n_photos > _BATCH_PHOTOS:
            yield part
            part, n_photos = [], 0
        part.append(one)
        n_photos += one.n_photos
    if part:
        yield part


def _read(store: Store, people: Sequence[StoredPerson]) -> Iterator[PersonRecord]:
    for person in people:
        photos = store.photos(person.id)
        if not photos:  # removed meanwhile
            continue
        vectors = store.embeddings([one.id for one in photos])
        yield PersonRecord(
            person.state,
            person.added,
            tuple(
                PhotoRecord(
                    Entry(vector, one.digest, one.source, one.made_by, one.quality, one.metadata,
                          store.crop(one.id) if one.has_crop else None),
                    one.added,
                    one.actor,
                )
                for one, vector in zip(photos, vectors, strict=True)
            ),
        )  # fmt: skip


def batches(people: Iterable[PersonRecord], most_photos: int) -> Iterator[list[PersonRecord]]:
    """Yield the people in batches of at most `most_photos` photos and 32 MB of crops, unless one person has more."""
    piece: list[PersonRecord] = []
    n_photos = n_bytes = 0
    for record in people:
        size = sum(len(photo.entry.crop or b"") for photo in record.photos)
        if piece and (n_photos + len(record.photos) > most_photos or n_bytes + size > _BATCH_BYTES):
            yield piece
            piece, n_photos, n_bytes = [], 0, 0
        piece.append(record)
        n_photos += len(record.photos)
        n_bytes += size
    if piece:
        yield piece


def add_people(
    store: Store, people: Sequence[PersonRecord], *, text: str, skip_known: bool = False, undoable: bool = True
) -> Counts:
    """Add people with their photos to a store; they are on disk when this returns.

    People whose name is already in the store get the photos they do not have yet (see `records.joined`), or stay
    unchanged with `skip_known`. In SQL stores the call is one change, with `text` in the log, which can be undone if
    `undoable`. In other stores each photo is a change of its own; after an interruption the same call adds the rest.
    """
    if isinstance(store, SqlStore):
        return sql_bulk.add_people(store, people, text=text, skip_known=skip_known, undoable=undoable)
    counts = Counts()
    for record in people:
        counts = counts.plus(_add(store, record, skip_known))
    return counts


def _add(store: Store, record: PersonRecord, skip_known: bool) -> Counts:
    name = record.state.name
    counts: Counts | None = None
    for attempt in range(_N_ATTEMPTS):
        known = store.find(name)
        if known is not None and skip_known and counts is None:
            return Counts(known_people=1)
        digests = {one.digest for one in store.photos(known.id)} if known is not None else set()
        other = store.find_external(record.state.external_id) if record.state.external_id else None
        free = other is None or (known is not None and other.id == known.id)
        plan = joined(record, None if known is None else known.state, digests, lambda _, free=free: free)  # type: ignore[misc]
        counts = counts or plan.counts
        for photo in plan.photos:
            store.add(name, photo.entry)
        person = store.find(name)
        if person is None or plan.state == person.state:
            return counts
        # A person who was just created has only a name; the other fields of the record follow in a second change.
        try:
            store.apply(Change("import", name, (PersonChange(person.id, person.state, plan.state),)))
        except Conflict:
            if attempt == _N_ATTEMPTS - 1:
                raise
        else:
            return counts
    raise GalleryError(f"{store.name}: other processes keep changing {name}; try again later")
