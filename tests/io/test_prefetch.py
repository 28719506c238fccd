"""Results in order, no more than a few items ahead of the taker, nothing left behind when it stops."""

from __future__ import annotations

import threading
import time

import pytest

from facespace.io.prefetch import map_ahead


def test_in_order_and_no_further_ahead_than_asked():
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
