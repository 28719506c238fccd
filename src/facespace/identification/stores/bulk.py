"""People with all their photos, read from a store and brought to it many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from facespace.errors import GalleryError
from facespace.identification.stores import sql_bulk
from facespace.identification.stores.protocol import Change, Conflict, Entry, PersonChange, Store, StoredPerson
from facespace.identification.stores.records import Counts, PersonRecord, PhotoRecord, joined
from facespace.identification.stores.sql import SqlStore

_PAGE = 500  # people
_MOST_PHOTOS = 2_000  # read at once, unless one person has more
_MOST_BYTES = 32 * 2**20  # of crops in one change
_TRIES = 20


def people_of(store: Store) -> Iterator[PersonRecord]:
    """Everybody of a collection with all photos, by name, a few hundred at a time.

    Each person is as at one moment; who is renamed or whose photos move meanwhile may be missed, or come twice: compare
    `store.version()` before and after. `GalleryError` where the store cannot be read.
    """
    after = ""
    # Where names are encrypted each page takes as long as all of them.
    limit = None if isinstance(store, SqlStore) and store._sealing.encrypted else _PAGE
    while page := store.people(after=after, limit=limit):
        after = page[-1].state.name
        for part in _parts(page):
            yield from sql_bulk.read_people(store, part) if isinstance(store, SqlStore) else _read(store, part)


def _parts(people: Sequence[StoredPerson]) -> Iterator[list[StoredPerson]]:
    """Pieces of few photos."""
    part: list[StoredPerson] = []
    n_photos = 0
    for one in people:
        if part and n_photos + one.n_photos > _MOST_PHOTOS:
            yield part
            part, n_photos = [], 0
        part.append(one)
        n_photos += one.n_photos
    if part:
        yield part


def _read(store: Store, people: Sequence[StoredPerson]) -> Iterator[PersonRecord]:
    for person in people:
        photos = store.photos(person.id)
        if not photos:  # removed since
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
    """People in pieces of at most so many photos and 32 MB of crops, unless one person has more."""
    piece: list[PersonRecord] = []
    n_photos = n_bytes = 0
    for record in people:
        size = sum(len(photo.entry.crop or b"") for photo in record.photos)
        if piece and (n_photos + len(record.photos) > most_photos or n_bytes + size > _MOST_BYTES):
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
    """Bring people with their photos to a store; on disk when this returns.

    People who are known by name get the photos they do not have yet (see `records.joined`), or stay as they are with
    `skip_known`. In SQL stores it is one change, named `text` in the log, which can be undone if it is `undoable`;
    in others one change a photo, after which the same call goes on where it was stopped.
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
    for turn in range(_TRIES):
        held = store.find(name)
        if held is not None and skip_known and counts is None:
            return Counts(known_people=1)
        digests = {one.digest for one in store.photos(held.id)} if held is not None else set()
        other = store.find_external(record.state.external_id) if record.state.external_id else None
        free = other is None or (held is not None and other.id == held.id)
        plan = joined(record, None if held is None else held.state, digests, lambda _, free=free: free)  # type: ignore[misc]
        counts = counts or plan.counts
        for photo in plan.photos:
            store.add(name, photo.entry)
        person = store.find(name)
        if person is None or plan.state == person.state:
            return counts
        # A person who was made just now has a name alone; what the record says comes after it.
        try:
            store.apply(Change("import", name, (PersonChange(person.id, person.state, plan.state),)))
        except Conflict:
            if turn == _TRIES - 1:
                raise
        else:
            return counts
    raise GalleryError(f"{store.name}: {name} changes all the time; try again")
