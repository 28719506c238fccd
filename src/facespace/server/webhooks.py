"""Webhooks: who is told of which events, what waits to be sent, and what could not be delivered.

Everything is in the state file. An event becomes one delivery for each webhook that wants it, and a delivery is deleted only
when the target has accepted it: killed at any moment, the service sends an event once more rather than never. `delivering`
sends them.
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
from facespace.server.events import SEEN, Events, Wanted, checked_kinds
from facespace.server.webhook_targets import checked_target

if TYPE_CHECKING:
    from facespace.server.state import State

DELAYS = (1.0, 5.0, 30.0, 300.0, 1800.0, 7200.0)  # seconds until a delivery that failed is tried again
MAX_WEBHOOKS = 100
MAX_DELIVERIES = 10_000  # of one webhook that wait; above it the oldest become dead letters
MAX_DEAD = 1000  # dead letters of one webhook; above it the oldest are deleted
MAX_DEAD_DAYS = 30  # that a dead letter is kept
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

    `delivered` is when it last accepted an event, `error` why its latest delivery failed, None since one was accepted.
    """

    id: str
    url: str
    wanted: Wanted
    label: str
    created: float
    created_by: str
    delivered: float | None
    error: str | None
    n_waiting: int
    n_dead: int


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """A webhook that was just made, and the secret that signs what it gets: shown once."""

    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a target has not accepted; `at` is when it was tried last."""

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
    """The webhooks in a state file; `Events` are those that they get."""

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
        """Make a webhook for the events from now on; no kind, collection or person stands for all.

        `TargetRefused` for a target that webhooks may not go to; `ValueError` for an unknown kind, a label that is too
        long, and one webhook too many.
        """
        checked_target(url, allow_private=self._allow_private)
        wanted = checked_kinds(kinds)
        label = plain_text(label.strip())
        if len(label) > _MAX_LABEL:
            raise ValueError(f"the label of a webhook must have at most {_MAX_LABEL} characters, got {len(label)}")
        new = NewWebhook(f"wh_{secrets.token_hex(8)}", f"fsw_{secrets.token_urlsafe(32)}")
        with self._state.transaction() as connection:
            ((n_webhooks,),) = connection.execute("SELECT count(*) FROM webhook").fetchall()
            if n_webhooks >= MAX_WEBHOOKS:
                raise ValueError(f"there must be at most {MAX_WEBHOOKS} webhooks; delete those that nobody uses")
            ((newest,),) = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchall()
            connection.execute(
                "INSERT INTO webhook VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                (
                    new.id, url, self._state.sealed(new.secret), None if wanted is None else json.dumps(wanted), collection, person, label,
                    time.time(), plain_text(created_by)[:_MAX_LABEL], newest,
                ),
            )  # fmt: skip
        self._say_who_listens()
        return new

    def all(self) -> list[Webhook]:
        """All webhooks, the oldest first."""
        counts = {
            (webhook, bool(dead)): n
            for webhook, dead, n in self._state.rows(
                "SELECT webhook, dead, count(*) FROM webhook_delivery GROUP BY webhook, dead"
            )
        }
        rows = self._state.rows(f"SELECT {_COLUMNS} FROM webhook ORDER BY created, id")  # noqa: S608 - a constant
        return [
            Webhook(
                key, url, _wanted(kinds, collection, person), label, created, created_by, delivered, error,
                counts.get((key, False), 0), counts.get((key, True), 0),
            )
            for key, url, kinds, collection, person, label, created, created_by, delivered, error in rows
        ]  # fmt: skip

    def find(self, identifier: str) -> Webhook | None:
        """The webhook with that id."""
        return next((one for one in self.all() if one.id == identifier), None)

    def remove(self, identifier: str) -> bool:
        """Delete a webhook, with all that waits for it and its dead letters; False where there is none."""
        with self._state.transaction() as connection:
            removed = connection.execute("DELETE FROM webhook WHERE id = ?", (identifier,)).rowcount == 1
            connection.execute("DELETE FROM webhook_delivery WHERE webhook = ?", (identifier,))
        self._say_who_listens()
        return removed

    def dead(self, identifier: str, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """Dead letters of a webhook, oldest first, from behind the number `after`."""
        return [
            DeadLetter(number, json.loads(self._state.opened(body)), attempts, error or "", due)
            for number, body, attempts, error, due in self._state.rows(
                "SELECT number, body, attempts, error, due FROM webhook_delivery"
                " WHERE webhook = ? AND dead = 1 AND number > ? ORDER BY number LIMIT ?",
                (identifier, after, limit),
            )
        ]

    def retry(self, identifier: str, number: int) -> bool:
        """Send a dead letter again, with all its retries; False where there is none of that number."""
        with self._state.transaction() as connection:
            return (
                connection.execute(
                    "UPDATE webhook_delivery SET dead = 0, attempts = 0, due = ?"
                    " WHERE webhook = ? AND number = ? AND dead = 1",
                    (time.time(), identifier, number),
                ).rowcount
                == 1
            )

    # For `delivering`

    def spread(self) -> bool:
        """Make deliveries of events that are new; whether there were any.

        An event and how far its webhook has come change together, so that none is left out and none is sent twice.
        """
        newest = self._events.newest()
        behind = self._state.rows(
            "SELECT id, kinds, collection, person, mark FROM webhook WHERE mark < ? ORDER BY id", (newest,)
        )
        some = False
        for identifier, kinds, collection, person, mark in behind:
            found, last = self._events.read(mark, _AT_ONCE, _wanted(kinds, collection, person))
            some = some or bool(found)
            now = time.time()
            with self._state.transaction(durable=False) as connection:
                changed = connection.execute(
                    "UPDATE webhook SET mark = ? WHERE id = ? AND mark = ?", (last, identifier, mark)
                ).rowcount
                if not changed:  # removed meanwhile
                    continue
                connection.executemany(
                    # Not of somebody who was erased since it was read.
                    "INSERT INTO webhook_delivery (webhook, event, collection, person, body, attempts, due, dead)"
                    " SELECT ?, number, collection, person, ?, 0, ?, 0 FROM event WHERE number = ?",
                    [(identifier, self._state.sealed(event.json), now, event.number) for event in found],
                )
                if found:
                    _bound(connection, identifier)
        return some

    def due(self, webhooks_busy: set[str]) -> list[Delivery]:
        """The next delivery of each webhook that is not busy, where one is due."""
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
        """When the next delivery to a webhook that is not busy is due (seconds since 1970); None where nothing waits."""
        rows = self._state.rows("SELECT webhook, min(due) FROM webhook_delivery WHERE dead = 0 GROUP BY webhook")
        return min((float(due) for webhook, due in rows if webhook not in webhooks_busy), default=None)

    def delivered(self, delivery: Delivery) -> None:
        """The target has accepted it."""
        with self._state.transaction(durable=False) as connection:
            connection.execute("DELETE FROM webhook_delivery WHERE number = ?", (delivery.number,))
            connection.execute(
                "UPDATE webhook SET delivered = ?, error = NULL WHERE id = ?", (time.time(), delivery.webhook)
            )

    def failed(self, delivery: Delivery, error: str, *, delays: Sequence[float] = DELAYS) -> None:
        """The target has not: it is tried again later, or becomes a dead letter."""
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

    def _say_who_listens(self) -> None:
        """People seen are written only while a webhook may want them."""
        wanting = any(one.wanted.kinds is None or set(one.wanted.kinds) & set(SEEN) for one in self.all())
        self._events.set_listening("webhooks", 1e12 if wanting else None)


def _bound(connection: Connection, identifier: str) -> None:
    """Keep what waits for a webhook, and its dead letters, within their limits."""
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


def _wanted(kinds: str | None, collection: str | None, person: str | None) -> Wanted:
    return Wanted(None if kinds is None else tuple(json.loads(kinds)), collection, person)
