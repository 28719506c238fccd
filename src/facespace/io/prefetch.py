"""A function over a stream, computed in threads a few items ahead of whoever takes the results.

Photos that are read ahead stay in memory until they are taken. Few large ones would fill it, so they wait for room: those
begun and not yet given back have `MOST_PIXELS` together, or there is one alone.
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

MOST_PIXELS = 100_000_000  # four photos of 24 megapixels are read as if there were no limit

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int) -> Iterator[R]:
    """`map` in order: at most `ahead` items are begun and not yet taken, and none goes on once the taker stops.

    What `function` reads by `io.image.read` has room in memory first; an item keeps its room until the next one is asked for.

    >>> list(map_ahead(str.upper, ["a", "b", "c"], threads=2, ahead=2))
    ['A', 'B', 'C']
    """
    room = _Room()
    begun = itertools.count()
    items = iter(items)
    waiting: deque[Future[R]] = deque()

    def compute(number: int, item: T) -> R:
        token = _place.set((room, number))
        try:
            return function(item)
        finally:
            _place.reset(token)
            room.pass_on(number)

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
                room.give_back(taken)
        finally:
            room.close()
            for future in waiting:
                future.cancel()


@contextlib.contextmanager
def reading_within(enter: Callable[[int], None]) -> Iterator[None]:
    """A context in which `io.image.read` calls `enter` with the number of pixels before it decodes them.

    `enter` may wait. It is called again where an image is read in two attempts.

    >>> with reading_within(print):
    ...     wait_for_room(12)
    12
    """
    token = _enter.set(enter)
    try:
        yield
    finally:
        _enter.reset(token)


def wait_for_room(n_pixels: int) -> None:
    """Wait until so many pixels have room, as `map_ahead` or `reading_within` says; elsewhere there is nothing to wait for."""
    if enter := _enter.get():
        enter(n_pixels)
    if place := _place.get():
        room, number = place
        room.enter(number, n_pixels)


class _Room:
    """The pixels of numbered items, which enter in their order and leave when they are given back.

    No item waits for a later one, so the one that is due always comes to its turn.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[int, int] = {}
        self._past: set[int] = set()  # numbers that entered, or ended without it, from `_next` on
        self._next = 0  # whose turn it is
        self._closed = False

    def enter(self, number: int, n_pixels: int) -> None:
        with self._changed:
            if number in self._inside:  # an item read in two attempts is there once
                return
            self._changed.wait_for(lambda: self._closed or (number == self._next and self._has_room(n_pixels)))
            if self._closed:
                raise CancelledError
            self._inside[number] = n_pixels
            self._end_turn(number)

    def pass_on(self, number: int) -> None:
        """The item is computed; if it did not enter, those after it no longer wait for it."""
        with self._changed:
            if number not in self._inside:
                self._end_turn(number)

    def give_back(self, number: int) -> None:
        with self._changed:
            self._inside.pop(number, None)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has_room(self, n_pixels: int) -> bool:
        return not self._inside or sum(self._inside.values()) + n_pixels <= MOST_PIXELS

    def _end_turn(self, number: int) -> None:
        self._past.add(number)
        while self._next in self._past:
            self._past.remove(self._next)
            self._next += 1
        self._changed.notify_all()


# The room and the number of the item that this thread computes, inside `map_ahead`.
_place: contextvars.ContextVar[tuple[_Room, int] | None] = contextvars.ContextVar("_place", default=None)
_enter: contextvars.ContextVar[Callable[[int], None] | None] = contextvars.ContextVar("_enter", default=None)
