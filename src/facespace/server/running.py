"""Runs the service: binds the address, starts the processes, and ends them."""

from __future__ import annotations

import os
import socket
import sys

import uvicorn

from facespace.server.settings import SETTINGS_VARIABLE, Settings

_BACKLOG = 512


def run(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl+C. `OSError` where the address cannot be bound."""
    listener = _bind(settings)
    os.environ[SETTINGS_VARIABLE] = settings.as_json()
    config = uvicorn.Config(
        "facespace.server.app:app_from_environment", factory=True, workers=settings.workers,
        proxy_headers=bool(settings.forwarded_from), forwarded_allow_ips=list(settings.forwarded_from),
        access_log=False, log_level="warning", server_header=False, timeout_keep_alive=15, lifespan="on",
    )  # fmt: skip
    print(f"facespace: serving at {address(settings, listener)}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
    sys.exit(0)


def address(settings: Settings, listener: socket.socket) -> str:
    """The address of the page, with the port that is really bound."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}{settings.root_path}/"


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    if os.name == "posix":  # elsewhere it would let another program take the same port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(
            error.errno, f"cannot listen there ({error.strerror})", f"{settings.host}:{settings.port}"
        ) from None
    listener.set_inheritable(True)
    return listener
