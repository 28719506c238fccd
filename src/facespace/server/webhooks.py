"""Webhooks: the events that each webhook gets, waiting deliveries, and dead letters.

Everything is in the state file. An event becomes one delivery for each webhook that selects it, and a delivery is deleted
only when the target has accepted it. If the service is killed, an event may be sent twice, but it is never lost.
The module `delivering` sends the events.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import TYPE_CHECKING, Any

from facespace.io.text import plain_text
from facespace.server.events import SEEN, EventFilter, Events, checked_kinds
from facespace.server.webhook_targets import checked_target

if TYPE_CHECKING:
    from facespace.server.state import State

DELAYS = (1.0, 5.0, 30.0, 300.0, 1800.0, 7200.0)  # seconds between attempts of a failed delivery
MAX_WEBHOOKS = 100
MAX_DELIVERIES = 10_000  # waiting deliveries of one webhook; beyond this the oldest become dead letters
MAX_DEAD = 1000  # dead letters of one webhook; beyond this the oldest are deleted
MAX_DEAD_DAYS = 30  # days for which a dead letter is kept
_MAX_LABEL = 100
_AT_ONCE = 500  # events that become deliveries in one change of the file

_TABLES = """
CREATE TABLE IF NOT EXISTS webhook (
    id TEXT PRIMARY KEY, url TEXT NOT NULL, secret TEXT NOT NULL, kinds TEXT, collection TEXT, person TEXT,
    label TEXT NOT NULL, created REAL NOT NULL, created_by TEXT NOT NULL, mark INTEGER NOT NULL, delivered REAL, error TEXT
);
CREATE TABLE IF NOT EXISTS webhook_delivery (
    number INTEGER PRIMARY KEY AUTOINCREMENT, webhook TEXT NOT NULL, event INTEGER NOT NULL, collection TEXT NOT NULL,
    person TEXT, body TEXT NOT NULL, attempts INTEGER NOT NULL, due REAL NOT NULL, dead INTEGER NOT NULL, error TEXT
);
CREATE INDEX IF NOT EXISTS webhook_delivery_due ON webhook_delivery (webhook, dead, due, number);
CREATE INDEX IF NOT EXISTS webhook_delivery_person ON webhook_delivery (collection, person) WHERE person IS NOT NULL
"""
_COLUMNS = "id, url, kinds, collection, person, label, created, created_by, delivered, error"


@dataclass(frozen=True, slots=True)
class Webhook:
    """A target and the events it gets, without its secret. Times are seconds since 1970 (UTC).

    `delivered` is the time of the last accepted event, `error` the reason of the latest failure, None after a success.
    """

    id: str
    url: str
    event_filter: EventFilter
    label: str
    created: float
    created_by: str
    delivered: float | None
    error: str | None
    n_waiting: int
    n_dead: int


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """A webhook that was just made, and the secret that signs its events. The secret is shown once."""

    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a target has not accepted. `at` is the time of the last attempt."""

    number: int
    event: dict[str, Any]
    attempts: int
    error: str
    at: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one webhook."""

    number: int
    webhook: str
    event: int
    url: str
    secret: str = field(repr=False)
    body: bytes = field(repr=False)
    attempts: int


class Webhooks:
    """The webhooks in a state file, and their deliveries of `Events`."""

    def __init__(self, state: State, events: Events, *, allow_private: bool = False) -> None:
        self._state = state
        self._events = events
        self._allow_private = allow_private
        state.table(_TABLES)
        events.when_forgotten(_forget)

    def create(
        self,
        url: str,
        *,
        kinds: Sequence[str] = (),
        collection: str | None = None,
        person: str | None = None,
        label: str = "",
        created_by: str = "",
    ) -> NewWebhook:
        """Make a webhook for events from now on. Without `kinds`, `collection` or `person` it gets events of
        every kind, collection or person.

        Raise `TargetRefused` for a target that webhooks must not go to; `ValueError` for an unknown kind, a label that
        is too long, or too many webhooks.
        """
        checked_target(url, allow_private=self._allow_private)
        selected_kinds = checked_kinds(kinds)
        label = plain_text(label.strip())
        if len(label) > _MAX_LABEL:
            raise ValueError(f"the label of a webhook must have at most {_MAX_LABEL} characters, got {len(label)}")
        new = NewWebhook(f"wh_{secrets.token_hex(8)}", f"fsw_{secrets.token_urlsafe(32)}")
        with self._state.transaction() as connection:
            ((n_webhooks,),) = connection.execute("SELECT count(*) FROM webhook").fetchall()
            if n_webhooks >= MAX_WEBHOOKS:
                raise ValueError(f"there are {MAX_WEBHOOKS} webhooks already; delete webhooks that are no longer used")
            ((newest,),) = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchall()
            connection.execute(
                "INSERT INTO webhook VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                (
                    new.id, url, self._state.sealed(new.secret),
                    None if selected_kinds is None else json.dumps(selected_kinds), collection, person, label,
                    time.time(), plain_text(created_by)[:_MAX_LABEL], newest,
                ),
            )  # fmt: skip
        self._update_listening()
        return new

    def all(self) -> list[Webhook]:
        """Return all webhooks, the oldest first."""
        counts = {
            (webhook, bool(dead)): n
            for webhook, dead, n in self._state.rows(
                "SELECT webhook, dead, count(*) FROM webhook_delivery GROUP BY webhook, dead"
            )
        }
        rows = self._state.rows(f"SELECT {_COLUMNS} FROM webhook ORDER BY created, id")  # noqa: S608 - a constant
        return [
            Webhook(
                key, url, _event_filter(kinds, collection, person), label, created, created_by, delivered, error,
                counts.get((key, False), 0), counts.get((key, True), 0),
            )
            for key, url, kinds, collection, person, label, created, created_by, delivered, error in rows
        ]  # fmt: skip

    def find(self, identifier: str) -> Webhook | None:
        """Return the webhook with that id, or None."""
        return next((one for one in self.all() if one.id == identifier), None)

    def remove(self, identifier: str) -> bool:
        """Delete a webhook with its waiting deliveries and dead letters. Return False if it does not exist."""
        with self._state.transaction() as connection:
            removed = connection.execute("DELETE FROM webhook WHERE id = ?", (identifier,)).rowcount == 1
            connection.execute("DELETE FROM webhook_delivery WHERE webhook = ?", (identifier,))
        self._update_listening()
        return removed

    def dead(self, identifier: str, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """Return dead letters of a webhook with numbers above `after`, oldest first."""
        return [
            DeadLetter(number, json.loads(self._state.opened(body)), attempts, error or "", due)
            for number, body, attempts, error, due in self._state.rows(
                "SELECT number, body, attempts, error, due FROM webhook_delivery"
                " WHERE webhook = ? AND dead = 1 AND number > ? ORDER BY number LIMIT ?",
                (identifier, after, limit),
            )
        ]

    def retry(self, identifier: str, number: int) -> bool:
        """Send a dead letter again, with all its retries. Return False if no dead letter has this number."""
        with self._state.transaction() as connection:
            return (
                connection.execute(
                    "UPDATE webhook_delivery SET dead = 0, attempts = 0, due = ?"
                    " WHERE webhook = ? AND number = ? AND dead = 1",
                    (time.time(), identifier, number),
                ).rowcount
                == 1
            )

    # Used by `delivering`

    def spread(self) -> bool:
        """Add a delivery for each new event and each webhook that selects it. Return whether any were added.

        A webhook's `mark` is the number of the last event that was examined for it. It changes in one transaction with
        the deliveries, so that no event is left out or gets two deliveries.
        """
        newest = self._events.newest()
        behind = self._state.rows(
            "SELECT id, kinds, collection, person, mark FROM webhook WHERE mark < ? ORDER BY id", (newest,)
        )
        some = False
        for identifier, kinds, collection, person, mark in behind:
            found, last = self._events.read(mark, _AT_ONCE, _event_filter(kinds, collection, person))
            some = some or bool(found)
            now = time.time()
            with self._state.transaction(durable=False) as connection:
                changed = connection.execute(
                    "UPDATE webhook SET mark = ? WHERE id = ? AND mark = ?", (last, identifier, mark)
                ).rowcount
                if not changed:  # removed meanwhile
                    continue
                connection.executemany(
                    # The SELECT leaves out events of people who were erased since they were read.
                    "INSERT INTO webhook_delivery (webhook, event, collection, person, body, attempts, due, dead)"
                    " SELECT ?, number, collection, person, ?, 0, ?, 0 FROM event WHERE number = ?",
                    [(identifier, self._state.sealed(event.json), now, event.number) for event in found],
                )
                if found:
                    _bound(connection, identifier)
        return some

    def due(self, webhooks_busy: set[str]) -> list[Delivery]:
        """Return the next due delivery of each webhook that is not busy."""
        now = time.time()
        found = []
        for identifier, url, secret in self._state.rows("SELECT id, url, secret FROM webhook ORDER BY id"):
            if identifier in webhooks_busy:
                continue
            rows = self._state.rows(
                "SELECT number, event, body, attempts FROM webhook_delivery WHERE webhook = ? AND dead = 0 AND due <= ?"
                " ORDER BY due, number LIMIT 1",
                (identifier, now),
            )
            found += [
                Delivery(
                    number,
                    identifier,
                    event,
                    url,
                    self._state.opened(secret),
                    self._state.opened(body).encode(),
                    attempts,
                )
                for number, event, body, attempts in rows
            ]
        return found

    def next_due(self, webhooks_busy: set[str]) -> float | None:
        """Return the time of the next delivery to a webhook that is not busy (seconds since 1970), or None."""
        rows = self._state.rows("SELECT webhook, min(due) FROM webhook_delivery WHERE dead = 0 GROUP BY webhook")
        return min((float(due) for webhook, due in rows if webhook not in webhooks_busy), default=None)

    def delivered(self, delivery: Delivery) -> None:
        """Record that the target has accepted a delivery."""
        with self._state.transaction(durable=False) as connection:
            connection.execute("DELETE FROM webhook_delivery WHERE number = ?", (delivery.number,))
            connection.execute(
                "UPDATE webhook SET delivered = ?, error = NULL WHERE id = ?", (time.time(), delivery.webhook)
            )

    def failed(self, delivery: Delivery, error: str, *, delays: Sequence[float] = DELAYS) -> None:
        """Record a failed delivery: it is tried again later, or becomes a dead letter."""
        attempts = delivery.attempts + 1
        dead = attempts > len(delays)
        due = time.time() + (0.0 if dead else delays[attempts - 1])
        with self._state.transaction(durable=False) as connection:
            connection.execute(
                "UPDATE webhook_delivery SET attempts = ?, due = ?, dead = ?, error = ? WHERE number = ?",
                (attempts, due, dead, error[:300], delivery.number),
            )
            connection.execute("UPDATE webhook SET error = ? WHERE id = ?", (error[:300], delivery.webhook))
            if dead:
                _bound(connection, delivery.webhook)

    def _update_listening(self) -> None:
        """Record whether any webhook needs events of people seen, which are written only then."""
        needed = any(one.event_filter.kinds is None or set(one.event_filter.kinds) & set(SEEN) for one in self.all())
        self._events.set_listening("webhooks", 1e12 if needed else None)


def _bound(connection: Connection, identifier: str) -> None:
    """Keep a webhook's waiting deliveries and dead letters within their limits."""
    ((waiting,),) = connection.execute(
        "SELECT count(*) FROM webhook_delivery WHERE webhook = ? AND dead = 0", (identifier,)
    ).fetchall()
    if waiting > MAX_DELIVERIES:
        connection.execute(
            "UPDATE webhook_delivery SET dead = 1, due = ?, error = ? WHERE number IN (SELECT number FROM webhook_delivery"
            " WHERE webhook = ? AND dead = 0 ORDER BY number LIMIT ?)",
            (time.time(), f"more than {MAX_DELIVERIES:,} were waiting", identifier, waiting - MAX_DELIVERIES),
        )
    connection.execute(
        "DELETE FROM webhook_delivery WHERE webhook = ? AND dead = 1 AND due < ?",
        (identifier, time.time() - MAX_DEAD_DAYS * 86_400),
    )
    connection.execute(
        "DELETE FROM webhook_delivery WHERE number IN (SELECT number FROM webhook_delivery WHERE webhook = ? AND dead = 1"
        " ORDER BY number DESC LIMIT -1 OFFSET ?)",
        (identifier, MAX_DEAD),
    )


def _forget(connection: Connection, collection: str, person: str | None) -> None:
    connection.execute(
        "DELETE FROM webhook_delivery WHERE collection = ? AND (? IS NULL OR person = ?)", (collection, person, person)
    )


def _event_filter(kinds: str | None, collection: str | None, person: str | None) -> EventFilter:
    return EventFilter(None if kinds is None else tuple(json.loads(kinds)), collection, person)
