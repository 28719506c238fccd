"""Runs a piece of code in two real torch.distributed processes and returns their results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BEFORE = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
found = {}
"""
AFTER = """
Path(sys.argv[1], f"found-{os.environ['RANK']}.json").write_text(json.dumps(found))
os._exit(0)  # threads of gloo may outlive the group, and abort a process in which Python ends the usual way
"""


def run_in_two_processes(folder: Path, code: str) -> list[dict[str, Any]]:
    """Run `code` in two processes started by torchrun; returns the dict `found` that each has filled, by rank.

    The code may use `json`, `os`, `sys`, `Path` and `torch`, and what it puts into `found` must fit into JSON.
    """
    script = folder / "script.py"
    script.write_text(BEFORE + code + AFTER, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(script), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in (0, 1)]
