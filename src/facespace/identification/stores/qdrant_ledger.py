"""Changes at a server without transactions: decided one after the other at one point, then carried out by anybody.

A change is written down whole (its intent), and what it adds is written as `staged` points, which no reading sees. Then one
conditional write decides: it makes the head point to the intent, if the head still has the number that was read before the
change was made. The server does writes to a point one by one, so of two processes that change a gallery in the same moment
one wins; the other reads again and tries again. After that the change is done, whatever happens to its process: whoever
sees an intent that is not finished, carries it out, reading or writing. Its steps can be repeated and can come late: they
make no points, and they leave points alone that a later change has written.
"""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from facespace.errors import GalleryError
from facespace.identification.stores.qdrant_points import (
    DUMMY,
    HEAD,
    LIVE,
    PHOTO_INDICES,
    ROW_INDICES,
    STAGED,
    Head,
    Reader,
    below,
    deleting,
    equal,
    new_point,
    point,
    points_in,
    setting,
    where,
)
from facespace.identification.stores.qdrant_server import Server, parts

_BUSY_SECONDS = 60.0
_PATIENCE = 0.02  # seconds in which another process may finish its own change
_KEPT_LOG = 1_000  # enrolments that can be undone; other changes stay in the log
_KEPT_INTENTS = 1_000  # changes after which nobody asks any more whether one was decided
_IDS = 10**9  # ids of a collection, so that one of another collection is not taken for one of its own
_SWEPT = 64  # changes between two sweeps of what is kept no longer


@dataclass
class Intent:
    """What a change does once it is decided; `head` is what the head says after it.

    `people` and `photos` are fields and the points that get them, `added_rows` and `deleted_rows` points of rows, `logs` those
    of its lines in the log, `undone` that of a line it takes back, `forgotten` texts and the lines that get them. `erased`
    are points by collection. `new_records`, `new_photos` and `new_rows` are staged before.
    """

    head: Head
    people: list[tuple[dict[str, Any], list[str]]] = field(default_factory=list)
    photos: list[tuple[dict[str, Any], list[str]]] = field(default_factory=list)
    added_rows: list[str] = field(default_factory=list)
    deleted_rows: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    forgotten: list[tuple[str, list[str]]] = field(default_factory=list)
    erased: dict[str, list[str]] = field(default_factory=dict)
    new_records: list[Any] = field(default_factory=list)
    new_photos: list[Any] = field(default_factory=list)
    new_rows: list[Any] = field(default_factory=list)

    _STORED = ("people", "photos", "added_rows", "deleted_rows", "logs", "undone", "forgotten", "erased")

    def to_json(self) -> str:
        """What has to be known to carry it out."""
        return json.dumps({key: getattr(self, key) for key in self._STORED}, sort_keys=True)

    @classmethod
    def from_json(cls, head: Head, stored: Any) -> Intent:
        """An intent as it was written; `ValueError` for anything else."""
        if not isinstance(stored, dict) or set(stored) != set(cls._STORED):
            raise ValueError("an intent has other fields")
        for key in ("added_rows", "deleted_rows", "logs", "undone"):
            _check_points(stored[key])
        for key, first in (("people", dict), ("photos", dict), ("forgotten", str)):
            if not isinstance(stored[key], list):
                raise ValueError(f"the {key} of an intent are not a list")  # noqa: TRY004 - of a file
            for one in stored[key]:
                if not isinstance(one, list) or len(one) != 2 or not isinstance(one[0], first):
                    raise ValueError(f"the {key} of an intent are not pairs")
                _check_points(one[1])
        if not isinstance(stored["erased"], dict) or not set(stored["erased"]) <= {"records", "photos", "rows"}:
            raise ValueError("what an intent erases is in no known collection")
        for points in stored["erased"].values():
            _check_points(points)
        return cls(head, **stored)


