"""Who changes a gallery, for its log: the user of this process, or whoever a service acts for."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Iterator
from contextvars import ContextVar

from facespace.io.text import plain_text

_MAX_LENGTH = 100
_ACTOR: ContextVar[str] = ContextVar("facespace_actor", default="")


def actor_name() -> str:
    """The name that the log gets now: that of `acting_as`, otherwise the user's."""
    return _ACTOR.get() or user_name()


def act_as(actor: str) -> None:
    """Give the log this name from here on, in the task or thread that calls it and in those it starts with its context."""
    _ACTOR.set(plain_text(actor)[:_MAX_LENGTH])


@contextlib.contextmanager
def acting_as(actor: str) -> Iterator[None]:
    """Give the log this name in the block; an empty one is the user's.

    The name belongs to the task or thread. Threads of `asyncio.to_thread` follow it; other pools need
    `contextvars.copy_context().run`.

    >>> with acting_as("door (key 3f)"):
    ...     actor_name()
    'door (key 3f)'
    """
    token = _ACTOR.set(plain_text(actor)[:_MAX_LENGTH])
    try:
        yield
    finally:
        _ACTOR.reset(token)


def user_name() -> str:
    """The name of the user who runs this process."""
    try:
        return plain_text(getpass.getuser())[:_MAX_LENGTH]
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"
