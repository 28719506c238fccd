"""Answers to requests with an `Idempotency-Key`, and the requests that are still running: see `idempotency`."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass

from facespace.server.problems import Problem
from facespace.server.state import State

KEPT_SECONDS = 24 * 3600.0
LEASE_SECONDS = 15.0
MAX_ANSWER = 2**17  # bytes of a kept answer; of a larger answer, only the fact that it was given is kept
MAX_ANSWERS = 1_000  # the number of latest answers kept for one API key
GONE = 0  # the status of an answer that was given but is not kept


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was given. `status` is 0 if it was too large to keep, or has been erased."""

    status: int
    headers: dict[str, str]
    body: bytes


class Answers:
    """The answers in a state file. Methods block. They are safe to share between threads and processes."""

    def __init__(self, state: State, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.lease_seconds = lease_seconds
        self._state = state
        state.table(
            "CREATE TABLE IF NOT EXISTS answer (caller TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL,"
            " collection TEXT NOT NULL, at REAL NOT NULL, owner TEXT, lease REAL, status INTEGER, headers TEXT, body BLOB,"
            " PRIMARY KEY (caller, key));"
            "CREATE INDEX IF NOT EXISTS answer_at ON answer (at);"
            "CREATE INDEX IF NOT EXISTS answer_of ON answer (caller, at)"
        )

    def begin(self, caller: str, key: str, request: str, collection: str, owner: str) -> Answer | None:
        """Return the answer that this request got before, or None if `owner` must carry the request out now.

        `request` is the hash of the whole request. Raise `Problem` 422 `idempotency_key_reused` if another request had
        this key, and 409 `in_progress` while the same request is still running.
        """
        now = time.time()
        with self._state.transaction(durable=False) as connection:
            connection.execute("DELETE FROM answer WHERE at < ?", (now - KEPT_SECONDS,))
            sql = "SELECT request, lease, status, headers, body FROM answer WHERE caller = ? AND key = ?"
            found = connection.execute(sql, (caller, key)).fetchone()
            if found is not None and found[0] != request:
                raise Problem(
                    422, "idempotency_key_reused",
                    "this Idempotency-Key was used for another request within a day; make a new one for each request",
                )  # fmt: skip
            if found is not None and found[2] is not None:
                return Answer(found[2], json.loads(found[3] or "{}"), self._opened(found[4]))
            if found is not None and found[1] > now:
                wait = str(max(1, math.ceil(found[1] - now)))
                raise Problem(409, "in_progress", "the same request is still running", headers={"Retry-After": wait})
            connection.execute(
                "INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
                (caller, key, request, collection, now, owner, now + self.lease_seconds),
            )
            connection.execute(
                "DELETE FROM answer WHERE caller = ? AND at <="
                " (SELECT at FROM answer WHERE caller = ? ORDER BY at DESC LIMIT 1 OFFSET ?)",
                (caller, caller, MAX_ANSWERS),
            )
        return None

    def renew(self, owner: str) -> None:
        """Record that the request of `owner` is still running, by extending its lease."""
        with self._state.transaction(durable=False) as connection:
            sql = "UPDATE answer SET lease = ? WHERE owner = ? AND status IS NULL"
            connection.execute(sql, (time.time() + self.lease_seconds, owner))

    def finish(self, owner: str, answer: Answer) -> None:
        """Keep the answer to the request of `owner`. It is on the disk when this returns."""
        if len(answer.body) > MAX_ANSWER:
            answer = Answer(GONE, {}, b"")
        with self._state.transaction() as connection:
            connection.execute(
                "UPDATE answer SET status = ?, headers = ?, body = ?, owner = NULL WHERE owner = ?",
                (answer.status, json.dumps(answer.headers), self._sealed(answer.body), owner),
            )

    def release(self, owner: str) -> None:
        """Delete the record of the unanswered request of `owner`, so that the client can send it again at once."""
        with self._state.transaction(durable=False) as connection:
            connection.execute("DELETE FROM answer WHERE owner = ? AND status IS NULL", (owner,))

    def erase(self, collection: str) -> None:
        """Erase the contents of a collection's answers, which may name people. It stays recorded that they were given."""
        with self._state.transaction() as connection:
            connection.execute(
                "UPDATE answer SET status = ?, headers = NULL, body = NULL WHERE collection = ? AND status IS NOT NULL",
                (GONE, collection),
            )
        self._state.scrub()

    def _sealed(self, body: bytes) -> str | bytes:
        if not self._state.sealing().encrypted:
            return body
        return self._state.sealed(body.decode("utf-8", "surrogateescape"))

    def _opened(self, body: str | bytes | None) -> bytes:
        """Return a body as it was given. Bodies that were not encrypted are stored as bytes."""
        return self._state.opened(body).encode("utf-8", "surrogateescape") if isinstance(body, str) else (body or b"")
