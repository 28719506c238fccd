"""Runs the service: binds the address, starts the processes, and ends them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from facespace.identification.gallery import Gallery
from facespace.runtime.cores import CORES_VARIABLE, usable_cores
from facespace.server import logs
from facespace.server.connections import Connections
from facespace.server.exposure import check_exposure
from facespace.server.settings import SETTINGS_VARIABLE, Settings
from facespace.server.state import serving

_BACKLOG = 2048
_SHUTDOWN_SECONDS = 30  # for requests that were accepted, and for event streams
_KEEP_ALIVE_SECONDS = 15


def run(settings: Settings) -> None:
    """Run the service until SIGTERM or Ctrl+C.

    Raise `OSError` if the address cannot be bound, `StateError` if another service uses the state folder, `ValueError` if
    a key must be made first, `GalleryError` if the gallery cannot be opened.
    """
    with serving(Path(settings.state)):
        if warning := check_exposure(settings):
            print(f"facespace: {warning}", file=sys.stderr, flush=True)
        Gallery(settings.gallery, create=True).close()  # reports an unusable gallery before anything is started
        listener = bind(settings)
        os.environ[SETTINGS_VARIABLE] = settings.as_json()
        logs.configure(settings.log_level)
        try:
            started = _serve_alone(settings, listener) if settings.workers == 1 else _serve_together(settings, listener)
        finally:
            listener.close()
    if not started:
        sys.exit(1)


def _serve_alone(settings: Settings, listener: socket.socket) -> bool:
    server = _Server(config(settings), address(settings, listener))
    server.run(sockets=[listener])
    return server.started


def _serve_together(settings: Settings, listener: socket.socket) -> bool:
    """Run worker processes that accept connections of the same socket, each with its share of the cores."""
    from uvicorn.supervisors import Multiprocess

    os.environ[CORES_VARIABLE] = str(max(1, usable_cores() // settings.workers))
    with tempfile.TemporaryDirectory(prefix="facespace-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        announce(address(settings, listener))
        supervisor = Multiprocess(config(settings), sockets=[listener])
        supervisor.run()
    ended = (0, -signal.SIGTERM, -signal.SIGINT)
    return all(process.exitcode in ended for process in supervisor.processes)


def config(settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration. It must be picklable, for worker processes."""
    connections: Any = Connections(settings)
    return uvicorn.Config(
        "facespace.server.app:app_from_environment", factory=True, workers=settings.workers, http=connections,
        ws="none", proxy_headers=bool(settings.forwarded_from), forwarded_allow_ips=list(settings.forwarded_from),
        access_log=False, log_config=None, server_header=False, lifespan="on", backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )  # fmt: skip


def address(settings: Settings, listener: socket.socket) -> str:
    """Return the address of the page, with the port that is actually bound."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}{settings.root_path}/"


def announce(where: str) -> None:
    """Print the line that contains the service's address. Programs read it."""
    print(f"facespace: serving at {where}", flush=True)


def bind(settings: Settings) -> socket.socket:
    """Return a socket that listens at the settings' host and port. Raise `OSError` if the address cannot be used."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    if os.name == "posix":  # on Windows this option would let another program take the same port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(
            error.errno,
            f"cannot listen there ({error.strerror}); give another --host or --port",
            f"{settings.host}:{settings.port}",
        ) from None
    listener.set_inheritable(True)
    return listener


class _Server(uvicorn.Server):
    """Prints its address once it serves, and exits normally after a signal."""

    def __init__(self, config: uvicorn.Config, where: str) -> None:
        super().__init__(config)
        self._where = where

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        announce(self._where)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals as uvicorn does, but do not raise the signal again at the end, which would kill the process."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
