"""API keys: creating, checking, listing and revoking them.

A key is `fsk_<id>_<secret>`. The secret has 256 random bits, so storing its SHA-256 is safe: 2^256 secrets cannot be
tried, and a slow hash would only make every request slow. The id selects the stored hash to compare with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import secrets
import threading
import time
from dataclasses import dataclass
from typing import Literal, get_args

from facespace.io.text import plain_text
from facespace.server.state import State

Role = Literal["identify", "read", "enroll", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
# The rights that each role grants. A route requires one of them.
GRANTS: dict[Role, frozenset[Role]] = {
    "identify": frozenset({"identify"}),
    "read": frozenset({"read"}),
    "enroll": frozenset({"identify", "read", "enroll"}),
    "admin": frozenset({"identify", "read", "enroll", "admin"}),
}
MAX_KEYS = 10_000  # keys that are neither revoked nor expired
MAX_LABEL = 100
_MAX_TEXT = 80  # characters of a key; a longer header is not checked
_FORM = re.compile(r"fsk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NO_KEY = "0" * 64  # the hash to compare with if the id does not exist
_REVISION = "keys"  # the setting that counts the changes of keys
_RAISE = (
    f"INSERT INTO setting VALUES ('{_REVISION}', '1')"  # noqa: S608 - a constant
    " ON CONFLICT (key) DO UPDATE SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT)"
)
_COLUMNS = "id, digest, role, collection, label, created, created_by, expires, revoked"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The record of a key, without its secret. Times are seconds since 1970 (UTC).

    `collection` is the only collection that the key may use, or None for all. `created_by` names the actor who made it.
    """

    id: str
    role: Role
    collection: str | None
    label: str
    created: float
    created_by: str
    expires: float | None
    revoked: float | None

    def is_valid(self, now: float) -> bool:
        """Return whether the key is neither revoked nor expired."""
        return self.revoked is None and (self.expires is None or now < self.expires)

    def may(self, need: Role) -> bool:
        """Return whether the key's role includes `need`."""
        return need in GRANTS.get(self.role, frozenset())


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. Its `text` is shown once and never stored."""

    text: str = dataclasses.field(repr=False)
    id: str


class Keys:
    """The keys in a state file. Every check sees changes by other processes at once.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     state = State(folder)
    ...     keys = Keys(state)
    ...     new = keys.create("identify", label="door")
    ...     keys.check(new.text).label
    ...     _ = keys.revoke(new.id)
    ...     keys.check(new.text) is None
    ...     state.close()
    'door'
    True
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, KeyRecord]] = {}
        self._version = self._revision = -1
        state.table(
            "CREATE TABLE IF NOT EXISTS key (id TEXT PRIMARY KEY, digest TEXT NOT NULL, role TEXT NOT NULL,"
            " collection TEXT, label TEXT NOT NULL, created REAL NOT NULL, created_by TEXT NOT NULL, expires REAL,"
            " revoked REAL)"
        )

    def create(
        self,
        role: Role,
        collection: str | None = None,
        expires: float | None = None,
        label: str = "",
        *,
        created_by: str = "",
    ) -> NewKey:
        """Make a key. `expires` is in seconds since 1970 (UTC). `collection` limits the key to that collection.

        Raise `ValueError` for an unknown role, a time in the past, a label that is too long, or too many keys.
        """
        if role not in ROLES:
            raise ValueError(f"the role of a key must be one of {', '.join(ROLES)}, got {str(role)[:40]!r}")
        now = time.time()
        if expires is not None and not now < expires < 1e11:
            raise ValueError(f"the time when a key expires must be in the future, got {expires!r}")
        label = plain_text(label.strip())
        if len(label) > MAX_LABEL:
            raise ValueError(f"the label of a key must have at most {MAX_LABEL} characters, got {len(label)}")
        secret = secrets.token_urlsafe(32)
        new = secrets.token_hex(6)
        with self._state.transaction() as connection:
            sql = "SELECT count(*) FROM key WHERE revoked IS NULL AND (expires IS NULL OR expires > ?)"
            ((n_keys,),) = connection.execute(sql, (now,)).fetchall()
            if n_keys >= MAX_KEYS:
                raise ValueError(f"there are {MAX_KEYS} valid keys already; revoke keys that are no longer used")
            connection.execute(
                f"INSERT INTO key ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",  # noqa: S608 - a constant
                (new, _digest(secret), role, collection, label, now, plain_text(created_by)[:MAX_LABEL], expires),
            )
            connection.execute(_RAISE)
        return NewKey(f"fsk_{new}_{secret}", new)

    def check(self, text: str) -> KeyRecord | None:
        """Return the record of a valid key, or None. A wrong secret and an unknown id take the same time."""
        found = _FORM.fullmatch(text) if len(text) <= _MAX_TEXT else None
        identifier, secret = (found[1], found[2]) if found else ("", "")
        digest, record = self._records().get(identifier, (_NO_KEY, None))
        same = hmac.compare_digest(digest, _digest(secret))
        return record if same and record is not None and record.is_valid(time.time()) else None

    def list(self) -> list[KeyRecord]:
        """Return all keys, latest first, including revoked and expired ones."""
        sql = f"SELECT {_COLUMNS} FROM key ORDER BY created DESC, id"  # noqa: S608 - a constant
        return [_record(row) for row in self._state.rows(sql)]

    def find(self, identifier: str) -> KeyRecord | None:
        """Return the key with that id, valid or not, or None."""
        sql = f"SELECT {_COLUMNS} FROM key WHERE id = ?"  # noqa: S608 - a constant
        found = self._state.rows(sql, (identifier,))
        return _record(found[0]) if found else None

    def revoke(self, identifier: str) -> bool:
        """Make a key invalid at once and forever. Return False if the key does not exist or was revoked before."""
        with self._state.transaction() as connection:
            sql = "UPDATE key SET revoked = ? WHERE id = ? AND revoked IS NULL"
            revoked = connection.execute(sql, (time.time(), identifier)).rowcount == 1
            connection.execute(_RAISE)
        return revoked

    def any(self) -> bool:
        """Return whether a key was ever made: revoking the last key must not open the service to everyone."""
        self._records()
        return bool(self._known) or bool(self._state.rows("SELECT 1 FROM key LIMIT 1"))

    def _records(self) -> dict[str, tuple[str, KeyRecord]]:
        """Return the keys that are not revoked, by id. Read them again if any process has changed them."""
        with self._lock:
            version = self._state.version()  # read first, so that a change in between is seen the next time
            if version == self._version:
                return self._known
            revision = self._state.setting(_REVISION, 0)  # the file changes often, but keys rarely do
            if revision != self._revision:
                sql = f"SELECT {_COLUMNS} FROM key WHERE revoked IS NULL"  # noqa: S608 - a constant
                self._known = {row[0]: (str(row[1]), _record(row)) for row in self._state.rows(sql)}
            self._version, self._revision = version, revision
            return self._known


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


def _record(row: tuple[object, ...]) -> KeyRecord:
    identifier, _, role, collection, label, created, created_by, expires, revoked = row
    # An unknown role, as in a file that was edited by hand, has no rights.
    return KeyRecord(identifier, role, collection, label, created, created_by, expires, revoked)  # type: ignore[arg-type]
