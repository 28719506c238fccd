"""A function over a stream, computed in threads a few items ahead of whoever takes the results."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int) -> Iterator[R]:
    """`map` in order: at most `ahead` items are begun and not yet taken, and none goes on once the taker stops.

    >>> list(map_ahead(str.upper, ["a", "b", "c"], threads=2, ahead=2))
    ['A', 'B', 'C']
    """
    items = iter(items)
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="facespace-read") as pool:
        try:
            waiting.extend(pool.submit(function, item) for item in itertools.islice(items, ahead))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
