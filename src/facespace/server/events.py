"""Events of the service, in order: people seen, enrolled, changed and removed.

Events are in the state file: all workers see all of them, a listener that was away gets the events it has missed, and no
webhook loses an event when the service is killed. Changes of the gallery are on the disk before `emit` returns. Events of
people seen are frequent and may be lost: they are written a few times a second, and only while there is a listener.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from sqlite3 import Connection
from typing import TYPE_CHECKING, Any

from facespace.errors import FacespaceError

if TYPE_CHECKING:
    from facespace.server.state import State

SEEN = ("known", "unknown")  # kinds that are written only while there is a listener
CHANGES = ("enrolled", "removed", "changed")
KINDS = (*SEEN, *CHANGES)
KEYS = (
    "source", "person", "similarity", "threshold", "box", "quality", "photo_id", "unknown_id", "reason", "actor",
    "seconds", "snapshot",
)  # fmt: skip

MAX_EVENTS = 100_000  # kept events; older ones are deleted
MAX_DAYS = 30  # days for which an event is kept
MAX_WAITING = 10_000  # people seen that are not written yet; beyond this the oldest are dropped
MAX_LISTENERS = 1000  # open event streams of one worker
MAX_LISTENERS_OF_ONE = 100  # open event streams of one key
MAX_EVENT = 65_536  # characters of one event as JSON
MAX_LISTED = 1000  # events returned at once

_POLL = 0.25  # seconds until the file is read for events of other workers
_PRUNE = 60.0  # seconds between two deletions of old events
_RECENT = 2000  # events kept in memory, so that listeners that keep up need no query
_LISTENS_ON = 60.0  # seconds for which a request for a list counts as a listener
_FORGOTTEN = "forgotten"  # the mark that counts the calls of `forget` by all workers
_RENEW = 5.0  # seconds after which a worker records again that it has listeners

_TABLES = """
CREATE TABLE IF NOT EXISTS event (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT NOT NULL, collection TEXT NOT NULL,
    person TEXT, body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS event_person ON event (collection, person) WHERE person IS NOT NULL;
CREATE TABLE IF NOT EXISTS event_mark (name TEXT PRIMARY KEY, number INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS event_listener (name TEXT PRIMARY KEY, until REAL NOT NULL)
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its number, which increases from event to event, and the JSON object that listeners get."""

    number: int
    kind: str
    collection: str
    person: str | None
    json: str


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Selects events by kind, collection and person. A field that is None selects all.

    >>> EventFilter(kinds=("known",)).takes(Event(1, "known", "default", "7", "{}"))
    True
    >>> EventFilter(collection="staff").takes(Event(1, "known", "default", "7", "{}"))
    False
    """

    kinds: tuple[str, ...] | None = None
    collection: str | None = None
    person: str | None = None

    def takes(self, event: Event) -> bool:
        """Return whether the filter selects an event."""
        return (
            (self.kinds is None or event.kind in self.kinds)
            and (self.collection is None or event.collection == self.collection)
            and (self.person is None or event.person == self.person)
        )


def checked_kinds(kinds: Iterable[str]) -> tuple[str, ...] | None:
    """Return kinds of events without repeats, or None if no kind is given. Raise `ValueError` for an unknown kind.

    >>> checked_kinds(["removed", "known", "known"])
    ('removed', 'known')
    """
    found = tuple(dict.fromkeys(kinds))
    for kind in found:
        if kind not in KINDS:
            raise ValueError(f"a kind of event must be one of {', '.join(KINDS)}, got {kind[:40]!r}")
    return found or None


def event_body(kind: str, collection: str, data: Mapping[str, Any], *, at: float | None = None) -> str:
    """Return an event as JSON, without its id. Only `KEYS` of `data` are included, so never an image or an embedding.

    `data` may be a face as returned by `/v1/identify`. Raise `ValueError` for an unknown kind or an event that is too long.

    >>> event_body("unknown", "staff", {"unknown": {"reason": "stranger"}, "embedding": [0.1]}, at=0)
    '{"at":"1970-01-01T00:00:00.000Z","kind":"unknown","collection":"staff","source":"api","reason":"stranger"}'
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    moment = datetime.datetime.fromtimestamp(time.time() if at is None else at, datetime.timezone.utc)
    fields = {
        "at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "kind": kind,
        "collection": collection,
        "source": "api",
        **{key: data[key] for key in KEYS if data.get(key) is not None},
    }
    if isinstance(unknown := data.get("unknown"), dict):
        fields["reason"] = unknown.get("reason")
    text = json.dumps(fields, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    if len(text) > MAX_EVENT:
        raise ValueError(f"an event must have at most {MAX_EVENT:,} characters as JSON, got {len(text):,}")
    return text


def with_id(number: int | str, body: str) -> str:
    """Return the JSON of `event_body` with the event's id in front.

    >>> with_id(7, '{"kind":"known"}')
    '{"id":"7","kind":"known"}'
    """
    return f'{{"id":"{number}",{body[1:]}'


class Events:
    """The events of a service. Each worker has one such object, which its threads may share.

    A background thread writes the people seen and reads the events of other workers. `close` writes the waiting events and
    ends all event streams.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        state.table(_TABLES)
        with state.transaction() as connection:
            # Numbers start from the clock, so that a new state file never repeats the id of an event.
            connection.execute(
                "INSERT INTO sqlite_sequence (name, seq) SELECT 'event', ? WHERE NOT EXISTS"
                " (SELECT 1 FROM sqlite_sequence WHERE name = 'event')",
                (int(time.time() * 1000),),
            )
        self._lock = threading.Condition()
        self._writing = threading.Lock()  # held while events are written or read: none reappears after `forget`
        self._waiting: deque[tuple[float, str, str, str | None, str]] = deque(maxlen=MAX_WAITING)
        self._recent: deque[Event] = deque(maxlen=_RECENT)
        self._last = self.newest_in_file()
        self._recent_after = self._last  # `_recent` contains all events after this number
        self._n_forgotten = self.mark(_FORGOTTEN) or 0
        self._listeners: set[Listener] = set()
        self._callbacks: list[Callable[[], None]] = []
        self._forgetters: list[Callable[[Connection, str, str | None], None]] = []
        self._renewed = 0.0
        self._until = self._listened_until()
        self._woken = self._closed = False
        self._name = f"worker {id(self)} {time.time_ns()}"
        self._thread = threading.Thread(target=self._run, name="facespace-events", daemon=True)
        self._thread.start()

    # Emitting and forgetting

    def emit(self, kind: str, collection: str, data: Mapping[str, Any]) -> None:
        """Add an event. `data` has keys of `KEYS`, as for `event_body`; its `person` is {id, name, external_id}.

        An event of a kind in `CHANGES` is on the disk when this returns. This waits for the disk, so call it in a thread,
        and before the request is answered. For a kind in `SEEN` this returns at once, and the event is written later.
        """
        at = time.time()
        if kind in SEEN and (not self.has_listeners() or _is_ignored(data)):
            return
        person = data.get("person")
        row = (
            at,
            kind,
            collection,
            None if person is None else str(person["id"]),
            event_body(kind, collection, data, at=at),
        )
        if kind in SEEN:
            with self._lock:
                self._waiting.append(row)
            return
        with self._state.transaction() as connection:
            self._insert(connection, [row])
        self._wake()

    def has_listeners(self) -> bool:
        """Return whether a stream, a webhook or MQTT of any worker may need events of people seen."""
        return time.time() < self._until

    def set_listening(self, name: str, until: float | None) -> None:
        """Record that the listener `name` listens until `until` (seconds since 1970), or that it has ended (None)."""
        with self._state.transaction(durable=False) as connection:
            if until is None:
                connection.execute("DELETE FROM event_listener WHERE name = ?", (name,))
            else:
                connection.execute(
                    "INSERT INTO event_listener VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET until = excluded.until",
                    (name, until),
                )
        self._until = self._listened_until()

    def forget(self, collection: str, person: str | None = None) -> None:
        """Delete all events about a person who is erased, whether the events were sent or not.

        Without a person, delete all events of a collection.
        """

        def stays(of: str, who: str | None) -> bool:
            return of != collection or (person is not None and who != person)

        with self._writing:
            with self._lock:
                waiting = [row for row in self._waiting if stays(row[2], row[3])]
                self._waiting.clear()
                self._waiting.extend(waiting)
                recent = [event for event in self._recent if stays(event.collection, event.person)]
                self._recent.clear()
                self._recent.extend(recent)
            with self._state.transaction() as connection:
                connection.execute(
                    "DELETE FROM event WHERE collection = ? AND (? IS NULL OR person = ?)", (collection, person, person)
                )
                for forget in self._forgetters:
                    forget(connection, collection, person)
                _set_mark(connection, _FORGOTTEN, (self.mark(_FORGOTTEN) or 0) + 1)  # other workers empty their memory

    # Reading and listening

    def newest(self) -> int:
        """Return the number of the newest event that this worker has seen."""
        return self._last

    def newest_in_file(self) -> int:
        """Return the number of the newest event of all workers. `newest` may be lower if the event was just emitted."""
        ((newest,),) = self._state.rows("SELECT seq FROM sqlite_sequence WHERE name = 'event'")
        return int(newest)

    def after(self, number: int, limit: int = 100, event_filter: EventFilter | None = None) -> list[Event]:
        """Return up to `limit` events with numbers above `number`, oldest first.

        They are read from memory; if memory does not contain them all, they are read from the file.
        """
        return self.read(number, limit, event_filter)[0]

    def read(self, number: int, limit: int = 100, event_filter: EventFilter | None = None) -> tuple[list[Event], int]:
        """Return the same events as `after`, and the number of the last event examined, to continue from."""
        recent = self.recent(number, limit, event_filter)
        if recent is not None:
            return recent
        where, values = ["number > ?"], [number]
        if event_filter is not None and event_filter.kinds is not None:
            where.append(f"kind IN ({', '.join('?' * len(event_filter.kinds))})")
            values += event_filter.kinds  # type: ignore[arg-type]
        if event_filter is not None and event_filter.collection is not None:
            where.append("collection = ?")
            values.append(event_filter.collection)  # type: ignore[arg-type]
        if event_filter is not None and event_filter.person is not None:
            where.append("person = ?")
            values.append(event_filter.person)  # type: ignore[arg-type]
        newest = self.newest_in_file()
        rows = self._state.rows(
            f"SELECT number, kind, collection, person, body FROM event WHERE {' AND '.join(where)}"  # noqa: S608
            " ORDER BY number LIMIT ?",
            (*values, min(limit, MAX_LISTED)),
        )
        found = [self._event(row) for row in rows]
        full = len(found) == min(limit, MAX_LISTED)
        return found, found[-1].number if full else max(newest, number, *(event.number for event in found[-1:]))

    def recent(self, number: int, limit: int, event_filter: EventFilter | None) -> tuple[list[Event], int] | None:
        """Return what `read` returns, from memory alone; None if some events above `number` may be only in the file."""
        found: list[Event] = []
        with self._lock:
            if number < self._recent_after:
                return None
            last = max(number, self._last)
            newer: list[Event] = []
            for event in reversed(self._recent):
                if event.number <= number:
                    break
                newer.append(event)
        for event in reversed(newer):
            if event_filter is None or event_filter.takes(event):
                found.append(event)
                if len(found) == limit:
                    return found, event.number
        return found, last

    def missed_before(self, number: int) -> bool:
        """Return whether events with higher numbers were deleted because they were too old or too many."""
        found = self._state.rows("SELECT number FROM event_mark WHERE name = 'pruned'")
        return bool(found) and number < found[0][0]

    def listed(self) -> None:
        """Count a request for a list as a listener for a minute, so that the next list includes the people seen by then."""
        now = time.time()
        if self._until < now + _LISTENS_ON / 2:
            self.set_listening("list", now + _LISTENS_ON)

    def listen(self, caller: str = "") -> Listener:
        """Return a new listener in the running event loop. The caller must close it. `caller` is, for example, a key's id.

        Raise `RuntimeError` if there are too many listeners, or if the events are closed.
        """
        listener = Listener(self, asyncio.get_running_loop(), caller)
        with self._lock:
            if self._closed or len(self._listeners) >= MAX_LISTENERS:
                raise RuntimeError("closed" if self._closed else f"{MAX_LISTENERS} event streams are open already")
            if sum(one.caller == caller for one in self._listeners) >= MAX_LISTENERS_OF_ONE:
                raise RuntimeError(f"this key has {MAX_LISTENERS_OF_ONE} open event streams already")
            self._listeners.add(listener)
            self._renewed = 0.0
            self._until = max(self._until, time.time() + 3 * _RENEW)  # takes effect at once in this worker
        self._wake()
        return listener

    def when_new(self, callback: Callable[[], None]) -> None:
        """Register a function to call when there are new events. The background thread calls it."""
        self._callbacks.append(callback)

    def when_forgotten(self, forget: Callable[[Connection, str, str | None], None]) -> None:
        """Register a function to call in the transaction that forgets a person: (connection, collection, person's id)."""
        self._forgetters.append(forget)

    # Marks: the last event that a consumer has handled, for consumers that must not miss an event

    def mark(self, name: str) -> int | None:
        """Return the number of the last event that the consumer `name` has handled, or None."""
        found = self._state.rows("SELECT number FROM event_mark WHERE name = ?", (name,))
        return int(found[0][0]) if found else None

    def set_mark(self, name: str, number: int) -> None:
        """Store the number of the last event that the consumer `name` has handled."""
        with self._state.transaction(durable=False) as connection:
            _set_mark(connection, name, number)

    # Closing

    def end_streams(self) -> None:
        """End all event streams, because a server that stops would wait for them."""
        with self._lock:
            self._closed = True
            listeners = list(self._listeners)
        for listener in listeners:
            listener.wake()

    @property
    def closed(self) -> bool:
        """Whether streams must end."""
        return self._closed

    def close(self) -> None:
        """Write the waiting events, and end the thread and all streams. The state file stays open."""
        self.end_streams()
        self._wake()
        self._thread.join(timeout=10)

    def _remove(self, listener: Listener) -> None:
        with self._lock:
            self._listeners.discard(listener)

    def _wake(self) -> None:
        with self._lock:
            self._woken = True
            self._lock.notify_all()

    # The background thread

    def _run(self) -> None:
        version, pruned = -1, 0.0
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._woken or self._closed, timeout=_POLL)
                woken, self._woken = self._woken, False
                closed = self._closed
            try:
                written = self._write_waiting()
                seen = self._state.version()
                if written or woken or seen != version:
                    version = seen
                    self._until = max(self._listened_until(), self._own_until())
                    self._take_new()
                self._renew(closed)
                if (now := time.monotonic()) > pruned + _PRUNE:
                    pruned = now
                    self._prune()
            except FacespaceError:  # a full or failing disk: waiting events are tried again; requests report the error
                if not closed:
                    time.sleep(_POLL)
            if closed:
                return

    def _write_waiting(self) -> bool:
        with self._writing:
            with self._lock:
                rows = list(self._waiting)
            if not rows:
                return False
            with self._state.transaction(durable=False) as connection:
                self._insert(connection, rows)
            with self._lock:
                for row in rows:  # rows that were dropped meanwhile, because too many came, are gone already
                    if self._waiting and self._waiting[0] is row:
                        self._waiting.popleft()
            return True

    def _take_new(self) -> None:
        while True:
            with self._writing:
                n_forgotten = self.mark(_FORGOTTEN) or 0
                rows = self._state.rows(
                    "SELECT number, kind, collection, person, body FROM event WHERE number > ? ORDER BY number LIMIT ?",
                    (self._last, _RECENT),
                )
                events = [self._event(row) for row in rows]
                with self._lock:
                    if n_forgotten != self._n_forgotten:
                        self._n_forgotten = n_forgotten
                        self._recent.clear()
                        self._recent_after = self._last
                    for event in events:
                        if len(self._recent) == _RECENT:
                            self._recent_after = self._recent[0].number
                        self._recent.append(event)
                        self._last = event.number
                    listeners = list(self._listeners)
            if not events:
                return
            for listener in listeners:
                listener.wake()
            for callback in self._callbacks:
                callback()

    def _insert(self, connection: Connection, rows: Iterable[tuple[float, str, str, str | None, str]]) -> None:
        connection.executemany(
            "INSERT INTO event (at, kind, collection, person, body) VALUES (?, ?, ?, ?, ?)",
            [(*row, self._state.sealed(body)) for *row, body in rows],
        )

    def _event(self, row: tuple[Any, ...]) -> Event:
        number, kind, collection, person, body = row
        return Event(number, kind, collection, person, with_id(number, self._state.opened(body)))

    def _own_until(self) -> float:
        with self._lock:
            return time.time() + 3 * _RENEW if self._listeners else 0.0

    def _renew(self, closed: bool) -> None:
        now = time.monotonic()
        with self._lock:
            some = bool(self._listeners) and not closed
        if some and now > self._renewed + _RENEW:
            self._renewed = now
            self.set_listening(self._name, time.time() + 3 * _RENEW)
        elif not some and self._renewed:
            self._renewed = 0.0
            self.set_listening(self._name, None)

    def _prune(self) -> None:
        ((newest, oldest, at),) = self._state.rows("SELECT max(number), min(number), min(at) FROM event")
        if oldest is None:
            return
        old = time.time() - MAX_DAYS * 86_400
        if newest - oldest < MAX_EVENTS and at >= old:
            return
        with self._state.transaction() as connection:
            ((last,),) = connection.execute(
                "SELECT max(number) FROM event WHERE number <= ? OR at < ?", (newest - MAX_EVENTS, old)
            ).fetchall()
            if last is not None:
                connection.execute("DELETE FROM event WHERE number <= ?", (last,))
                _set_mark(connection, "pruned", last)
            connection.execute("DELETE FROM event_listener WHERE until < ?", (time.time(),))

    def _listened_until(self) -> float:
        ((until,),) = self._state.rows("SELECT max(until) FROM event_listener")
        return float(until or 0.0)


class Listener:
    """Waits for new events in an event loop. It keeps no events: a slow client reads them when it is ready."""

    def __init__(self, events: Events, loop: asyncio.AbstractEventLoop, caller: str = "") -> None:
        self._events = events
        self.caller = caller
        self._loop = loop
        self._new = asyncio.Event()

    def wake(self) -> None:
        """Signal that there are new events. May be called in any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._new.set)

    async def wait(self, seconds: float) -> bool:
        """Wait until there may be new events (return True), or until the time has passed (return False)."""
        try:
            await asyncio.wait_for(self._new.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        self._new.clear()
        return True

    async def read(self, number: int, limit: int, event_filter: EventFilter) -> tuple[list[Event], int]:
        """Return the same as `Events.read`, in a thread if the file must be read."""
        recent = self._events.recent(number, limit, event_filter)
        return recent if recent is not None else await asyncio.to_thread(self._events.read, number, limit, event_filter)

    def close(self) -> None:
        """Stop listening."""
        self._events._remove(self)


def _is_ignored(data: Mapping[str, Any]) -> bool:
    """Return whether the event is about a face that was marked to be ignored."""
    unknown = data.get("unknown")
    return isinstance(unknown, dict) and unknown.get("reason") == "ignored"


def _set_mark(connection: Connection, name: str, number: int) -> None:
    connection.execute(
        "INSERT INTO event_mark VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET number = excluded.number", (name, number)
    )
