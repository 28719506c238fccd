"""Limits how many requests a caller may make: one token bucket for each key, or for each address without a key."""

from __future__ import annotations

import time
from collections.abc import Callable

from facespace.server.buckets import Buckets, MemoryBuckets


class Rates:
    """Token buckets: a caller may make `per_second` requests on average, and up to `burst` at once after a pause.

    `buckets` stores them: in one process by default, or for all workers with `SharedBuckets`. If `per_second` is None,
    there is no limit. Safe to share between threads.

    >>> now = [0.0]
    >>> rates = Rates(2.0, burst=2, clock=lambda: now[0])
    >>> [rates.take("ada") for _ in range(3)]
    [0.0, 0.0, 0.5]
    >>> now[0] = 0.5
    >>> rates.take("ada")
    0.0
    """

    def __init__(
        self,
        per_second: float | None,
        *,
        burst: float,
        buckets: Buckets | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.per_second = per_second
        self.burst = max(1.0, burst)
        self._clock = clock
        self._buckets = MemoryBuckets() if buckets is None else buckets

    def take(self, caller: str, cost: float = 1.0) -> float:
        """Take `cost` tokens and return 0, or take no token and return the seconds until there are enough tokens.

        A cost larger than the bucket can be taken from a full bucket, which then takes longer to fill.
        """
        if self.per_second is None:
            return 0.0
        now, needed = self._clock(), min(cost, self.burst)
        with self._buckets.lock:
            tokens, then = self._buckets.read(caller) or (self.burst, now)
            # A time in the future was written before the machine was restarted.
            tokens = min(self.burst, tokens + max(0.0, now - then) * self.per_second)
            allowed = tokens >= needed - 1e-9
            self._buckets.write(caller, tokens - cost if allowed else tokens, now)
        return 0.0 if allowed else (needed - tokens) / self.per_second
