"""A gallery at a Qdrant server or cluster, shared by many processes.

A gallery is three collections of the server: `facespace-NAME-people` has a point for every row that a probe is compared
with, `facespace-NAME-photos` one for every photo, and `facespace-NAME-records` one for every person, setting, and line of
the log. Qdrant has no transactions; `qdrant_ledger` says how a change is whole or not at all all the same.

What can happen, and what cannot:

- Of two processes that change the gallery in the same moment one is first; the other reads again. Where it was the same
  person, `apply` raises `Conflict`. No update is lost, no name is given twice, no photo has two owners.
- All changes of a collection pass one point, so they do not become faster with more processes.
- A process that dies, or loses the server, in the middle of a change leaves it undone or done: whoever reads or writes next
  finishes it. After a `GalleryError` of the connection the caller does not know which; asking again tells.
- A search that runs while a change is carried out may find a person as they were before it, or by their old and their new
  row, of which the more similar one counts.
- Erased points are not found any more at once; their bytes leave the server's disk when it writes the segment again.
- With several replicas this rests on the server's promise that writes of strong ordering pass one leader. This has been
  tested without a cluster: against Qdrant's own client in memory, whose durability is not that of a server.
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
_PAGE = 100  # people read at once where a page of them is asked for
_TRIES = 5  # of reading what others change meanwhile
_REMADE = 100  # people whose rows are made again in one change
_TEMPLATES = "templates"
_RECORDS = "-records"


class QdrantStore:
    """One collection of people at a Qdrant server.

    `address` is `qdrant://host:port`, or `qdrants://host:port` for TLS; the API key stands in the environment variable
    FACESPACE_QDRANT_API_KEY. Options of the address hold for the collections that are made: `?replicas=3` keeps every point
    on three nodes of a cluster, `?quantize=binary` searches 1-bit vectors before exact ones, and `?timeout=60` allows a
    request more than 20 seconds. `create` makes a missing collection; otherwise `GalleryError` says it is missing. `client`
    is a `QdrantClient` that is open already and stays open. Safe to share between threads.
    """

    def __init__(self, address: str, *, collection: str = "default", create: bool = False, client: Any = None) -> None:
        self.collection = collection
        self._lock = threading.RLock()  # one change at a time: those of threads need not compete
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
            self._remake_rows(head)

    @property
    def name(self) -> str:
        """The address, without options."""
        return self._server.name

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know of the connection."""
        return self._server.remarks

    def close(self) -> None:
        """Close the connection; nothing is pending."""
        self._server.close()

    def version(self) -> int:
        """A number that changes whenever anybody has changed the people of the collection."""
        return self._ledger.head().seq

    def collections(self) -> list[str]:
        """The names of all collections of people at the server."""
        prefix = "facespace-"
        names = [one for one in self._server.collections() if one.startswith(prefix) and one.endswith(_RECORDS)]
        return sorted(one[len(prefix) : -len(_RECORDS)] for one in names)

    # Settings

    def setting(self, key: str) -> Any:
        """A stored setting, or None."""
        if key == _TEMPLATES:  # decided with the changes, as rows depend on it
            text = self._ledger.head().templates
            return self._reader.json(text, "the setting templates") if text else None
        found = self._server.read(self._ledger.records, [setting_point(key)])
        return self._reader.json(self._reader.field(found[0], "value"), f"the setting {key}") if found else None

    def set_once(self, key: str, value: Any) -> Any:
        """Store a setting unless it has a value; returns the value that holds."""
        if key == _TEMPLATES:
            if self.setting(key) is None:
                self.set(key, value)
        else:
            self._put_setting(key, value, overwrite=False)
        return self.setting(key)

    def set(self, key: str, value: Any) -> None:
        """Store a setting in place of what it was."""
        if key != _TEMPLATES:
            self._put_setting(key, value, overwrite=True)
            return
        with self._lock:
            for head in self._ledger.attempts():
                draft = Draft(self._ledger, head, actor_name())
                draft.set_templates(json.dumps(value))
                if draft.commit():
                    break
            self._remake_rows(self._ledger.head())

    def _put_setting(self, key: str, value: Any, *, overwrite: bool) -> None:
        payload = {"kind": "setting", "key": key, "value": json.dumps(value, sort_keys=True)}
        self._server.insert(self._ledger.records, [point(setting_point(key), DUMMY, payload)], overwrite=overwrite)

    def _remake_rows(self, head: Head) -> None:
        """Make the rows again of people whose photos are compared in another way now; a process may have died doing so."""
        condition = models.Filter(
            must=[*_PERSON, equal("templates", ""), at_least("n_photos", 2)],
            must_not=[equal("rows", self._reader.default_rows(head))],
        )
        while ids := [
            self._reader.integer(self._reader.field(one, "id"))
            for one in self._server.scroll(self._ledger.records, condition, fields=["id"], limit=_REMADE)
        ]:
            draft = Draft(self._ledger, self._ledger.head(), actor_name())
            draft.load_people(ids)
            draft.commit()  # or again, where somebody else was faster

    # Reading people

    def count(self, *, photos: bool = False) -> int:
        """How many people there are, or how many `photos` they have together."""
        head = self._ledger.head()
        return head.n_photos if photos else head.n_people

    def people(self, *, after: str = "", limit: int | None = None) -> list[StoredPerson]:
        """People by name, those after the name `after` and at most `limit`."""
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
        """People whose first keys of order are `known`, from the keys `least` on."""
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
            # Of those with the last key, others may come after the page.
            exact = [*known, equal(key, last)]
            yield from self._in_order(level + 1, exact, least if least and last == least[level] else [])
            start = last + 1

    def get(self, ids: Sequence[int]) -> list[StoredPerson]:
        """The people with these ids who are there, in the order of `ids`."""
        self._ledger.head()
        found = {}
        for part in parts([int(one) for one in ids]):
            for record in self._server.scroll(self._ledger.records, where(*_PERSON, one_of("id", part))):
                one = self._reader.stored_person(record)
                found[one.id] = one
        return [found[one] for one in ids if one in found]

    def find(self, name: str) -> StoredPerson | None:
        """The person of that name."""
        return self._found(equal("name", name))

    def find_external(self, external_id: str) -> StoredPerson | None:
        """The person whom another system calls so."""
        return self._found(equal("external", external_id)) if external_id else None

    def _found(self, condition: Any) -> StoredPerson | None:
        self._ledger.head()
        found = list(self._server.scroll(self._ledger.records, where(*_PERSON, condition), limit=1))
        return self._reader.stored_person(found[0]) if found else None

    def find_digest(self, digest: str) -> list[int]:
        """The ids of the people who have a photo with that digest."""
        if self._ledger.dimension() is None:
            return []
        found = self._settled(self._ledger.photos, where(equal("state", LIVE), equal("digest", digest)), PHOTO_FIELDS)
        return sorted({self._reader.photo(one).photo.person for one in found})

    def photos(self, person: int) -> list[StoredPhoto]:
        """The photos of the person with that id, in the order they were added."""
        if self._ledger.dimension() is None:
            return []
        found = self._settled(self._ledger.photos, where(equal("state", LIVE), equal("person", person)), PHOTO_FIELDS)
        return sorted((self._reader.photo(one).photo for one in found), key=lambda one: one.id)

    def embeddings(self, photos: Sequence[int]) -> npt.NDArray[np.float32]:
        """The vectors (n,D) of photos, removed ones included."""
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
            raise GalleryError(f"{self.name}: no photo has the number {missing[0]}")
        return np.array([found[one] for one in photos], np.float32).reshape(len(photos), dimension if photos else 0)

    def crop(self, photo: int) -> bytes | None:
        """The encoded crop of a photo, where it was kept."""
        self._ledger.head()
        if self._ledger.dimension() is None:
            return None
        condition = where(one_of("state", [LIVE, GONE]), equal("id", photo))
        found = list(self._server.scroll(self._ledger.photos, condition, limit=1))
        return self._reader.crop(found[0]) if found else None

    def _settled(self, collection: str, condition: Any, fields: Any = True, *, vectors: bool = False) -> list[Any]:
        """All points that meet a condition, of one state of the gallery unless others change it all the time."""
        found: list[Any] = []
        for _ in range(_TRIES):
            seq = self._ledger.head().seq
            found = list(self._server.scroll(collection, condition, fields=fields, vectors=vectors))
            if self._ledger.head().seq == seq:
                break
        return found

    def vectors(self, dimension: int) -> StoredVectors:
        """Everything that is compared; `GalleryError` where it is damaged."""
        people: dict[int, str] = {}
        known: list[tuple[int, int, Any, float]] = []
        held = self._ledger.dimension()
        for _ in range(_TRIES if held is not None else 0):
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
        """The k most similar people of each probe (N,D): found by the server, and ranked by exact similarities here."""
        from facespace.identification.stores.qdrant_search import nearest_people

        return nearest_people(self._ledger, probes, k)

    # Changing people

    def add(self, name: str, entry: Entry, person: int | None = None) -> bool:
        """Store one embedding under a name; False when this crop is there already."""
        vector = np.ascontiguousarray(entry.embedding, np.float16)
        with self._lock:
            self._ledger.take_vectors(len(vector))
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
                # Short, and without a name.
                what = {"photo": photo, "person": owner} | ({"new": True} if held is None else {})
                draft.log("enroll", "", json.dumps(what))
                if draft.commit():
                    return True
        raise AssertionError  # attempts end with an error

    def apply(self, change: Change, *, undoes: int | None = None) -> int:
        """Do a change and log it; returns its number in the log."""
        with self._lock:
            for head in self._ledger.attempts():
                draft = Draft(self._ledger, head, actor_name())
                if undoes is not None:
                    condition = where(equal("kind", "log"), equal("state", LIVE), equal("id", undoes))
                    line = next(iter(self._server.scroll(self._ledger.records, condition, limit=1)), None)
                    if line is None or self._reader.field(line, "undone"):
                        raise Conflict(f"{self.name}: change {undoes} was undone already")
                    draft.take_back(str(line.id))
                done = draft.apply(change)
                number = draft.log(done.kind, done.text, change_to_json(done))
                if draft.commit():
                    return number
        raise AssertionError  # attempts end with an error

    def log(self, limit: int = 20) -> list[LogEntry]:
        """The last changes, the latest first."""
        from facespace.identification.stores.qdrant_log import log_entries

        return log_entries(self._ledger, limit)

    def drop(self) -> None:
        """Erase the collection itself, with everybody, settings and log."""
        with self._lock:
            self._server.remove([self._ledger.photos, self._ledger.records])

    def erase(self, people: Sequence[int] | None = None, *, before: float | None = None) -> int:
        """Erase removed photos and people for good; returns how many photos there were.

        Nobody finds them any more when this returns. Their bytes are gone from the server's disk after it has written the
        segments again that they were in; snapshots that were made before have them still.
        """
        from facespace.identification.stores.qdrant_erasure import erase_removed

        with self._lock:
            for head in self._ledger.attempts():
                n_photos, decided = erase_removed(Draft(self._ledger, head, actor_name()), people, before)
                if decided:
                    return n_photos
        raise AssertionError  # attempts end with an error
