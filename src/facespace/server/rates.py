"""How many requests a caller may make: a token bucket for each key, or for each address of callers without one."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_BUCKETS = 10_000  # callers remembered at once; the one that was seen longest ago is forgotten first


class Rates:
    """Token buckets: a caller who was quiet may make `burst` requests at once, and `per_second` on average.

    The buckets are in memory. With several workers each holds its own, so `share` divides both numbers among them.
    `per_second` None is no limit. Safe to share between threads.

    >>> now = [0.0]
    >>> rates = Rates(2.0, burst=2, clock=lambda: now[0])
    >>> [rates.take("ada") for _ in range(3)]
    [0.0, 0.0, 0.5]
    >>> now[0] = 0.5
    >>> rates.take("ada")
    0.0
    """

    def __init__(
        self, per_second: float | None, *, burst: float, share: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.per_second = None if per_second is None else per_second / share
        self.burst = max(1.0, burst / share)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens at a time

    def take(self, caller: str, cost: float = 1.0) -> float:
        """Take `cost` tokens of a caller: 0 if they were there, otherwise the seconds until they are (nothing is taken).

        More than the bucket holds is taken from a full bucket, which is then empty for longer.
        """
        if self.per_second is None:
            return 0.0
        now = self._clock()
        with self._lock:
            tokens, then = self._buckets.pop(caller, (self.burst, now))
            tokens = min(self.burst, tokens + (now - then) * self.per_second)
            needed = min(cost, self.burst)
            allowed = tokens >= needed - 1e-9
            self._buckets[caller] = (tokens - cost if allowed else tokens, now)
            if len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)
        return 0.0 if allowed else (needed - tokens) / self.per_second
