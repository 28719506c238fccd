"""The audit log: changes of keys and settings, erased people and exported data, with who did it and the answer's status.

`audit_trail` writes the log. The log contains no names of people.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from facespace.io.text import plain_text
from facespace.server.state import State

MAX_ENTRIES = 100_000  # beyond this, the oldest entries are removed
_MAX_TEXT = 200
_MAX_DETAILS = 2_000
_COLUMNS = "id, at, actor, key, action, collection, path, status, address, request, details"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit log.

    `at` is the time in seconds since 1970 (UTC), `action` is the operation, and `status` is the HTTP status of its answer.
    """

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
    """The audit log in a state file. It is safe to share between threads and processes.

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
        """Add an entry. It is on the disk when this returns."""
        details_json = json.dumps(details or {}, sort_keys=True)
        if len(details_json) > _MAX_DETAILS:
            details_json = "{}"
        texts = [plain_text(text)[:_MAX_TEXT] for text in (actor, action, path, address, request)]
        with self._state.transaction() as connection:
            cursor = connection.execute(
                f"INSERT INTO audit ({_COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
                (time.time(), texts[0], key, texts[1], collection, texts[2], status, texts[3], texts[4], details_json),
            )
            connection.execute("DELETE FROM audit WHERE id <= ?", ((cursor.lastrowid or 0) - MAX_ENTRIES,))

    def entries(
        self, *, before: int | None = None, limit: int = 100, collection: str | None = None
    ) -> list[AuditEntry]:
        """Return the latest entries, newest first: those with an id below `before`, and of one collection if given."""
        sql = f"SELECT {_COLUMNS} FROM audit WHERE id < ?"  # noqa: S608 - a constant
        values: list[Any] = [2**62 if before is None else before]
        if collection is not None:
            sql += " AND collection = ?"
            values.append(collection)
        found = self._state.rows(f"{sql} ORDER BY id DESC LIMIT ?", [*values, limit])
        return [_entry(*row) for row in found]


def _entry(*row: Any) -> AuditEntry:
    *values, details = row
    return AuditEntry(*values, json.loads(details))  # type: ignore[call-arg]
