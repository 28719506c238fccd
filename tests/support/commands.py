"""Runs the command line in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a command: its exit code and output."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def errors(self) -> list[str]:
        return self.err.splitlines()

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


def run_facespace(*arguments: str | os.PathLike[str] | bytes, **options: Any) -> Outcome:
    """Run the command in a process of its own, with warnings as errors."""
    command = [sys.executable, "-W", "error", "-m", "facespace", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, **options)
    return Outcome(done.returncode, done.stdout, done.stderr)
