"""Ctrl-C and SIGTERM during training: they end it after the current step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Raised when the signal `number` has stopped training, after a step that is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], int]]:
    """Yield a function that returns 0 until SIGINT or SIGTERM arrives, and then the number of that signal.

    A second Ctrl-C raises `KeyboardInterrupt` at once. A second SIGTERM is ignored, and so is a second Ctrl-C under
    torchrun. The reason is that one process often gets a signal twice: a cluster signals every process of a job, and
    torchrun forwards the signals that it receives to its processes.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: Any) -> None:
        came.append(number)
        if len(came) > 1 and number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise KeyboardInterrupt

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: came[0] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
