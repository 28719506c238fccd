"""Peers and their environments, each described at the top of its file in `peers/`.

The description is inline script metadata (PEP 723): pip installs `dependencies` with their requirements. In the
table `tool.bench`, `title` is the name in the results, `alone` lists packages that pip installs without their requirements, `npm`
those of a program for Node, `models` says that the peer needs files that are not in a package (folder `PEER_MODELS`), and
`project` that it runs in this project's environment; `dependencies` are then used only to measure the installation.
`advice` gives the source of the peer's threshold.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .conversation import Conversation

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
PEERS = HERE.parent / "peers"
_BLOCK = re.compile(r"^(#|//) /// script\n((?:\1(?: .*)?\n)+?)\1 ///$", re.MULTILINE)


class CannotInstall(Exception):
    """Why a peer's environment cannot be made."""


class Peer(NamedTuple):
    name: str
    path: Path
    title: str
    dependencies: list[str]
    alone: list[str]
    npm: list[str]
    advice: str
    models: bool
    project: bool


def read_peer(path: Path) -> Peer:
    """What the top of a peer's file says."""
    block = _BLOCK.search(path.read_text(encoding="utf-8"))
    if block is None:
        raise ValueError(f"{path}: a block '/// script' must describe the peer, got none")
    lines = (line.removeprefix(block[1]).removeprefix(" ") for line in block[2].splitlines())
    described = tomllib.loads("\n".join(lines))
    bench: dict[str, Any] = described.get("tool", {}).get("bench", {})
    return Peer(
        path.stem.replace("_", "-"),
        path,
        bench.get("title", path.stem),
        [one.replace("{repository}", str(REPOSITORY)) for one in described.get("dependencies", [])],
        bench.get("alone", []),
        bench.get("npm", []),
        bench.get("advice", ""),
        bench.get("models", False),
        bench.get("project", False),
    )


def all_peers(folder: Path = PEERS) -> dict[str, Peer]:
    """The peers of a folder by name, this project first."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in {".py", ".cjs"})
    peers = sorted((read_peer(path) for path in paths), key=lambda peer: (not peer.project, peer.name))
    return {peer.name: peer for peer in peers}


def bench_home() -> Path:
    """The folder of all environments: BENCH_HOME, by default `.bench` in the clone."""
    home = Path(os.environ.get("BENCH_HOME") or REPOSITORY / ".bench").resolve()
    home.mkdir(parents=True, exist_ok=True)
    return home


def start_peer(name: str) -> Conversation:
    """A process of one peer, its environment made if it is not there. Raises `CannotInstall`."""
    environment = Environment(all_peers()[name], bench_home())
    environment.install()
    return environment.start()


class Environment:
    """The environment of a peer in a folder; made once, and again when the description changes."""

    def __init__(self, peer: Peer, home: Path) -> None:
        self.peer = peer
        self.home = home
        self.folder = home / peer.name

    @property
    def python(self) -> str:
        return sys.executable if self.peer.project else str(_python(self.folder))

    @property
    def command(self) -> list[str]:
        if self.peer.path.suffix == ".cjs":
            return ["node", str(self.peer.path)]
        return [self.python, str(HERE / "door.py"), str(self.peer.path)]

    @property
    def environ(self) -> dict[str, str]:
        # With PYTHONDONTWRITEBYTECODE each process would compile every module again.
        left_out = {"PYTHONDONTWRITEBYTECODE"} | (set() if self.peer.project else {"PYTHONPATH"})
        values = {key: value for key, value in os.environ.items() if key not in left_out}
        values["NODE_PATH"] = str(self.folder / "node_modules")
        return values

    def start(self, timeout: float = 600) -> Conversation:
        self.home.mkdir(parents=True, exist_ok=True)
        return Conversation(self.command, self.environ, self.home / f"{self.peer.name}.log", timeout)

    def install(self) -> dict[str, float]:
        """Make the environment if it is not there: {"seconds": …, "bytes": …} of its installation, without pip's cache."""
        peer = self.peer
        made_from = hashlib.sha256(repr((peer[3:6], sys.version)).encode()).hexdigest()
        record = self.folder / "installed.json"
        if record.exists() and (known := json.loads(record.read_text()))["of"] == made_from:
            return {"seconds": known["seconds"], "bytes": known["bytes"]}
        if peer.models and not os.environ.get("PEER_MODELS"):
            raise CannotInstall("needs files of weights: PEER_MODELS=DIR, see the peer's file")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        before, start = 0, time.perf_counter()
        if peer.path.suffix == ".cjs":
            if shutil.which("node") is None or shutil.which("npm") is None:
                raise CannotInstall("node and npm are not installed")
            (self.folder / "package.json").write_text('{"private": true}')
            _run(["npm", "install", "--no-audit", "--no-fund", "--cache", str(self.folder / ".npm"), *peer.npm], self)
            shutil.rmtree(self.folder / ".npm", ignore_errors=True)
        else:
            venv.create(self.folder, with_pip=False, symlinks=True)
            before = _size(self.folder)
            pip = [sys.executable, "-m", "pip", "--python", str(_python(self.folder)), "install", "--quiet"]
            pip += ["--disable-pip-version-check", "--no-cache-dir"]
            if peer.dependencies:
                _run([*pip, *peer.dependencies], self)
            if peer.alone:
                _run([*pip, "--no-deps", *peer.alone], self)
        made = {"seconds": time.perf_counter() - start, "bytes": _size(self.folder) - before}
        record.write_text(json.dumps({"of": made_from, **made}))
        return made


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _run(command: list[str], environment: Environment) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=environment.folder, env=environment.environ)
    if done.returncode:
        with (environment.home / f"{environment.peer.name}.log").open("a") as log:
            log.write(done.stdout + done.stderr)
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise CannotInstall(lines[-1].strip() if lines else f"{command[0]} ended with code {done.returncode}")


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
