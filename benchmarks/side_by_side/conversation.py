"""A peer's process that stays warm: sends requests, reads answers, and reports why an answer does not come."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

MAX_ANSWER = 16_000_000  # bytes of one line


class PeerError(Exception):
    """A request failed; the peer may answer others."""


class PeerStopped(PeerError):
    """The peer answers no more: it ended, said what is no answer, or took too long."""


class Conversation:
    """A peer's process. `log` takes what it prints; `timeout` is in seconds a request."""

    def __init__(self, command: list[str], environ: Mapping[str, str], log: Path, timeout: float) -> None:
        self._timeout = timeout
        self._log = log
        self._stopped = ""
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=dict(environ)
            )
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(MAX_ANSWER):
            self._lines.put(line)
        self._lines.put(b"")

    def ask(self, do: str, **values: object) -> dict[str, Any]:
        """The answer to one request. Raises `PeerError` where the peer says that it failed."""
        if self._stopped:
            raise PeerStopped(self._stopped)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end is reported below
            self._process.stdin.write(json.dumps({"do": do, **values}).encode() + b"\n")
            self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=self._timeout)
        except queue.Empty:
            self._stop(f"no answer to {do!r} within {self._timeout:g} s")
        if not line:
            code = self._process.wait()
            self._stop(f"ended with code {code} at {do!r}, see {self._log}")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self._stop(f"answered {do!r} with something other than a JSON object: {line[:60]!r}")
        if "error" in answer:
            raise PeerError(str(answer["error"]))
        return answer

    def _stop(self, why: str) -> None:
        self._stopped = why
        self.close()
        raise PeerStopped(why)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def __enter__(self) -> Conversation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
