"""Ends the event streams when a worker must stop, because they never end by themselves."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def calling_at_stop(function: Callable[[], None]) -> Iterator[None]:
    """Call a function on SIGTERM or SIGINT, before the existing handler.

    A server that is asked to stop waits for its open connections. The function ends the connections that are event
    streams. Outside the main thread, where Python handles no signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handler(number: int, frame: FrameType | None) -> None:
        function()
        earlier = before[signal.Signals(number)]
        if callable(earlier):
            earlier(number, frame)

    ours = {number for number, earlier in before.items() if callable(earlier)}
    for number in ours:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) is handler:
                signal.signal(number, before[number])
