"""Maps a function over a stream in threads, a few items ahead of the consumer.

Photos that are read ahead stay in memory until they are consumed. Because a few large photos would fill it, reading waits
until the photos in memory have at most `MAX_PENDING_PIXELS` together; a single photo may have more.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TypeVar

MAX_PENDING_PIXELS = 100_000_000  # enough for four photos of 24 megapixels

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int) -> Iterator[R]:
    """Map in order: at most `ahead` items are started but not consumed, and no item is started after the consumer stops.

    Photos that `function` reads by `io.image.read` wait for memory first. The pixels of an item count until the consumer
    requests the next item.

    >>> list(map_ahead(str.upper, ["a", "b", "c"], threads=2, ahead=2))
    ['A', 'B', 'C']
    """
    budget = _PixelBudget()
    begun = itertools.count()
    items = iter(items)
    waiting: deque[Future[R]] = deque()

    def compute(number: int, item: T) -> R:
        token = _current.set((budget, number))
        try:
            return function(item)
        finally:
            _current.reset(token)
            budget.finish(number)

    with ThreadPoolExecutor(threads, thread_name_prefix="facespace-read") as pool:
        try:
            waiting.extend(pool.submit(compute, next(begun), item) for item in itertools.islice(items, ahead))
            for taken in itertools.count():
                if not waiting:
                    break
                result = waiting.popleft().result()
                waiting.extend(pool.submit(compute, next(begun), item) for item in itertools.islice(items, 1))
                yield result
                del result
                budget.release(taken)
        finally:
            budget.close()
            for future in waiting:
                future.cancel()


@contextlib.contextmanager
def reading_within(enter: Callable[[int], None]) -> Iterator[None]:
    """Call `enter` with the number of pixels before `io.image.read` decodes an image in this context.

    `enter` may wait. It is called twice if an image is read in two attempts.

    >>> with reading_within(print):
    ...     wait_for_memory(12)
    12
    """
    token = _enter.set(enter)
    try:
        yield
    finally:
        _enter.reset(token)


def wait_for_memory(n_pixels: int) -> None:
    """Wait until memory for the pixels is free inside `map_ahead` or `reading_within`; return at once elsewhere."""
    if enter := _enter.get():
        enter(n_pixels)
    if current := _current.get():
        budget, number = current
        budget.enter(number, n_pixels)


class _PixelBudget:
    """Limits the pixels of numbered items in memory; items enter in the order of their numbers and leave by `release`.

    An item only waits for earlier items, so there is no deadlock.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[int, int] = {}
        self._past: set[int] = set()  # numbers above `_next` that entered, or finished without entering
        self._next = 0  # the number that may enter next
        self._closed = False

    def enter(self, number: int, n_pixels: int) -> None:
        with self._changed:
            if number in self._inside:  # an item that is read in two attempts counts once
                return
            self._changed.wait_for(lambda: self._closed or (number == self._next and self._fits(n_pixels)))
            if self._closed:
                raise CancelledError
            self._inside[number] = n_pixels
            self._end_turn(number)

    def finish(self, number: int) -> None:
        """Mark an item as computed; if it never entered, later items no longer wait for it to enter."""
        with self._changed:
            if number not in self._inside:
                self._end_turn(number)

    def release(self, number: int) -> None:
        with self._changed:
            self._inside.pop(number, None)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, n_pixels: int) -> bool:
        return not self._inside or sum(self._inside.values()) + n_pixels <= MAX_PENDING_PIXELS

    def _end_turn(self, number: int) -> None:
        self._past.add(number)
        while self._next in self._past:
            self._past.remove(self._next)
            self._next += 1
        self._changed.notify_all()


# Inside `map_ahead`: the budget, and the number of the item that this thread computes.
_current: contextvars.ContextVar[tuple[_PixelBudget, int] | None] = contextvars.ContextVar("_current", default=None)
_enter: contextvars.ContextVar[Callable[[int], None] | None] = contextvars.ContextVar("_enter", default=None)
