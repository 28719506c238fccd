"""Qdrant in memory, as several handles share it, and as it fails."""

from __future__ import annotations

import threading
from typing import Any

from qdrant_client import QdrantClient

# What changes points, one request each.
WRITES = ("upsert", "batch_update_points", "create_collection")


class Killed(BaseException):
    """The process ends here: nothing catches it."""


class SharedClient:
    """A client in memory that does one request at a time, as a server does, and counts what is written.

    With `kill_at`, the request of that number among those that write is not sent, nor any after it: `Killed` is raised. With
    `late`, it is done all the same. `interrupt` is called once: before the request of the number `interrupt_at`, or before the
    one of the number `interrupt_before_write` of those that write. `indices` are the fields that got an index, by collection: in memory there are none.
    """

    def __init__(self, client: Any = None) -> None:
        self.client = QdrantClient(":memory:") if client is None else client
        self.lock = threading.RLock()
        self.n_writes = 0
        self.n_requests = 0
        self.kill_at: int | None = None
        self.late = False
        self.interrupt: Any = None
        self.interrupt_at: int | None = None
        self.interrupt_before_write: int | None = None
        self.indices: dict[str, dict[str, Any]] = {}

    def create_payload_index(self, collection: str, field: str, *, field_schema: Any, wait: bool) -> None:
        self.indices.setdefault(collection, {})[field] = field_schema

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*args: Any, **options: Any) -> Any:
            with self.lock:
                self.n_requests += 1
                writes = self.n_writes + 1 if name in WRITES else None
                if self.n_requests == self.interrupt_at or (writes and writes == self.interrupt_before_write):
                    self.interrupt_at = self.interrupt_before_write = None
                    self.interrupt()
                if name in WRITES:
                    self.n_writes += 1
                    if self.kill_at is not None and self.n_writes >= self.kill_at:
                        if self.late and self.n_writes == self.kill_at:
                            method(*args, **options)
                        raise Killed
                elif self.kill_at is not None and self.n_writes >= self.kill_at:
                    raise Killed
                return method(*args, **options)

        return call
