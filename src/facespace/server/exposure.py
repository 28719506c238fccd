"""Checks who can reach a service before it starts: without keys it may only listen on this machine."""

from __future__ import annotations

from facespace.server.keys import Keys
from facespace.server.settings import Settings
from facespace.server.state import State


def check_exposure(settings: Settings) -> str:
    """Return a warning that the service needs no key, or "" if it needs a key.

    Raise `ValueError` for a service without keys that other machines could reach, or that is behind a proxy.
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
        raise ValueError(f"listening at {settings.host} lets other machines in, so a key is needed; make one: {make}")
    if settings.forwarded_from or settings.root_path:
        raise ValueError(f"a service behind a proxy needs a key; make one: {make}")
    return f"everyone on this machine can use the service, because it has no keys; to require one: {make}"
