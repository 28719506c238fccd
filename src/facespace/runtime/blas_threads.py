"""Keeps NumPy's BLAS to one thread a call, for code that spreads its work over threads itself.

Threads of BLAS that wait for each other spin, and take the cores from other threads: MTCNN was seen to take twice as long
with them, and products of matrices in two threads at once ten times as long where other programs use the cores too.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from threadpoolctl import ThreadpoolController

from facespace.runtime.forks import tell_after_fork


class _Limit:
    """Counts its users, so that threads that have it at the same time leave the setting as they found it."""

    def __init__(self) -> None:
        self._controller: ThreadpoolController | None = None
        self.after_fork()
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Nobody uses it yet, neither at first nor in a child process."""
        self._lock = threading.Lock()
        self._users = 0
        self._limit: Any = None

    @contextlib.contextmanager
    def one_thread(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._controller = self._controller or ThreadpoolController()
                self._limit = self._controller.limit(limits=1, user_api="blas")
                self._limit.__enter__()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._limit.__exit__(None, None, None)


_LIMIT = _Limit()


def one_blas_thread() -> contextlib.AbstractContextManager[None]:
    """A context in which products of matrices take one thread each, in all of this process.

    >>> with one_blas_thread():
    ...     product = [[1.0, 2.0]] @ __import__("numpy").ones((2, 1))
    >>> product.tolist()
    [[3.0]]
    """
    return _LIMIT.one_thread()
