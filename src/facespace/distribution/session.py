"""Sessions with a Ray cluster, which is found by its address or started on this machine.

Parts are computed by Ray Data's tasks, not by its actors: when a node is lost, any free worker computes its tasks, while
actors would wait for free resources on another node. A worker process keeps its model between tasks.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from facespace.distribution.plan import variables
from facespace.errors import FacespaceError, RuntimeUnavailable
from facespace.io.text import first_line, one_line
from facespace.runtime.cores import CORES_VARIABLE, usable_cores

_START_SECONDS = "120"  # timeout for the start of a node on a busy machine; Ray's default is 30
_CONNECT_SECONDS = 10.0
_MOST_RETRIES = 4  # of one part, so that a photo that crashes its worker does not crash workers for ever


class Session:
    """A connection to Ray; create it with `connect`."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def map(self, compute: Callable[[int], None], numbers: Iterable[int], *, gpu: bool = False) -> Iterator[int]:
        """Call `compute` on the workers, once for each number. Yield each number when it is done, in any order.

        `compute` is pickled. Every core is a worker; with `gpu` every GPU is a worker, with its share of the node's cores.
        Raises `FacespaceError` if `compute` raises an error, or if a worker cannot continue.
        """
        rows = [{"number": number} for number in numbers]
        if not rows:
            return
        data = importlib.import_module("ray.data")
        cores = self._cores_of_a_gpu() if gpu else 1
        # Each number is a block and a task. This process owns the blocks, so they survive the loss of a node.
        with warnings.catch_warnings():
            # Ray 2.60 has no other way to limit retries, and users cannot do anything about its warning.
            warnings.filterwarnings("ignore", message="`ray_remote_args")
            results = data.from_items(rows, override_num_blocks=len(rows)).map(
                _compute_row,
                fn_kwargs={"compute": compute, "cores": cores, "environment": variables()},
                num_cpus=cores,
                ray_remote_args_fn=_remote_options,
                **(
                    {"num_gpus": 1, "max_calls": 0} if gpu else {}
                ),  # by default a process with a GPU ends after each task
            )
        try:
            for row in results.iter_rows():
                if row["error"]:
                    raise FacespaceError(row["error"])
                yield row["number"]
        except self._ray.exceptions.RayError as error:
            raise FacespaceError(f"Ray: {one_line(first_line(error))}; finished parts are kept") from None

    def _cores_of_a_gpu(self) -> int:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        shares = [node.get("CPU", 0) // node["GPU"] for node in nodes if node.get("GPU", 0) >= 1]
        if not shares:
            raise RuntimeUnavailable("--device cuda: no node of the Ray cluster has a GPU")
        return max(1, int(min(shares)))


@contextlib.contextmanager
def connect(address: str) -> Iterator[Session]:
    """Connect to the cluster at an address: `local` starts one on this machine's cores, `auto` finds one on this machine.

    A cluster that was started here ends with the `with` block. Raises `RuntimeUnavailable` if Ray is not installed or
    no cluster is found.
    """
    _check_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics
    os.environ.setdefault("RAY_raylet_start_wait_time_s", _START_SECONDS)
    if address == "local" and "RAY_AUTH_MODE" not in os.environ:  # other users can reach the cluster's ports
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    try:
        ray = importlib.import_module("ray")
        data = importlib.import_module("ray.data")
    except ImportError:
        raise RuntimeUnavailable("--ray needs Ray; install it with: pip install 'facespace[ray]'") from None
    if ray.is_initialized():
        raise RuntimeUnavailable("--ray: this process is already connected to a Ray cluster")
    where: dict[str, Any] = {"address": address}
    if address == "local":
        where = {"address": "local", "num_cpus": usable_cores(), "include_dashboard": False}
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise RuntimeUnavailable(f"no Ray cluster at {one_line(address)}: {one_line(first_line(error))}") from None
    try:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised as exceptions too
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        with contextlib.redirect_stdout(sys.stderr):  # Ray prints the loss of a node to stdout, which is for results
            yield Session(ray)
    finally:
        ray.shutdown()


def _remote_options() -> dict[str, Any]:
    """Return Ray's options for a task: how often to retry it if its worker or node is lost (by default without end)."""
    return {"max_retries": _MOST_RETRIES}


def _check_reachable(address: str) -> None:
    """Raise `RuntimeUnavailable` unless `address` is `local`, `auto`, or a HOST:PORT at which something listens.

    If nothing listens there, Ray would try for minutes.
    """
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        if address not in ("local", "auto"):
            raise RuntimeUnavailable(f"--ray must be local, auto or HOST:PORT, got {one_line(address)}")
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RuntimeUnavailable(f"no Ray cluster at {one_line(address)}: {one_line(first_line(error))}") from None


def _compute_row(
    row: dict[str, Any], compute: Callable[[int], None], cores: int, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Compute one row on a worker, after setting the environment variables of the command.

    Errors that a user can fix are returned as values, so that Ray does not retry them.
    """
    os.environ.update(environment, **{CORES_VARIABLE: str(cores)})
    number = int(row["number"])
    try:
        compute(number)
    except OSError as error:
        return {"number": number, "error": f"{error.filename or 'a worker'}: {error.strerror or error}"}
    except (FacespaceError, ValueError, MemoryError) as error:
        return {"number": number, "error": first_line(error)}
    return {"number": number, "error": ""}
