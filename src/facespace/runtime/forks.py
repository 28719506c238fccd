"""What a process made before a fork, in the child: its threads do not exist there, and whoever waits for them waits for ever.

Objects with threads, locks or sessions of a runtime register here, and are told in the child to make them again.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """An object that is told when it finds itself in a child process."""

    def after_fork(self) -> None:
        """Make threads and locks again; what needs time is better made when it is used."""


_OBJECTS: weakref.WeakSet[Forked] = weakref.WeakSet()


def tell_after_fork(thing: Forked) -> None:
    """Call `thing.after_fork()` in every child that this process forks, as long as the object lives."""
    _OBJECTS.add(thing)


def never_destroy(thing: object) -> None:
    """Leak an object: its destructor would join threads that are not there."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _tell() -> None:
    for thing in list(_OBJECTS):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tell)
