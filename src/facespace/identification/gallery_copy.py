"""Copies a gallery to another place or another kind of store, and compares the copy with the original.

An incomplete copy cannot be used as a gallery: until it is complete, its stored model matches no embedder.
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
    """The numbers of people, photos and stored crops of a collection, and a checksum of 64 hexadecimal digits.

    The checksum is the sum of one SHA-256 per person, modulo 2²⁵⁶. It depends on every name, vector, digest, crop and
    piece of metadata, but not on the order of people and photos, nor on the times of enrolment.
    """

    n_people: int
    n_photos: int
    n_crops: int
    checksum: str


class Copied(NamedTuple):
    """The result of copying one collection; `changed` is True if the original was changed during the copy."""

    collection: str
    contents: Contents
    changed: bool


def contents(people: Iterable[PersonRecord]) -> Contents:
    """Return the counts and the checksum of people.

    >>> contents([]).checksum == "0" * 64
    True
    """
    counting = _Counting()
    for record in people:
        counting.add(record)
    return counting.contents()


class _Counting:
    """Computes the `Contents` of people one after another."""

    def __init__(self) -> None:
        self.n_people = self.n_photos = self.n_crops = self.sum = 0

    def add(self, record: PersonRecord) -> None:
        self.n_people += 1
        self.n_photos += len(record.photos)
        self.n_crops += sum(photo.entry.crop is not None for photo in record.photos)
        self.sum = (self.sum + int.from_bytes(_digest(record), "big")) % _MODULUS

    def through(self, people: Iterable[PersonRecord]) -> Iterator[PersonRecord]:
        for record in people:
            self.add(record)
            yield record

    def contents(self) -> Contents:
        return Contents(self.n_people, self.n_photos, self.n_crops, f"{self.sum:064x}")


def _digest(record: PersonRecord) -> bytes:
    state = record.state
    fields = [state.name, state.external_id, state.metadata, sorted(state.rejected), state.templates]
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for photo in sorted(record.photos, key=lambda photo: photo.entry.digest):
        entry = photo.entry
        entry_fields = [entry.digest, entry.source, entry.made_by, entry.quality, entry.metadata]
        digest.update(json.dumps(entry_fields, sort_keys=True).encode())
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
    """Copy a gallery, or one `collection` of it, to a file or server; both are addresses as in `open_store`.

    If a whole file is copied to a new file, the copy keeps removed people, log, undo and ids, unless a plain gallery is
    to be encrypted. In all other cases, the people with their photos, crops and settings are copied to collections of
    the same names, which must be empty. If such a copy is interrupted, the same call continues it. The copy is read and
    compared with the original, which others may change during the copy: the copy of a file shows all people at one
    moment, but the people in a copy of a server may be from different moments. Raise `GalleryError` if a store is
    damaged, or if the copy differs.
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
        with snapshot(first, Path(target).parent if "://" not in target else None) as frozen:
            for name in names:
                address = frozen.name if isinstance(frozen, SQLiteStore) else source
                with contextlib.closing(open_store(address, collection=name)) as store:
                    if store.setting("embedder") is None and not store.count():
                        continue  # no person was ever enrolled in it
                    with contextlib.closing(open_store(target, collection=name, create=True)) as other:
                        done.append(_copy_collection(store, other, first.name, progress))
    return done


def _is_missing_file(target: str) -> bool:
    return "://" not in target and not Path(target).exists()


def _is_to_encrypt(store: SQLiteStore) -> bool:
    """Return whether a copy will be encrypted although the gallery is not, because an encryption key is set."""
    return bool(os.environ.get(VARIABLE)) and not store._sealing.encrypted


@contextlib.contextmanager
def snapshot(store: Store, folder: Path | None) -> Iterator[Store]:
    """Yield a store to read people from.

    For a gallery in a file it is a temporary copy in `folder`, which does not change. For a gallery on a server it is
    `store` itself, which others may change.
    """
    if not isinstance(store, SQLiteStore):
        yield store
        return
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as place:
        copy = Path(place, store.path.name)
        store.copy_to(copy)
        try:
            with contextlib.closing(SQLiteStore(copy, collection=store.collection)) as frozen:
                yield frozen
        except GalleryError as error:  # the message names the temporary copy, which the user has not seen
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
            # A difference matters only if the original was not changed during the comparison.
            if not changed and contents(people_of(original)) != found and original.version() == store.version():
                raise GalleryError(f"{target}: differs from {store.name}; delete it and copy again")
        done.append(Copied(name, found, changed))
    return done


def _copy_collection(store: Store, target: Store, source: str, progress: Progress | None) -> Copied:
    version, model = store.version(), stored_model(store)
    begin(target, model, f"a copy of {source}")
    for key, value in {**stored_settings(store), "retention_days": store.setting("retention_days")}.items():
        if value is not None:
            target.set(key, value)
    counting = _Counting()
    people = counted(counting.through(checked_people(store, model)), store.count(), progress)
    for batch in batches(people, BATCH):
        add_people(target, batch, text=f"{len(batch)} people copied", undoable=False)
    found, expected = contents(checked_people(target, model)), counting.contents()
    if found != expected:
        raise GalleryError(
            f"{target.name}: has {found.n_people} people and {found.n_photos} photos (checksum {found.checksum[:16]}), but "
            f"{source} has {expected.n_people} and {expected.n_photos} ({expected.checksum[:16]}); one of them was changed "
            "during the copy, copy to another place"
        )
    finish(target, model)
    return Copied(store.collection, found, store.version() != version)


def begin(target: Store, model: dict[str, Any], making: str) -> None:
    """Begin to fill an empty collection, or continue after an interruption; no embedder can open it before `finish`.

    `making` names the operation: a later call with the same text continues it. Raise `GalleryError` if the collection has
    people that another operation wrote.
    """
    name = f"{model['model']} (not whole yet: start the same command again)"
    marked = {"model": name, "unfinished": model, "making": making}
    stored = target.setting("embedder")
    if stored == marked:
        return
    if target.count():
        raise GalleryError(
            f"{target.name}: the collection {target.collection!r} already has people; choose another place or collection"
        )
    target.set("embedder", marked)


def finish(target: Store, model: dict[str, Any]) -> None:
    """Mark a collection as complete, so that it can be opened with `model`."""
    target.set("embedder", model)
