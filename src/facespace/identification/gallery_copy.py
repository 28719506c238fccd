"""A gallery copied to another place or another kind of store, and compared with the original at the end.

What was not copied to its end cannot be taken for a gallery: until then its model is one that no embedder has.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facespace.errors import GalleryError
from facespace.identification.exchange import BATCH, Progress, checked_people, counted, stored_model, stored_settings
from facespace.identification.stores.bulk import add_people, batches, people_of
from facespace.identification.stores.opening import list_collections, open_store
from facespace.identification.stores.protocol import Store
from facespace.identification.stores.records import PersonRecord
from facespace.identification.stores.sealing import VARIABLE
from facespace.identification.stores.sqlite import SQLiteStore
from facespace.io.files import TEMPORARY

_MODULUS = 2**256


class Contents(NamedTuple):
    """How many people, photos and kept crops a collection has, and a checksum of them all, 64 hexadecimal digits.

    The checksum is the sum of the SHA-256 of every person, modulo 2²⁵⁶. It does not depend on the order of people and photos,
    nor on when they were enrolled; every name, vector, digest, crop and piece of metadata counts.
    """

    n_people: int
    n_photos: int
    n_crops: int
    checksum: str


class Copied(NamedTuple):
    """One collection that was copied; `changed` tells that the original was changed meanwhile."""

    collection: str
    contents: Contents
    changed: bool


def contents(people: Iterable[PersonRecord]) -> Contents:
    """Count people and compute their checksum.

    >>> contents([]).checksum == "0" * 64
    True
    """
    counting = _Counting()
    for record in people:
        counting.add(record)
    return counting.contents()


class _Counting:
    """`Contents` of people that pass by."""

    def __init__(self) -> None:
        self.n_people = self.n_photos = self.n_crops = self.sum = 0

    def add(self, record: PersonRecord) -> None:
        self.n_people += 1
        self.n_photos += len(record.photos)
        self.n_crops += sum(photo.entry.crop is not None for photo in record.photos)
        self.sum = (self.sum + int.from_bytes(_digest(record), "big")) % _MODULUS

    def passing(self, people: Iterable[PersonRecord]) -> Iterator[PersonRecord]:
        for record in people:
            self.add(record)
            yield record

    def contents(self) -> Contents:
        return Contents(self.n_people, self.n_photos, self.n_crops, f"{self.sum:064x}")


def _digest(record: PersonRecord) -> bytes:
    state = record.state
    told = [state.name, state.external_id, state.metadata, sorted(state.rejected), state.templates]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for photo in sorted(record.photos, key=lambda photo: photo.entry.digest):
        entry = photo.entry
        facts = [entry.digest, entry.source, entry.made_by, entry.quality, entry.metadata]
        digest.update(json.dumps(facts, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(entry.embedding, "<f2").tobytes())
        if entry.crop is not None:
            digest.update(hashlib.sha256(entry.crop).digest())
    return digest.digest()


def copy_gallery(
    source: str,
    target: str,
    *,
    collection: str | None = None,
    progress: Progress | None = None,
) -> list[Copied]:
    """Copy a gallery, or one `collection` of it, to a file or server; both are addresses as `open_store` takes them.

    All of a file to a file that is not there yet is copied as it is, with removed people, log, undo and ids, unless it is to
    be encrypted by that. Otherwise people with photos, crops and settings are copied to collections of the same names, which
    must be empty; stopped and started again, it goes on. What was written is read again and compared. The original may be changed meanwhile: of a file the copy
    is as at one moment, and of a server each person. `GalleryError` where a store is damaged, or the copy is not the same.
    """
    names = [collection] if collection else list_collections(source)
    with contextlib.closing(open_store(source, collection=names[0])) as first:
        if (
            collection is None
            and isinstance(first, SQLiteStore)
            and _is_missing_file(target)
            and not _is_to_encrypt(first)
        ):
            return _copy_file(first, Path(target), progress)
        done = []
        with steady(first, Path(target).parent if "://" not in target else None) as still:
            for name in names:
                place = still.name if isinstance(still, SQLiteStore) else source
                with contextlib.closing(open_store(place, collection=name)) as store:
                    if store.setting("embedder") is None and not store.count():
                        continue  # nobody was ever enrolled in it
                    with contextlib.closing(open_store(target, collection=name, create=True)) as other:
                        done.append(_copy_collection(store, other, first.name, progress))
    return done


def _is_missing_file(target: str) -> bool:
    return "://" not in target and not Path(target).exists()


def _is_to_encrypt(store: SQLiteStore) -> bool:
    """Whether a key is given and the gallery is not encrypted: the copy is to be."""
    return bool(os.environ.get(VARIABLE)) and not store._sealing.encrypted


@contextlib.contextmanager
def steady(store: Store, folder: Path | None) -> Iterator[Store]:
    """A store whose people do not change while they are read: of a file a copy in `folder`, else the store itself."""
    if not isinstance(store, SQLiteStore):
        yield store
        return
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as place:
        copy = Path(place, store.path.name)
        store.copy_to(copy)
        try:
            with contextlib.closing(SQLiteStore(copy, collection=store.collection)) as still:
                yield still
        except GalleryError as error:  # which names the copy that nobody has seen
            raise GalleryError(str(error).replace(str(copy), store.name)) from None


def _copy_file(store: SQLiteStore, target: Path, progress: Progress | None) -> list[Copied]:
    store.copy_to(target)
    done = []
    with contextlib.closing(SQLiteStore(target, collection=store.collection)) as copy:
        changed = copy.version() != store.version()
        names = copy.collections()
    for name in names:
        with contextlib.closing(SQLiteStore(target, collection=name)) as copy:
            found = contents(counted(people_of(copy), copy.count(), progress))
        with contextlib.closing(SQLiteStore(store.path, collection=name)) as original:
            # An original that was changed in the midst of this is another one.
            if not changed and contents(people_of(original)) != found and original.version() == store.version():
                raise GalleryError(f"{target}: is not the same as {store.name}; delete it and copy again")
        done.append(Copied(name, found, changed))
    return done


def _copy_collection(store: Store, target: Store, source: str, progress: Progress | None) -> Copied:
    version, model = store.version(), stored_model(store)
    begin(target, model, f"a copy of {source}")
    for key, value in {**stored_settings(store), "retention_days": store.setting("retention_days")}.items():
        if value is not None:
            target.set(key, value)
    counting = _Counting()
    people = counted(counting.passing(checked_people(store, model)), store.count(), progress)
    for batch in batches(people, BATCH):
        add_people(target, batch, text=f"{len(batch)} people copied", undoable=False)
    found, wanted = contents(checked_people(target, model)), counting.contents()
    if found != wanted:
        raise GalleryError(
            f"{target.name}: has {found.n_people} people and {found.n_photos} photos (checksum {found.checksum[:16]}) where "
            f"{source} has {wanted.n_people} and {wanted.n_photos} ({wanted.checksum[:16]}); it was changed since the copy was "
            "begun, copy it to another place"
        )
    finish(target, model)
    return Copied(store.collection, found, store.version() != version)


def begin(target: Store, model: dict[str, Any], making: str) -> None:
    """Begin to fill an empty collection, or go on where the same was stopped; no embedder opens it until `finish`.

    `making` says what it becomes. `GalleryError` where the collection has people of its own, or becomes something else.
    """
    name = f"{model['model']} (not whole yet: start the same command again)"
    marked = {"model": name, "unfinished": model, "making": making}
    held = target.setting("embedder")
    if held == marked:
        return
    if target.count():
        raise GalleryError(
            f"{target.name}: the collection {target.collection!r} has people already; give another place, or another collection"
        )
    target.set("embedder", marked)


def finish(target: Store, model: dict[str, Any]) -> None:
    """Make a gallery of a collection that is whole."""
    target.set("embedder", model)
