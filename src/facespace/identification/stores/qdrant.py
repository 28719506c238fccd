"""A gallery at a Qdrant server or cluster, shared by many processes.

A gallery is three collections of the server. `facespace-NAME-people` has a point for every row that a probe is compared
with, `facespace-NAME-photos` one for every photo, and `facespace-NAME-records` one for every person, setting, and line of
the log. Qdrant has no transactions; `qdrant_ledger` explains how changes are atomic nevertheless.

Guarantees and limits:

- If two processes change the gallery at the same moment, one commits first, and the other reads again and retries. If
  they change the same person, `apply` raises `Conflict`. No update is lost, no name is given twice, no photo has two
  owners.
- All changes of a collection pass through one point, so more processes do not make them faster.
- If a process dies, or loses the server, in the middle of a change, the change is either committed or not; the next
  process that reads or writes finishes a committed change. After a `GalleryError` of the connection the caller must
  read again to know which.
- A search during a change may find a person's old row, or both the old and the new row; then the more similar row
  counts.
- Erased points cannot be found any more; their bytes leave the server's disk later, when it rewrites the segment.
- With several replicas these guarantees depend on the server's promise that writes with strong ordering pass through one
  leader. This was tested without a cluster, against Qdrant's in-memory client, which does not have a server's durability.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import GalleryError
from facespace.identification.people_index import Nearest
from facespace.identification.stores.actors import actor_name
from facespace.identification.stores.changes import change_to_json
from facespace.identification.stores.protocol import (
    Change,
    Conflict,
    Entry,
    LogEntry,
    NoSuchCollection,
    PersonState,
    StoredPerson,
    StoredPhoto,
    StoredVectors,
)
from facespace.identification.stores.qdrant_changes import Draft
from facespace.identification.stores.qdrant_ledger import Ledger
from facespace.identification.stores.qdrant_points import (
    DUMMY,
    GONE,
    LIVE,
    ORDER,
    PHOTO_FIELDS,
    RECORD_INDICES,
    Head,
    at_least,
    equal,
    one_of,
    order_of,
    point,
    setting_point,
    where,
)
from facespace.identification.stores.qdrant_server import Server, models, parts

_PERSON = (equal("kind", "person"), equal("state", LIVE))
_PAGE = 100  # people read at once for a page of people
_N_ATTEMPTS = 5  # to read a consistent state while other processes change it
_N_RECOMPUTED = 100  # people whose rows are recomputed in one change
_TEMPLATES = "templates"
_RECORDS = "-records"


class QdrantStore:
    """One collection of people at a Qdrant server.

    `address` is `qdrant://host:port`, or `qdrants://host:port` for TLS. The API key is read from the environment variable
    FACESPACE_QDRANT_API_KEY. The address may have options: `?replicas=3` keeps every point of new collections on three
    nodes of a cluster, `?quantize=binary` searches 1-bit vectors before exact ones, and `?timeout=60` allows a request 60
    instead of 20 seconds. `create` creates a missing collection; without it, raise `GalleryError` if it is missing.
    `client` is an open `QdrantClient`, which stays open. A store can be shared between threads.
    """

    def __init__(self, address: str, *, collection: str = "default", create: bool = False, client: Any = None) -> None:
        self.collection = collection
        self._lock = threading.RLock()  # one change at a time, so that threads do not compete
        self._server = Server(address, client)
        try:
            self._ledger = Ledger(self._server, collection)
            self._reader = self._ledger.reader
            self._open(create)
        except BaseException:
            self._server.close()
            raise

    def _open(self, create: bool) -> None:
        if self._server.dimension(self._ledger.records) is None and not create:
            there = self.collections()
            has = ", ".join(there[:5]) or "none"
            raise NoSuchCollection(f"{self.name}: no collection {self.collection!r}; it has: {has}", there)
        if create:
            self._server.create(self._ledger.records, len(DUMMY), RECORD_INDICES, searched=False)
            self._server.dimension(self._ledger.records)
            others = [one for one in self.collections() if one != self.collection]
            self._ledger.make_head([Ledger(self._server, one) for one in others])
        head = self._ledger.head()
        if create:
            self._recompute_rows(head)

    @property
    def name(self) -> str:
        """The address without options."""
        return self._server.name

    @property
    def remarks(self) -> tuple[str, ...]:
        """Messages for the user about the connection."""
        return self._server.remarks

    def close(self) -> None:
        """Close the connection; all changes are already stored."""
        self._server.close()

    def version(self) -> int:
        """Return a number that changes with every change of the people of the collection."""
        return self._ledger.head().seq

    def collections(self) -> list[str]:
        """Return the names of all collections of people at the server."""
        prefix = "facespace-"
        names = [one for one in self._server.collections() if one.startswith(prefix) and one.endswith(_RECORDS)]
        return sorted(one[len(prefix) : -len(_RECORDS)] for one in names)

    # Settings

    def setting(self, key: str) -> Any:
        """Return a stored setting, or None."""
        if key == _TEMPLATES:  # stored in the head, because the rows depend on it
            text = self._ledger.head().templates
            return self._reader.json(text, "the setting templates") if text else None
        found = self._server.read(self._ledger.records, [setting_point(key)])
        return self._reader.json(self._reader.field(found[0], "value"), f"the setting {key}") if found else None

    def set_once(self, key: str, value: Any) -> Any:
        """Store a setting unless it already has a value; return the stored value."""
        if key == _TEMPLATES:
            if self.setting(key) is None:
                self.set(key, value)
        else:
            self._put_setting(key, value, overwrite=False)
        return self.setting(key)

    def set(self, key: str, value: Any) -> None:
        """Store a setting, replacing the old value."""
        if key != _TEMPLATES:
            self._put_setting(key, value, overwrite=True)
            return
        with self._lock:
            for head in self._ledger.attempts():
                draft = Draft(self._ledger, head, actor_name())
                draft.set_templates(json.dumps(value))
                if draft.commit():
                    break
            self._recompute_rows(self._ledger.head())

    def _put_setting(self, key: str, value: Any, *, overwrite: bool) -> None:
        payload = {"kind": "setting", "key": key, "value": json.dumps(value, sort_keys=True)}
        self._server.insert(self._ledger.records, [point(setting_point(key), DUMMY, payload)], overwrite=overwrite)

    def _recompute_rows(self, head: Head) -> None:
        """Recompute search rows that do not follow the setting `templates`; an interrupted call can be repeated."""
        condition = models.Filter(
            must=[*_PERSON, equal("templates", ""), at_least("n_photos", 2)],
            must_not=[equal("rows", self._reader.default_rows(head))],
        )
        while ids := [
            self._reader.integer(self._reader.field(one, "id"))
            for one in self._server.scroll(self._ledger.records, condition, fields=["id"], limit=_N_RECOMPUTED)
        ]:
            draft = Draft(self._ledger, self._ledger.head(), actor_name())
            draft.load_people(ids)
            draft.commit()  # if another process was first, the loop tries again

    # Reading people

    def count(self, *, photos: bool = False) -> int:
        """Return the number of people, or with `photos` the number of all their photos."""
        head = self._ledger.head()
        return head.n_photos if photos else head.n_people

    def people(self, *, after: str = "", limit: int | None = None) -> list[StoredPerson]:
        """Return people sorted by name: at most `limit` after the name `after`."""
        if limit is None:
            found = [self._reader.stored_person(one) for one in self._settled(self._ledger.records, where(*_PERSON))]
            return sorted((one for one in found if one.state.name > after), key=lambda one: one.state.name)
        self._ledger.head()
        page: list[StoredPerson] = []
        ordered = self._in_order(0, (), order_of(after) if after else [])
        while len(page) < limit and (one := next(ordered, None)) is not None:
            if one.state.name > after:
                page.append(one)
        return page

    def _in_order(self, level: int, known: Sequence[Any], least: Sequence[int]) -> Iterator[StoredPerson]:
        """Yield the people whose first `level` order keys meet `known`, by name, from the order keys `least` on."""
        if level == len(ORDER):
            condition = where(*_PERSON, *known)
            found = [self._reader.stored_person(one) for one in self._server.scroll(self._ledger.records, condition)]
            yield from sorted(found, key=lambda one: one.state.name)
            return
        key, start = ORDER[level], least[level] if least else 0
        while True:
            condition = where(*_PERSON, *known, at_least(key, start))
            order = models.OrderBy(key=key, direction=models.Direction.ASC)
            page = list(self._server.scroll(self._ledger.records, condition, order=order, limit=_PAGE))
            people = [(order_of(one.state.name)[level], one) for one in map(self._reader.stored_person, page)]
            last = people[-1][0] if len(people) == _PAGE else None
            yield from sorted((one for at, one in people if at != last), key=lambda one: one.state.name)
            if last is None:
                return
            # More people with the last key may follow after the page.
            exact = [*known, equal(key, last)]
            yield from self._in_order(level + 1, exact, least if least and last == least[level] else [])
            start = last + 1

    def get(self, ids: Sequence[int]) -> list[StoredPerson]:
        """Return the people with these ids, in the order of `ids`, leaving out unknown ids."""
        self._ledger.head()
        found = {}
        for part in parts([int(one) for one in ids]):
            for record in self._server.scroll(self._ledger.records, where(*_PERSON, one_of("id", part))):
                one = self._reader.stored_person(record)
                found[one.id] = one
        return [found[one] for one in ids if one in found]

    def find(self, name: str) -> StoredPerson | None:
        """Return the person with that name, or None."""
        return self._found(equal("name", name))

    def find_external(self, external_id: str) -> StoredPerson | None:
        """Return the person with that external id, or None."""
        return self._found(equal("external", external_id)) if external_id else None

    def _found(self, condition: Any) -> StoredPerson | None:
        self._ledger.head()
        found = list(self._server.scroll(self._ledger.records, where(*_PERSON, condition), limit=1))
        return self._reader.stored_person(found[0]) if found else None

    def find_digest(self, digest: str) -> list[int]:
        """Return the ids of the people who have a photo with that digest."""
        if self._ledger.dimension() is None:
            return []
        found = self._settled(self._ledger.photos, where(equal("state", LIVE), equal("digest", digest)), PHOTO_FIELDS)
        return sorted({self._reader.photo(one).photo.person for one in found})

    def photos(self, person: int) -> list[StoredPhoto]:
        """Return the photos of the person with that id, in the order they were added."""
        if self._ledger.dimension() is None:
            return []
        found = self._settled(self._ledger.photos, where(equal("state", LIVE), equal("person", person)), PHOTO_FIELDS)
        return sorted((self._reader.photo(one).photo for one in found), key=lambda one: one.id)

    def embeddings(self, photos: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the vectors (n,D) of photos, including removed photos."""
        self._ledger.head()
        dimension = self._ledger.dimension() or 0
        found: dict[int, npt.NDArray[np.float32]] = {}
        for part in parts([int(one) for one in photos]) if dimension else ():
            condition = where(one_of("state", [LIVE, GONE]), one_of("id", part))
            records = list(self._server.scroll(self._ledger.photos, condition, fields=["id"], vectors=True))
            vectors = self._reader.vectors(records, dimension).astype(np.float32)
            keys = [self._reader.integer(self._reader.field(one, "id")) for one in records]
            found |= dict(zip(keys, vectors, strict=True))
        missing = [one for one in photos if one not in found]
        if missing:
            raise GalleryError(f"{self.name}: no photo has the id {missing[0]}")
        return np.array([found[one] for one in photos], np.float32).reshape(len(photos), dimension if photos else 0)

    def crop(self, photo: int) -> bytes | None:
        """Return the encoded crop of a photo, or None if it was not stored."""
        self._ledger.head()
        if self._ledger.dimension() is None:
            return None
        condition = where(one_of("state", [LIVE, GONE]), equal("id", photo))
        found = list(self._server.scroll(self._ledger.photos, condition, limit=1))
        return self._reader.crop(found[0]) if found else None

    def _settled(self, collection: str, condition: Any, fields: Any = True, *, vectors: bool = False) -> list[Any]:
        """Return all points that meet a condition; read again, a few times at most, if others wrote meanwhile."""
        found: list[Any] = []
        for _ in range(_N_ATTEMPTS):
            seq = self._ledger.head().seq
            found = list(self._server.scroll(collection, condition, fields=fields, vectors=vectors))
            if self._ledger.head().seq == seq:
                break
        return found

    def vectors(self, dimension: int) -> StoredVectors:
        """Return all people and embeddings; raise `GalleryError` if they are damaged."""
        people: dict[int, str] = {}
        known: list[tuple[int, int, Any, float]] = []
        held = self._ledger.dimension()
        for _ in range(_N_ATTEMPTS if held is not None else 0):
            seq = self._ledger.head().seq
            found = map(self._reader.person, self._server.scroll(self._ledger.records, where(*_PERSON)))
            people = {one.id: one.state.name for one in found}
            known = []
            for record in self._server.scroll(
                self._ledger.photos, where(equal("state", LIVE)), fields=PHOTO_FIELDS, vectors=True
            ):
                photo = self._reader.photo(record).photo
                quality = math.nan if photo.quality is None else photo.quality
                if photo.person in people:
                    known.append((photo.person, photo.id, record, quality))
            if self._ledger.head().seq == seq:
                break
        known.sort(key=lambda one: one[:2])
        place = {one: k for k, one in enumerate(dict.fromkeys(person for person, *_ in known))}
        return StoredVectors(
            [people[one] for one in place],
            np.array([place[person] for person, *_ in known], np.int64),
            self._reader.vectors([record for _, _, record, _ in known], dimension).astype(np.float32),
            np.array([quality for *_, quality in known], np.float32),
        )

    def nearest(self, probes: npt.NDArray[np.float32], k: int) -> Nearest:
        """Return the k most similar people of each probe (N,D), found by the server and ranked by exact similarities."""
        from facespace.identification.stores.qdrant_search import nearest_people

        return nearest_people(self._ledger, probes, k)

    # Changing people

    def add(self, name: str, entry: Entry, person: int | None = None) -> bool:
        """Store one photo under a name; return False if the person already has this crop."""
        vector = np.ascontiguousarray(entry.embedding, np.float16)
        with self._lock:
            self._ledger.ensure_vectors(len(vector))
            for head in self._ledger.attempts():
                draft = Draft(self._ledger, head, actor_name())
                held = draft.called(name)
                if person is not None and person != (0 if held is None else held.id):
                    raise Conflict(f"{self.name}: {name!r} was changed meanwhile; try again")
                if held is not None:
                    if entry.digest in held.state.rejected:
                        raise GalleryError(f"{self.name}: somebody said that this photo does not show {name}; left out")
                    draft.load_photos_of([held.id])
                    if any(one.photo.digest == entry.digest for one in draft.photos.values()):
                        return False
                owner = held.id if held is not None else draft.put_person(0, PersonState(name))
                photo = draft.add_photo(entry, vector, owner)
                # The log stores only ids, so that enrolments are short and contain no name.
                what = {"photo": photo, "person": owner} | ({"new": True} if held is None else {})
                draft.log("enroll", "", json.dumps(what))
                if draft.commit():
                    return True
        raise AssertionError  # attempts end with an error

    def apply(self, change: Change, *, undoes: int | None = None) -> int:
        """Apply a change and log it; return its number in the log."""
        with self._lock:
            for head in self._ledger.attempts():
                draft = Draft(self._ledger, head, actor_name())
                if undoes is not None:
                    condition = where(equal("kind", "log"), equal("state", LIVE), equal("id", undoes))
                    line = next(iter(self._server.scroll(self._ledger.records, condition, limit=1)), None)
                    if line is None or self._reader.field(line, "undone"):
                        raise Conflict(f"{self.name}: change {undoes} was already undone")
                    draft.take_back(str(line.id))
                done = draft.apply(change)
                number = draft.log(done.kind, done.text, change_to_json(done))
                if draft.commit():
                    return number
        raise AssertionError  # attempts end with an error

    def log(self, limit: int = 20) -> list[LogEntry]:
        """Return the last changes, latest first."""
        from facespace.identification.stores.qdrant_log import log_entries

        return log_entries(self._ledger, limit)

    def drop(self) -> None:
        """Erase the whole collection: all people, settings and the log."""
        with self._lock:
            self._server.remove([self._ledger.photos, self._ledger.records])

    def erase(self, people: Sequence[int] | None = None, *, before: float | None = None) -> int:
        """Erase removed photos and people permanently; return how many photos were erased.

        They cannot be found any more when this returns. Their bytes leave the server's disk when it rewrites their
        segments; earlier snapshots still contain them.
        """
        from facespace.identification.stores.qdrant_erasure import erase_removed

        with self._lock:
            for head in self._ledger.attempts():
                n_photos, decided = erase_removed(Draft(self._ledger, head, actor_name()), people, before)
                if decided:
                    return n_photos
        raise AssertionError  # attempts end with an error
