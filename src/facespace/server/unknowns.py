"""Unnamed faces, which are kept for some time so that they can be named later, and faces that are always ignored.

Both are in the gallery's store, in collections that `/v1/collections` does not list: `<collection>-unknowns`, where each
face is a person of its own, and `<collection>-ignored`. So encryption and erasure cover them like all other people.

An id begins with a time in milliseconds that counts down, so that the newest faces come first when sorted by id. All
faces of one photo share the next part. A thread writes many faces in one change, so that identifying does not wait for it.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facespace.embedding.compatibility import model_of
from facespace.embedding.vectors import Embeddings
from facespace.errors import FacespaceError
from facespace.faces.face import Box
from facespace.identification.gallery import Gallery, crop_digest
from facespace.identification.stores.bulk import add_people
from facespace.identification.stores.protocol import (
    Change,
    Conflict,
    Entry,
    NoSuchCollection,
    PersonChange,
    PersonState,
    PhotoChange,
    StoredPerson,
    StoredPhoto,
)
from facespace.identification.stores.records import PersonRecord, PhotoRecord
from facespace.io.png import encode_png
from facespace.io.text import plain_text
from facespace.pipeline.photos import Photo
from facespace.server.choices import Choices
from facespace.server.galleries import Galleries
from facespace.server.problems import Problem
from facespace.server.settings import Settings

UNKNOWNS, IGNORED = "-unknowns", "-ignored"
MAX_UNKNOWNS = 20_000  # faces of one collection; beyond this the oldest are erased
MAX_WAITING_FACES = 1_000  # faces that are not written yet; beyond this no more are kept
_log = logging.getLogger("facespace.server")
_DAY = 86_400.0  # seconds
_ID = re.compile("[0-9a-f]{11}-[0-9a-f]{8}-[0-9a-f]{1,4}")
_LAST_MS = 2**44 - 1
_WRITE_EVERY, _EXPIRE_EVERY = 0.2, 600.0  # seconds
_BATCH = 200  # faces of one change
_TRIES = 10
_WAIT = 1.0  # seconds to wait for a face that another worker has answered but not written yet


class Unknown(NamedTuple):
    """An unnamed face. `seen` is the time it was seen (UTC), and `box` its box in the photo.

    `person` and `photo` are its records in the hidden collection; `has_crop` says whether its crop is stored there.
    """

    id: str
    seen: str
    box: list[float]
    source: str
    quality: float | None
    has_crop: bool
    person: StoredPerson
    photo: StoredPhoto


@dataclass(slots=True)
class _Waiting:
    """A face to be written."""

    collection: str
    id: str
    embedding: npt.NDArray[np.float32]
    crop: npt.NDArray[np.uint8]
    digest: str
    quality: float | None
    box: Box
    source: str
    made_by: str
    model: str
    seconds: float = field(default_factory=time.time)


class Unknowns:
    """The unnamed and the ignored faces of all collections. All methods are thread-safe and may block."""

    def __init__(self, settings: Settings, galleries: Galleries, choices: Choices) -> None:
        self._settings, self._galleries, self._choices = settings, galleries, choices
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="facespace-unknowns", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write the waiting faces, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    # Used while identifying

    def ignored(self, collection: str, photo: Photo, numbers: Sequence[int]) -> set[int]:
        """Return the indices, among `numbers`, of the faces of the photo that are to be ignored."""
        gallery = self._opened(collection + IGNORED) if numbers else None
        if gallery is None or not len(gallery):
            return set()
        chosen = list(numbers)
        found = gallery.identify(photo.embeddings[chosen])
        return {k for k, match in zip(chosen, found, strict=True) if match.name is not None}

    def keep(self, collection: str, photo: Photo, numbers: Sequence[int], *, source: str = "") -> dict[int, str]:
        """Keep the faces of an analysed photo with the indices `numbers`. Return the id of each kept face by its index.

        A face with exactly the same crop as a kept face gets that face's id. New faces are on the disk soon after.
        """
        gallery = self._galleries.get(collection)
        if not numbers or not self._choices.of(gallery).unknowns_days:
            return {}
        kept: dict[int, str] = {}
        held = self._opened(collection + UNKNOWNS)
        prefix = f"{_LAST_MS - int(time.time() * 1000):011x}-{secrets.token_hex(4)}"
        new = []
        for k in numbers:
            digest = crop_digest(photo.crops[k])
            if (known := self._known(collection, held, digest)) is not None:
                kept[k] = known
                continue
            face = photo.faces[k]
            kept[k] = f"{prefix}-{k:x}"
            new.append(
                _Waiting(
                    collection, kept[k], np.asarray(photo.embeddings[k], np.float32).view(np.ndarray),
                    photo.crops[k].copy(), digest, face.quality, face.box, plain_text(source)[:200],
                    f"{gallery.embedder.runtime} {gallery.embedder.precision}", self._model(collection),
                )
            )  # fmt: skip
        with self._changed:
            if len(self._waiting) + len(new) > MAX_WAITING_FACES:
                return {k: one for k, one in kept.items() if one not in {waiting.id for waiting in new}}
            self._waiting += new
            self._changed.notify_all()
        return kept

    def _known(self, collection: str, held: Gallery | None, digest: str) -> str | None:
        """Return the id of the face with exactly this crop, or None."""
        with self._changed:
            for one in self._waiting:
                if one.digest == digest and one.collection == collection:
                    return one.id
        if held is None:
            return None
        there = held.store.get(held.store.find_digest(digest)[:1])
        return there[0].state.name if there else None

    # Listing, naming and ignoring

    def page(
        self, collection: str, *, after: str = "", limit: int, ignored: bool = False
    ) -> tuple[list[Unknown], str | None]:
        """Return faces after the id `after`, newest first, and the last face's id if more faces follow, otherwise None."""
        self.flush()
        gallery = self._opened(collection + (IGNORED if ignored else UNKNOWNS))
        if gallery is None:
            return [], None
        people = gallery.store.people(after=after, limit=limit + 1)
        found = [_unknown(gallery, one) for one in people[:limit]]
        return [one for one in found if one is not None], people[limit - 1].state.name if len(people) > limit else None

    def count(self, collection: str, *, ignored: bool = False) -> int:
        """Return the number of unnamed faces of a collection, or of `ignored` faces."""
        gallery = self._opened(collection + (IGNORED if ignored else UNKNOWNS))
        return 0 if gallery is None else len(gallery)

    def find(self, collection: str, ids: Sequence[str], *, ignored: bool = False) -> list[Unknown]:
        """Return the faces with these ids. Raise `Problem` 404 if one of the ids does not exist."""
        self.flush()
        deadline = time.monotonic() + _WAIT
        while True:
            found, missing = self._found(collection, ids, ignored)
            if missing is None:
                return found
            # Another worker may have answered this id, and will write the face soon.
            if not _is_new(missing) or self._settings.workers == 1 or time.monotonic() > deadline:
                raise Problem(404, "not_found", f"there is no unnamed face {plain_text(missing[:40])!r}")
            time.sleep(0.05)

    def _found(self, collection: str, ids: Sequence[str], ignored: bool) -> tuple[list[Unknown], str | None]:
        gallery = self._opened(collection + (IGNORED if ignored else UNKNOWNS))
        found = []
        for one in dict.fromkeys(ids):
            person = gallery.store.find(one) if gallery is not None and _ID.fullmatch(one) else None
            unknown = None if gallery is None or person is None else _unknown(gallery, person)
            if unknown is None:
                return [], one
            found.append(unknown)
        return found, None

    def crop(self, collection: str, face: str, *, ignored: bool = False) -> tuple[str, bytes] | None:
        """Return the digest and the PNG of a face's crop, or None if no crop was kept."""
        (one,) = self.find(collection, [face], ignored=ignored)
        gallery = self._opened(collection + (IGNORED if ignored else UNKNOWNS))
        data = None if gallery is None else gallery.store.crop(one.photo.id)
        return None if data is None else (one.photo.digest, data)

    def vectors(self, collection: str, unknowns: Sequence[Unknown]) -> npt.NDArray[np.float32]:
        """Return the embeddings (N,D) of faces."""
        gallery = self._galleries.get(collection + UNKNOWNS, hidden=True)
        return gallery.store.embeddings([one.photo.id for one in unknowns])

    def everything(self, collection: str, most: int) -> tuple[list[str], Embeddings] | None:
        """Return the ids (N) of the `most` newest faces and their embeddings (N,D) with qualities, or None without faces."""
        self.flush()
        gallery = self._opened(collection + UNKNOWNS)
        if gallery is None or not len(gallery):
            return None
        names, owners, vectors, qualities = gallery.store.vectors(gallery.embedder.dimension)
        order = sorted(range(len(owners)), key=lambda row: names[owners[row]])[:most]
        quality = np.nan_to_num(qualities[order], nan=0.5).astype(np.float32)
        embeddings = Embeddings(vectors[order], made_by="represent", model=model_of(gallery.embedder), quality=quality)
        return [names[owners[row]] for row in order], embeddings

    def gallery(self, collection: str) -> Gallery | None:
        """Return the collection that contains the unnamed faces, or None if it does not exist."""
        self.flush()
        return self._opened(collection + UNKNOWNS)

    def entries(self, collection: str, unknowns: Sequence[Unknown]) -> list[Entry]:
        """Return the faces as entries that can be added to another collection."""
        gallery = self._galleries.get(collection + UNKNOWNS, hidden=True)
        vectors = gallery.store.embeddings([one.photo.id for one in unknowns])
        return [
            Entry(vector, one.photo.digest, one.source, one.photo.made_by, one.quality, {}, gallery.store.crop(one.photo.id))
            for one, vector in zip(unknowns, vectors, strict=True)
        ]  # fmt: skip

    def ignore(self, collection: str, ids: Sequence[str]) -> int:
        """Ignore the person whom these faces show, and return the number of these faces.

        From now on, similar faces are reported as `ignored` and are not kept.
        """
        unknowns = self.find(collection, ids)
        entries = self.entries(collection, unknowns)
        gallery = self._galleries.create(collection + IGNORED, self._model(collection))
        record = PersonRecord(
            PersonState(min(one.id for one in unknowns)), unknowns[0].seen,
            tuple(PhotoRecord(entry, one.seen) for entry, one in zip(entries, unknowns, strict=True)),
        )  # fmt: skip
        add_people(gallery.store, [record], text="ignore", undoable=False)
        self.erase(collection, unknowns)
        return len(unknowns)

    def erase(self, collection: str, unknowns: Iterable[Unknown], *, ignored: bool = False) -> None:
        """Erase these faces permanently."""
        gallery = self._opened(collection + (IGNORED if ignored else UNKNOWNS))
        if gallery is not None:
            _erase(gallery, [one.person.id for one in unknowns])

    def named(self, collection: str, digests: Sequence[str]) -> None:
        """Erase unnamed faces with these crop digests, because the crops were enrolled for a person."""
        with self._changed:
            waits = any(one.collection == collection for one in self._waiting)
        if waits:
            self.flush()
        gallery = self._opened(collection + UNKNOWNS)
        if gallery is None or not len(gallery):
            return
        found = [number for digest in digests for number in gallery.store.find_digest(digest)]
        if found:
            _erase(gallery, list(dict.fromkeys(found)))

    def forget(self, collection: str) -> None:
        """Drop unwritten faces of a collection that is removed."""
        with self._writing, self._changed:
            self._waiting = [one for one in self._waiting if one.collection != collection]

    # Writing and expiring

    def flush(self) -> None:
        """Write all waiting faces now."""
        with self._writing:
            with self._changed:
                waiting, self._waiting = self._waiting, []
            for start in range(0, len(waiting), _BATCH):
                self._write(waiting[start : start + _BATCH])

    def expire(self, now: float | None = None) -> int:
        """Erase unnamed faces that are older than their collection's limit, and return how many were erased.

        If a collection still has too many unnamed faces, its oldest ones are erased too.
        """
        now = time.time() if now is None else now
        n_erased = 0
        there = self._galleries.get().store.collections()
        for name in there:
            gallery = self._opened(name) if name.endswith(UNKNOWNS) else None
            if gallery is None:
                continue
            owner = name[: -len(UNKNOWNS)]
            days = self._choices.of(self._galleries.get(owner)).unknowns_days if owner in there else None
            least = f"{_LAST_MS - int((now - (days or 0) * _DAY) * 1000):011x}"
            while old := gallery.store.people(after=least, limit=_BATCH):
                n_erased += _erase(gallery, [one.id for one in old])
            if len(gallery) > MAX_UNKNOWNS:
                oldest = gallery.store.people()[MAX_UNKNOWNS * 9 // 10 :]
                for start in range(0, len(oldest), _BATCH):
                    n_erased += _erase(gallery, [one.id for one in oldest[start : start + _BATCH]])
        return n_erased

    def erase_removed(self, now: float | None = None) -> int:
        """Erase photos that were removed longer ago than their collection's retention. Return their number."""
        return sum(self._galleries.get(name).erase_what_is_due(now) for name in self._galleries.names())

    def _run(self) -> None:
        expires = time.monotonic() + 1.0
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting or self._closing, timeout=max(0.0, expires - time.monotonic())
                )
                closing = self._closing
                if not closing and self._waiting:  # more may come
                    self._changed.wait_for(lambda: self._closing, timeout=_WRITE_EVERY)
            self._try(self.flush)
            if closing:
                return
            if time.monotonic() >= expires:
                expires = time.monotonic() + _EXPIRE_EVERY
                self._try(self.expire)
                self._try(self.erase_removed)

    def _try(self, work: Callable[[], object]) -> None:
        """Call a function, and log its errors. Faces that a store did not accept are lost; the thread goes on."""
        try:
            work()
        except (FacespaceError, OSError, Problem) as error:
            _log.warning("unnamed faces were not written or erased: %s", error)
        except Exception:  # this thread must go on
            _log.exception("unnamed faces were not written or erased")

    def _write(self, waiting: Sequence[_Waiting]) -> None:
        by_collection: dict[tuple[str, str], list[_Waiting]] = {}
        for one in waiting:
            by_collection.setdefault((one.collection, one.model), []).append(one)
        for (collection, model), faces in by_collection.items():
            records = [_record(one) for one in faces]
            try:
                self._add(collection, model, records)
            except NoSuchCollection as gone:  # removed by another process
                self._galleries.forget(gone.removed)
                self._add(collection, model, records)

    def _add(self, collection: str, model: str, records: Sequence[PersonRecord]) -> None:
        gallery = self._galleries.create(collection + UNKNOWNS, model)
        add_people(gallery.store, records, text="seen", skip_known=True, undoable=False)

    def _model(self, collection: str) -> str:
        self._galleries.get(collection)
        return self._galleries.model(collection)

    def _opened(self, collection: str) -> Gallery | None:
        """Return a hidden collection, or None if it does not exist."""
        # Ask the store, because another worker may have made or removed it.
        if collection not in self._galleries.get().store.collections():
            return None
        return self._galleries.get(collection, hidden=True)


