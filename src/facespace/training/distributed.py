"""The processes of one training, as torchrun starts them: which one this is, and what they tell each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import Tensor, distributed

from facespace.errors import TrainingError
from facespace.io.text import first_line


def rank() -> int:
    """This process's number, 0 where it is alone."""
    return distributed.get_rank() if _together() else 0


def n_ranks() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _together() else 1


def join(device: str) -> torch.device:
    """Join the processes torchrun started, and the device that is this one's.

    Nothing is joined where the environment names no others (`WORLD_SIZE`). GPUs talk by NCCL, processors by gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not _together():
        distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    if device != "cuda":
        return torch.device(device)
    local = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def leave() -> None:
    """Part from the others."""
    if _together():
        distributed.destroy_process_group()


def wait() -> None:
    """Wait until all processes are here."""
    if n_ranks() > 1:
        distributed.barrier()


def gathered(own: Tensor) -> Tensor:
    """The tensors (n,…) of all processes, one after the other: (ranks · n,…). All must be of one shape."""
    if n_ranks() == 1:
        return own
    parts = [torch.empty_like(own) for _ in range(n_ranks())]
    distributed.all_gather(parts, own.contiguous())
    return torch.cat(parts)


def summed(own: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if n_ranks() > 1:
        distributed.all_reduce(own)
    return own


def said(own: bytes, device: torch.device) -> list[bytes]:
    """What each process says, in the order of ranks. All must say equally many bytes, at least one."""
    rows = gathered(torch.frombuffer(bytearray(own), dtype=torch.uint8).to(device))
    return [bytes(row) for row in rows.cpu().view(n_ranks(), len(own)).tolist()]


@contextlib.contextmanager
def lost_processes_told() -> Iterator[None]:
    """While this lasts, a `TrainingError` says in one line that another process of the run has ended."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or "gloo" in str(error).lower()):
            raise
        raise TrainingError(
            f"another process of this run ended or cannot be reached ({first_line(error)}); its own message says why; "
            "with --max-restarts torchrun goes on from the last checkpoint, otherwise start the same command again"
        ) from None


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()
