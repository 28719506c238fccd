"""Rebuilds threads, locks and runtime sessions in a child process after a fork.

Threads do not exist in the child, and waiting for them would never end. Objects with threads, locks or runtime sessions
register here, and their `after_fork` is called in the child.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """An object whose `after_fork` is called in a child process."""

    def after_fork(self) -> None:
        """Create new threads and locks; anything slow should be created on first use instead."""


_OBJECTS: weakref.WeakSet[Forked] = weakref.WeakSet()


def call_after_fork(thing: Forked) -> None:
    """Call `thing.after_fork()` in every child that this process forks, as long as the object lives."""
    _OBJECTS.add(thing)


def never_destroy(thing: object) -> None:
    """Leak an object, because its destructor would join threads that do not exist in this process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _call_all() -> None:
    for thing in list(_OBJECTS):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_call_all)
