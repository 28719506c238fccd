"""Atomic changes at a server without transactions: committed one after another at one point, completed by any process.

A change is first written as a record (its intent), and its new points are written as `staged`, which no read returns. Then
one conditional write commits it: it makes the head point to the intent, if the head still has the number that was read
before the change was prepared. The server applies writes to a point one by one, so if two processes change a gallery at the
same moment, one succeeds, and the other reads again and retries. A committed change is completed even if its process dies:
every process that sees an unfinished intent, while reading or writing, carries it out. Its steps can be
repeated and may come late: they create no points and do not touch points that a later change has written.
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
_WAIT_SECONDS = 0.02  # the time another process has to finish its own change
_KEPT_LOG = 1_000  # enrolments that can be undone; other changes stay in the log
_KEPT_INTENTS = 1_000  # finished intents that are kept, so that their processes can see that they were committed
_IDS = 10**9  # ids reserved for a collection, so that ids of different collections differ
_CLEANUP_INTERVAL = 64  # changes between two deletions of old enrolments and intents


@dataclass
class Intent:
    """What a change does to the points of a gallery. It is carried out once the change is committed.

    `head` is the gallery's head after the change. `people` and `photos` are pairs (fields, points): these points get these
    fields. `added_rows` and `deleted_rows` are search rows that appear and disappear. `logs` are the lines that the change
    adds to the log, and `undone` is the line that it undoes. `forgotten` are pairs (text, lines): the text replaces that of
    these log lines. `erased` are points to delete, by collection. `new_records`, `new_photos` and `new_rows` are points that
    are written as `staged` before the commit.
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
        """Return the fields that are needed to carry out the intent, as JSON."""
        return json.dumps({key: getattr(self, key) for key in self._STORED}, sort_keys=True)

    @classmethod
    def from_json(cls, head: Head, stored: Any) -> Intent:
        """Return an intent from its JSON; raise `ValueError` for anything else."""
        if not isinstance(stored, dict) or set(stored) != set(cls._STORED):
            raise ValueError("an intent has the wrong fields")
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
            raise ValueError("an intent erases points of an unknown collection")
        for points in stored["erased"].values():
            _check_points(points)
        return cls(head, **stored)


class Ledger:
    """The head of a gallery, its intents, and its three collections at the server."""

    def __init__(self, server: Server, collection: str) -> None:
        self.server = server
        self.reader = Reader(server.name)
        self.records, self.photos, self.rows = (
            f"facespace-{collection}-{one}" for one in ("records", "photos", "people")
        )
        self._dimension: int | None = None

    def dimension(self) -> int | None:
        """Return the dimension of the vectors; None before the first one is stored."""
        if self._dimension is None:
            self._dimension = self.server.dimension(self.photos)
        return self._dimension

    def ensure_vectors(self, dimension: int) -> None:
        """Create the collections of vectors if missing; raise `GalleryError` if they have another dimension."""
        if self.dimension() is None:
            # The photos come last, so that a process that finds them also finds the rows.
            self.server.create(self.rows, dimension, ROW_INDICES, searched=True)
            self.server.create(self.photos, dimension, PHOTO_INDICES, searched=False)
        if self.dimension() != dimension or self.server.dimension(self.rows) != dimension:
            raise GalleryError(
                f"{self.server.name}: an embedding must have {self._dimension} numbers, got {dimension}; use another collection"
            )

    def head(self) -> Head:
        """Return the head when no change is unfinished; finish another process's change if necessary."""
        deadline = time.monotonic() + _BUSY_SECONDS
        seen = ""
        while time.monotonic() < deadline:
            head = self._head()
            if not head.pending:
                return head
            if head.pending == seen:
                self._finish(head)
            seen = head.pending
            time.sleep(_WAIT_SECONDS)
        raise self._busy()

    def attempts(self) -> Iterator[Head]:
        """Yield heads for attempts to commit a change; raise `GalleryError` after a minute."""
        deadline = time.monotonic() + _BUSY_SECONDS
        pause = _WAIT_SECONDS
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
        for attempt in range(5):
            if found := self.server.read(self.records, [HEAD]):
                return self.reader.head(found[0])
            if attempt < 4:
                time.sleep(_WAIT_SECONDS)  # replicas may differ for a moment
        raise self.reader.damaged("its head is missing")

    def make_head(self, others: Sequence[Ledger]) -> None:
        """Write the head of a new gallery unless it exists; its ids begin above those of `others`."""
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
        """Commit a change and carry it out; return False, with nothing changed, if another change came first."""
        entry, now = new_point(), int(time.time())
        after = dataclasses.replace(intent.head, seq=before.seq + 1, pending=entry)
        written = {"kind": "change", "seq": after.seq, "state": STAGED, "added": now, "intent": intent.to_json()}
        self.server.insert(self.photos, intent.new_photos)
        self.server.insert(self.rows, intent.new_rows)
        self.server.insert(self.records, [*intent.new_records, point(entry, DUMMY, written)])
        condition = (points_in([HEAD]), equal("seq", before.seq), equal("pending", ""))
        self.server.change(self.records, [setting(after.payload(), *condition)])
        if not self._was_committed(after):
            self._unstage(intent, entry)
            return False
        self._carry_out(after, intent)
        return True

    def _was_committed(self, after: Head) -> bool:
        if self._head().pending == after.pending:
            return True
        # A process that finished our change has marked the intent as done before it moved the head on.
        found = self.server.read(self.records, [after.pending])
        return bool(found) and self.reader.field(found[0], "state") == "done"

    def _unstage(self, intent: Intent, entry: str) -> None:
        for collection, staged in ((self.photos, intent.new_photos), (self.rows, intent.new_rows)):
            if staged:
                self.server.change(collection, [_deleted(one) for one in parts([one.id for one in staged])])
        staged = [*(one.id for one in intent.new_records), entry]
        self.server.change(self.records, [_deleted(one) for one in parts(staged)])

    def _finish(self, head: Head) -> None:
        """Carry out the intent that another process left unfinished."""
        found = self.server.read(self.records, [head.pending])
        if not found:
            if self._head() == head:
                raise self.reader.damaged("the intent of a committed change is missing")
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
        if n % _CLEANUP_INTERVAL == 0:
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
        """Return the points of undecided changes that were staged before that time, by collection."""
        condition = where(equal("state", STAGED), below("added", moment))
        collections = {"records": self.records, "photos": self.photos, "rows": self.rows}
        if self.dimension() is None:
            collections = {"records": self.records}
        return {
            key: [str(one.id) for one in self.server.scroll(name, condition, fields=False)]
            for key, name in collections.items()
        }


def log_line(key: int, actor: str, what: str, text: str, change: str) -> Any:
    """Return a staged point of the log."""
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