def _record(one: _Waiting) -> PersonRecord:
    seen = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.seconds))
    box = [round(float(value), 2) for value in one.box]
    entry = Entry(
        one.embedding, one.digest, one.source, one.made_by, one.quality, {"box": box}, encode_png(one.crop)
    )  # fmt: skip
    return PersonRecord(PersonState(one.id), seen, (PhotoRecord(entry, seen),))


def _unknown(gallery: Gallery, person: StoredPerson) -> Unknown | None:
    photos = gallery.store.photos(person.id)
    if not photos:  # erased since
        return None
    photo, box = photos[0], photos[0].metadata.get("box")
    numbers = box if isinstance(box, list) and all(isinstance(one, (int, float)) for one in box) else []
    return Unknown(
        person.state.name, person.added, numbers, photo.source, photo.quality, photo.has_crop, person, photo
    )  # fmt: skip


def _erase(gallery: Gallery, people: Sequence[int]) -> int:
    """Remove people in one change, and erase them. Return how many existed."""
    store = gallery.store
    for turn in range(_TRIES):
        there = store.get(people)
        photos = [PhotoChange(photo.id, one.id, None) for one in there for photo in store.photos(one.id)]
        gone = tuple(PersonChange(one.id, one.state, None) for one in there)
        try:
            if there:
                store.apply(Change("remove", f"{len(there)} faces", gone, tuple(photos)))
        except Conflict:
            if turn == _TRIES - 1:
                raise
            continue
        store.erase(people)
        return len(there)
    return 0


def _is_new(face: str) -> bool:
    """Return whether an id was made in the last ten seconds."""
    if not _ID.fullmatch(face):
        return False
    return abs(time.time() * 1000 - (_LAST_MS - int(face[:11], 16))) < 10_000


def photo_of(face: str) -> str:
    """Return the part that the ids of all faces of one photo share.

    >>> photo_of("0f1e2d3c4b5-0a0b0c0d-2")
    '0f1e2d3c4b5-0a0b0c0d'
    """
    return face.rpartition("-")[0]
