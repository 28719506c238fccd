"""The processes of one training run, as torchrun starts them: this process's rank, and communication between all."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator

import torch
from torch import Tensor, distributed

from facespace.errors import TrainingError
from facespace.io.text import first_line


def rank() -> int:
    """Return this process's rank, 0 if there is only one process."""
    return distributed.get_rank() if _is_distributed() else 0


def n_ranks() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if _is_distributed() else 1


def join(device: str) -> torch.device:
    """Join the process group that torchrun started, and return this process's device.

    No group is joined if `WORLD_SIZE` is 1 or not set. GPUs communicate by NCCL, processors by gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not _is_distributed():
        # DDP imports this module. Its functions' default arguments keep the process group that exists at that moment, and
        # with it gloo's threads, which can then abort the process at its end ("terminate called without an active exception").
        importlib.import_module("torch.distributed.nn.functional")
        distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    if device != "cuda":
        return torch.device(device)
    local = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def leave() -> None:
    """Leave the process group. Its threads end as soon as no network in DDP uses it."""
    if _is_distributed():
        distributed.destroy_process_group()


def wait() -> None:
    """Wait until all processes have called this."""
    if n_ranks() > 1:
        distributed.barrier()


def gathered(own: Tensor) -> Tensor:
    """Return the tensors (n,…) of all processes in the order of ranks: (ranks · n,…). All must have the same shape."""
    if n_ranks() == 1:
        return own
    parts = [torch.empty_like(own) for _ in range(n_ranks())]
    distributed.all_gather(parts, own.contiguous())
    return torch.cat(parts)


def summed(own: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place, and return it."""
    if n_ranks() > 1:
        distributed.all_reduce(own)
    return own


def exchange(own: bytes, device: torch.device) -> list[bytes]:
    """Return the bytes of every process, in the order of ranks. All must have the same length, at least 1."""
    rows = gathered(torch.frombuffer(bytearray(own), dtype=torch.uint8).to(device))
    return [bytes(row) for row in rows.cpu().view(n_ranks(), len(own)).tolist()]


@contextlib.contextmanager
def report_lost_processes() -> Iterator[None]:
    """Turn errors of communication in the block into a one-line `TrainingError`: another process of the run has ended."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or "gloo" in str(error).lower()):
            raise
        raise TrainingError(
            f"another process of this run ended or cannot be reached ({first_line(error)}); its own message says why; "
            "torchrun with --max-restarts resumes from the last checkpoint, otherwise start the same command again"
        ) from None


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
