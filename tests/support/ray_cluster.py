"""Ray for tests: its environment, and a cluster of two nodes on this machine."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.absent import need_packages


def ray_environment() -> dict[str, str]:
    """Return the environment variables for processes that start Ray or connect to it."""
    return {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",
    }


class TwoNodes:
    """A head without cores and two nodes of `cores` each, in their own process."""

    _MARK = "two nodes: "  # Ray also prints lines
    _PROGRAM = """
        import sys
        from ray.cluster_utils import Cluster
        memory = {"object_store_memory": 100_000_000, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
        nodes = [cluster.add_node(num_cpus=int(sys.argv[1]), object_store_memory=100_000_000) for _ in range(2)]
        cluster.wait_for_nodes(timeout=120)
        print("two nodes:", cluster.address, flush=True)
        if sys.stdin.readline():
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            print("two nodes: lost", flush=True)
            sys.stdin.readline()
        cluster.shutdown()
    """

    def __init__(self, cores: int, log: Path) -> None:
        self.environment = ray_environment()
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(self._PROGRAM), str(cores)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=self.environment,
            )  # fmt: skip
        self.address = self._next_line(log)
        self._log = log

    def lose_a_node(self) -> None:
        """Kill the processes of one node."""
        assert self._process.stdin is not None
        self._process.stdin.write("lose\n")
        self._process.stdin.flush()
        assert self._next_line(self._log) == "lost"

    def stop(self) -> None:
        """End the cluster."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(60)
        finally:
            self._process.kill()

    def _next_line(self, log: Path) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(self._MARK):
                return line.removeprefix(self._MARK).strip()
        raise AssertionError(f"Ray did not start: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="session")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    """Run a cluster of two nodes with one core each."""
    need_packages("ray")
    nodes = TwoNodes(1, tmp_path_factory.mktemp("ray") / "log.txt")
    yield nodes
    nodes.stop()
