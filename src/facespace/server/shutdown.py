"""Tells the service at once that it shall end: long answers, such as streams of events, must not wait for each other."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


def tell_of_signals(tell: Callable[[], None]) -> Callable[[], None]:
    """Call `tell` when SIGTERM or SIGINT comes, and then whatever handled it before; returns what undoes this.

    Only the main thread can: elsewhere, as in tests, nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        tell()
        if callable(handler := before.get(number)):
            handler(number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        previous = signal.getsignal(number)
        if callable(previous) and previous is not signal.default_int_handler:  # uvicorn's
            before[number] = previous
            signal.signal(number, handle)

    def undo() -> None:
        for number, previous in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, previous)

    return undo


def end_with_parent() -> None:
    """End this worker when the process that started it has died, so that none is left behind with its port."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="facespace-parent", daemon=True).start()
