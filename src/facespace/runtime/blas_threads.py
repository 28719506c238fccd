"""Limits NumPy's BLAS to one thread per call, for code that runs its own threads.

Waiting BLAS threads spin and take cores from other threads. MTCNN took twice as long with them, and matrix products in
two threads at once took ten times as long while other programs used the cores too.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from threadpoolctl import ThreadpoolController

from facespace.runtime.forks import call_after_fork


class _Limit:
    """Limits BLAS threads. It counts the callers within `one_thread`; the last one to leave restores the setting."""

    def __init__(self) -> None:
        self._controller: ThreadpoolController | None = None
        self.after_fork()
        call_after_fork(self)

    def after_fork(self) -> None:
        """Reset the count; called at the start, and again in a child process after a fork."""
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
    """Return a context in which matrix products use one thread each, in the whole process.

    >>> with one_blas_thread():
    ...     product = [[1.0, 2.0]] @ __import__("numpy").ones((2, 1))
    >>> product.tolist()
    [[3.0]]
    """
    return _LIMIT.one_thread()
