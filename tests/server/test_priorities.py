"""Threads that compute have a lower priority."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from facespace.server.priorities import answer_promptly, compute_behind


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_a_thread_and_those_it_starts_get_a_lower_priority():
    found: list[int] = []

    def note() -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def compute() -> None:
        compute_behind()
        note()
        inner = threading.Thread(target=note)
        inner.start()
        inner.join()

    note()
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    note()
    assert found == [found[0], max(5, found[0]), max(5, found[0]), found[0]]


def test_threads_switch_more_often():
    before = sys.getswitchinterval()
    try:
        answer_promptly()
        assert sys.getswitchinterval() == pytest.approx(0.001)
    finally:
        sys.setswitchinterval(before)
