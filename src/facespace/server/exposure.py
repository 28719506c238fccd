"""Who can reach a service before it starts: without keys it may listen on this machine alone."""

from __future__ import annotations

from facespace.server.keys import Keys
from facespace.server.settings import Settings
from facespace.server.state import State


def check_exposure(settings: Settings) -> str:
    """The line that warns of an open service, or "" for one that needs keys.

    `ValueError` for a service that others could reach, or that is behind a proxy, while no key was ever made.
    """
    state = State(settings.state)
    try:
        has_keys = Keys(state).any()
    finally:
        state.close()
    if has_keys:
        return ""
    make = f"facespace serve key create --role admin --state {settings.state}"
    if not settings.is_loopback:
        raise ValueError(f"listening at {settings.host} lets other machines in, which needs a key; make one: {make}")
    if settings.forwarded_from or settings.root_path:
        raise ValueError(f"a service behind a proxy needs a key; make one: {make}")
    return f"open to everybody on this machine, as there are no keys; make one to close it: {make}"
