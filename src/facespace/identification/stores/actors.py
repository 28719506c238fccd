"""The actor that a gallery's log records: the user of this process, or the client a service acts for."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Iterator
from contextvars import ContextVar

from facespace.io.text import plain_text

_MAX_LENGTH = 100
_ACTOR: ContextVar[str] = ContextVar("facespace_actor", default="")


def actor_name() -> str:
    """Return the present actor's name: the one set by `act_as` or `acting_as`, otherwise the user's name."""
    return _ACTOR.get() or user_name()


def act_as(actor: str) -> None:
    """Set the actor's name from now on, for this task or thread and for those started from it that copy its context."""
    _ACTOR.set(plain_text(actor)[:_MAX_LENGTH])


@contextlib.contextmanager
def acting_as(actor: str) -> Iterator[None]:
    """Set the actor's name in the block; an empty name stands for the user's name.

    The name belongs to the task or thread. Threads of `asyncio.to_thread` inherit it; other pools need
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
    """Return the name of the user who runs this process."""
    try:
        return plain_text(getpass.getuser())[:_MAX_LENGTH]
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"
