"""The audit log: who changed keys and settings, erased people, or took data out, and whether it was allowed.

`audit_trail` writes it. No names of people are in it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from facespace.io.text import plain_text
from facespace.server.state import State

MAX_ENTRIES = 100_000  # the oldest are removed beyond
_MAX_TEXT = 200
_MAX_DETAILS = 2_000
_COLUMNS = "id, at, actor, key, action, collection, path, status, address, request, details"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit log: `at` in seconds since 1970 (UTC), `action` the operation, `status` what it answered."""

    id: int
    at: float
    actor: str
    key: str | None
    action: str
    collection: str | None
    path: str
    status: int | None
    address: str
    request: str
    details: dict[str, Any]


class Audit:
    """The audit log in a state file. Safe to share between threads and processes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     state = State(folder)
    ...     audit = Audit(state)
    ...     audit.record("ada", "revoke_key", details={"key": "3f"})
    ...     [(entry.actor, entry.action) for entry in audit.entries()]
    ...     state.close()
    [('ada', 'revoke_key')]
    """

    def __init__(self, state: State) -> None:
        self._state = state
        state.table(
            "CREATE TABLE IF NOT EXISTS audit (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, actor TEXT NOT NULL,"
            " key TEXT, action TEXT NOT NULL, collection TEXT, path TEXT NOT NULL, status INTEGER, address TEXT NOT NULL,"
            " request TEXT NOT NULL, details TEXT NOT NULL)"
        )

    def record(
        self,
        actor: str,
        action: str,
        *,
        key: str | None = None,
        collection: str | None = None,
        path: str = "",
        status: int | None = None,
        address: str = "",
        request: str = "",
        details: dict[str, Any] | None = None,
    ) -> None:
        """Add an entry; it is on the disk when this returns."""
        told = json.dumps(details or {}, sort_keys=True)
        if len(told) > _MAX_DETAILS:
            told = "{}"
        texts = [plain_text(text)[:_MAX_TEXT] for text in (actor, action, path, address, request)]
        with self._state.transaction() as connection:
            cursor = connection.execute(
                f"INSERT INTO audit ({_COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
                (time.time(), texts[0], key, texts[1], collection, texts[2], status, texts[3], texts[4], told),
            )
            connection.execute("DELETE FROM audit WHERE id <= ?", ((cursor.lastrowid or 0) - MAX_ENTRIES,))

    def entries(
        self, *, before: int | None = None, limit: int = 100, collection: str | None = None
    ) -> list[AuditEntry]:
        """The last entries, the latest first: those with an id below `before`, and of one collection if it is given."""
        sql = f"SELECT {_COLUMNS} FROM audit WHERE id < ?"  # noqa: S608 - a constant
        values: list[Any] = [2**62 if before is None else before]
        if collection is not None:
            sql += " AND collection = ?"
            values.append(collection)
        found = self._state.rows(f"{sql} ORDER BY id DESC LIMIT ?", [*values, limit])
        return [_entry(*row) for row in found]


def _entry(*row: Any) -> AuditEntry:
    *told, details = row
    return AuditEntry(*told, json.loads(details))  # type: ignore[call-arg]
