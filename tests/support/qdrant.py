"""Qdrant in memory, shared by several clients and with simulated failures."""

from __future__ import annotations

import threading
from typing import Any

from qdrant_client import QdrantClient

# Methods that change points, one request each.
WRITES = ("upsert", "batch_update_points", "create_collection")


class Killed(BaseException):
    """Simulates the end of the process: nothing catches it."""


class SharedClient:
    """A client in memory that handles one request at a time, as a server does, and counts writes.

    With `kill_at`, the write request of that number and all later ones are not executed: `Killed` is raised. With
    `late`, that request is still executed. `interrupt` is called once: before request number `interrupt_at`, or before
    write request number `interrupt_before_write`. `indices` are the indexed fields by collection, since the memory
    client has no indexes.
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