class Ledger:
    """The head of a gallery, its intents, and the three collections in which they are carried out."""

    def __init__(self, server: Server, collection: str) -> None:
        self.server = server
        self.reader = Reader(server.name)
        self.records, self.photos, self.rows = (
            f"facespace-{collection}-{one}" for one in ("records", "photos", "people")
        )
        self._dimension: int | None = None

    def dimension(self) -> int | None:
        """How many numbers the vectors have; None before the first one is stored."""
        if self._dimension is None:
            self._dimension = self.server.dimension(self.photos)
        return self._dimension

    def take_vectors(self, dimension: int) -> None:
        """Make the collections of vectors, if there are none; `GalleryError` where they have another dimension."""
        if self.dimension() is None:
            # The photos last: whoever finds these finds the rows too.
            self.server.create(self.rows, dimension, ROW_INDICES, searched=True)
            self.server.create(self.photos, dimension, PHOTO_INDICES, searched=False)
        if self.dimension() != dimension or self.server.dimension(self.rows) != dimension:
            raise GalleryError(
                f"{self.server.name}: its embeddings have {self._dimension} numbers, got one of {dimension}; use another collection"
            )

    def head(self) -> Head:
        """The head when no change is half done; one that is gets finished here."""
        deadline = time.monotonic() + _BUSY_SECONDS
        seen = ""
        while time.monotonic() < deadline:
            head = self._head()
            if not head.pending:
                return head
            if head.pending == seen:
                self._finish(head)
            seen = head.pending
            time.sleep(_PATIENCE)
        raise self._busy()

    def attempts(self) -> Iterator[Head]:
        """Heads to try a change on, until one is decided; `GalleryError` after a minute."""
        deadline = time.monotonic() + _BUSY_SECONDS
        pause = _PATIENCE
        while time.monotonic() < deadline:
            yield self.head()
            time.sleep(random.uniform(0, pause))  # noqa: S311 - not a secret
            pause = min(2 * pause, 1.0)
        raise self._busy()

    def _busy(self) -> GalleryError:
        return GalleryError(
            f"{self.server.name}: other processes changed it for {_BUSY_SECONDS:.0f} s; try again when fewer do"
        )

    def _head(self) -> Head:
        for turn in range(5):
            if found := self.server.read(self.records, [HEAD]):
                return self.reader.head(found[0])
            if turn < 4:
                time.sleep(_PATIENCE)  # replicas may differ for a moment
        raise self.reader.damaged("its head is missing")

    def make_head(self, others: Sequence[Ledger]) -> None:
        """Write the head of a new gallery; one that is there stays. Its ids begin above those of `others`."""
        if self.server.read(self.records, [HEAD]):
            return
        start = 0
        for other in others:
            for found in self.server.read(other.records, [HEAD]):
                head = self.reader.head(found)
                start = max(start, 1 + max(head.last_person, head.last_photo, head.last_log) // _IDS)
        first = Head(last_person=start * _IDS, last_photo=start * _IDS, last_log=start * _IDS)
        self.server.insert(self.records, [point(HEAD, DUMMY, first.payload())])

    def commit(self, before: Head, intent: Intent) -> bool:
        """Decide a change and carry it out; False, with nothing changed, where another was decided since `before`."""
        entry, now = new_point(), int(time.time())
        after = dataclasses.replace(intent.head, seq=before.seq + 1, pending=entry)
        written = {"kind": "change", "seq": after.seq, "state": STAGED, "added": now, "intent": intent.to_json()}
        self.server.insert(self.photos, intent.new_photos)
        self.server.insert(self.rows, intent.new_rows)
        self.server.insert(self.records, [*intent.new_records, point(entry, DUMMY, written)])
        condition = (points_in([HEAD]), equal("seq", before.seq), equal("pending", ""))
        self.server.change(self.records, [setting(after.payload(), *condition)])
        if not self._was_decided(after):
            self._unstage(intent, entry)
            return False
        self._carry_out(after, intent)
        return True

    def _was_decided(self, after: Head) -> bool:
        if self._head().pending == after.pending:
            return True
        # Whoever finished it for us has said so before the head went on.
        found = self.server.read(self.records, [after.pending])
        return bool(found) and self.reader.field(found[0], "state") == "done"

    def _unstage(self, intent: Intent, entry: str) -> None:
        for collection, staged in ((self.photos, intent.new_photos), (self.rows, intent.new_rows)):
            if staged:
                self.server.change(collection, [_deleted(one) for one in parts([one.id for one in staged])])
        staged = [*(one.id for one in intent.new_records), entry]
        self.server.change(self.records, [_deleted(one) for one in parts(staged)])

    def _finish(self, head: Head) -> None:
        """Carry out the intent that another process left."""
        found = self.server.read(self.records, [head.pending])
        if not found:
            if self._head() == head:
                raise self.reader.damaged("a change that was begun is missing")
            return
        if self.reader.field(found[0], "state") == "done":
            self.server.change(self.records, [self._clearing(head)])
            return
        stored = self.reader.json(self.reader.field(found[0], "intent"), "an intent")
        try:
            intent = Intent.from_json(head, stored)
        except ValueError as error:
            raise self.reader.damaged(str(error)) from None
        self._carry_out(head, intent)

    def _carry_out(self, head: Head, intent: Intent) -> None:
        n = head.seq
        photos = [*_written(intent.photos, n), *_erased(intent, "photos")]
        rows = [
            setting({"state": LIVE}, points_in(some), equal("state", STAGED)) for some in parts(intent.added_rows)
        ] + [_deleted(some) for some in parts(intent.deleted_rows)]
        rows += _erased(intent, "rows")
        records = [*_written(intent.people, n), *_erased(intent, "records")]
        records += [
            setting({"text": text, "change": ""}, points_in(some))
            for text, points in intent.forgotten
            for some in parts(points)
        ]
        if intent.undone:
            records.append(setting({"undone": True}, points_in(intent.undone)))
        if intent.logs:
            records.append(setting({"state": LIVE}, points_in(intent.logs), equal("state", STAGED)))
        if n % _SWEPT == 0:
            old = max(0, head.last_log - _KEPT_LOG)
            records.append(deleting(equal("kind", "log"), equal("what", "enroll"), below("id", old)))
            old = max(0, n - _KEPT_INTENTS)
            records.append(deleting(equal("kind", "change"), equal("state", "done"), below("seq", old)))
        records.append(setting({"state": "done", "intent": ""}, points_in([head.pending])))
        records.append(self._clearing(head))
        if photos:
            self.server.change(self.photos, photos)
        if rows:
            self.server.change(self.rows, rows)
        self.server.change(self.records, records)

    def _clearing(self, head: Head) -> Any:
        condition = (points_in([HEAD]), equal("seq", head.seq), equal("pending", head.pending))
        return setting({"pending": ""}, *condition)

    def staged_before(self, moment: int) -> dict[str, list[str]]:
        """What processes staged before that time, and left undecided."""
        condition = where(equal("state", STAGED), below("added", moment))
        collections = {"records": self.records, "photos": self.photos, "rows": self.rows}
        if self.dimension() is None:
            collections = {"records": self.records}
        return {
            key: [str(one.id) for one in self.server.scroll(name, condition, fields=False)]
            for key, name in collections.items()
        }


def log_line(key: int, actor: str, what: str, text: str, change: str) -> Any:
    """A point of the log, staged."""
    return point(
        new_point(), DUMMY,
        {"kind": "log", "id": key, "added": int(time.time()), "actor": actor, "what": what, "text": text,
         "change": change, "undone": False, "state": STAGED},
    )  # fmt: skip


def _written(several: Sequence[tuple[dict[str, Any], list[str]]], n: int) -> Iterator[Any]:
    for payload, points in several:
        for some in parts(points):
            yield setting({**payload, "v": n}, points_in(some), below("v", n))


def _erased(intent: Intent, key: str) -> list[Any]:
    return [_deleted(some) for some in parts(intent.erased.get(key, []))]


def _deleted(points: Sequence[str]) -> Any:
    return deleting(points_in(points))


def _check_points(points: Any) -> None:
    if not isinstance(points, list) or not all(isinstance(one, str) and len(one) == 36 for one in points):
        raise ValueError("the points of an intent are not ids")
