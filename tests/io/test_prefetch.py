"""Results in order, only a few items ahead of the consumer, and no item left when it stops."""

from __future__ import annotations

import threading
import time

import pytest

from facespace.io.prefetch import map_ahead, wait_for_memory


def test_in_order_and_at_most_so_many_items_ahead():
    begun = []

    def work(k: int) -> int:
        begun.append(k)
        time.sleep(0.02 * (k % 2))
        return 10 * k

    results = map_ahead(work, range(50), threads=3, ahead=4)
    for k in range(10):
        assert next(results) == 10 * k
        assert len(begun) <= k + 1 + 4
    results.close()
    assert len(begun) <= 14
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("facespace-read")]


def test_an_error_comes_where_its_item_is():
    results = map_ahead(lambda k: 1 // (k - 1), range(3), threads=1, ahead=2)
    assert next(results) == -1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_large_items_are_computed_one_at_a_time_and_small_ones_in_parallel():
    """Items in memory have at most `MAX_PENDING_PIXELS` together, or there is only one."""
    sizes = [3, 3, 3, 60, 3, 250, 250, 3, 250, 3, 3]
    inside: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def work(k: int) -> int:
        wait_for_memory(sizes[k] * 1_000_000)
        with lock:
            inside.append(k)
            most.append(len(inside))
            held = [sizes[one] for one in inside]
            assert sum(held) <= 100 or len(held) == 1, held
        time.sleep(0.01)
        return k

    for k in map_ahead(work, range(len(sizes)), threads=4, ahead=6):
        with lock:
            assert inside[0] == k
        time.sleep(0.01)
        with lock:
            inside.remove(k)
    assert max(most) > 2


def test_an_item_that_does_not_enter_is_not_waited_for():
    def work(k: int) -> int:
        if k % 2:
            wait_for_memory(10**9)
            wait_for_memory(10**9)  # read in two attempts
        return k

    assert list(map_ahead(work, range(9), threads=3, ahead=5)) == list(range(9))


def test_waiting_items_end_when_the_consumer_stops():
    reached = []

    def work(k: int) -> int:
        wait_for_memory(10**9)
        reached.append(k)
        return k

    results = map_ahead(work, range(9), threads=2, ahead=4)
    assert next(results) == 0
    results.close()
    assert reached == [0]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("facespace-read")]


def test_nothing_waits_outside_map_ahead():
    wait_for_memory(10**12)
