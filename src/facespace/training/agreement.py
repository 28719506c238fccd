"""Checks that all processes of a run, maybe on several machines, train the same thing: recipe, dataset, folder, checkpoint.

Every check is called by all processes at once and raises `TrainingError` in all of them or in none, so that nobody
waits for a process that has given up.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facespace.errors import TrainingError
from facespace.io.files import TEMPORARY
from facespace.training import checkpoint, distributed
from facespace.training.recipe import Recipe

_MAY_DIFFER = {"data", "workers"}  # the same files may lie elsewhere on another machine
_SECONDS = 60.0  # how long a network file system may take to show what another machine wrote


def check_same_training(recipe: Recipe, dataset: Mapping[str, Any], device: torch.device) -> None:
    """Compare the recipe and the dataset's fingerprint, people and images with those of process 0."""
    text = recipe.model_dump_json(exclude=_MAY_DIFFER)
    counts = np.array([dataset["n_images"], dataset["n_people"]], "<i8").tobytes()
    own = hashlib.sha256(text.encode()).digest() + bytes.fromhex(dataset["fingerprint"]) + counts
    all_said = distributed.said(own, device)
    for rank, said in enumerate(all_said):
        if said[:32] != all_said[0][:32]:
            raise TrainingError(
                f"process {rank} trains by another recipe than process 0 ({_here()}); "
                "start the same facespace train command on every machine"
            )
        if said[32:] != all_said[0][32:]:
            theirs, first = (np.frombuffer(part[64:], "<i8") for part in (said, all_said[0]))
            raise TrainingError(
                f"process {rank} has another dataset than process 0 ({theirs[0]} images of {theirs[1]} people, process 0 has "
                f"{first[0]} of {first[1]}; names and sizes of files are compared; {_here()}); copy the same files to every machine"
            )


def check_shared_folder(run: Path, device: torch.device) -> None:
    """Check that the run's folder, which process 0 has made, is one and the same for all processes."""
    if distributed.n_ranks() == 1:
        return
    name = distributed.said(secrets.token_bytes(8), device)[0].hex()
    proof = run / f"{TEMPORARY}shared-{name}"
    if distributed.rank() == 0:
        proof.touch()
    try:
        _all_see(lambda: proof.name in os.listdir(run), str(run), device)
    finally:
        if distributed.rank() == 0:
            proof.unlink(missing_ok=True)


def latest_checkpoint(folder: Path, device: torch.device) -> Path | None:
    """The checkpoint that process 0 takes for the latest, None where there is none: all go on from the same step."""
    found = checkpoint.latest(folder)
    step = int.from_bytes(distributed.said((_step(found) + 1).to_bytes(8, "little"), device)[0], "little") - 1
    if step < 0:
        return None
    chosen = checkpoint.path_of(folder, step)
    _all_see(lambda: found == chosen or checkpoint.is_checkpoint(chosen), str(chosen), device)
    return chosen


def _step(path: Path | None) -> int:
    return -1 if path is None else checkpoint.step_of(path)


def _all_see(is_there: Callable[[], bool], what: str, device: torch.device) -> None:
    """Wait until something that process 0 has is there for all; `TrainingError` where some do not see it in time."""
    end = time.monotonic() + _SECONDS
    while not (seen := _holds(is_there)) and time.monotonic() < end:
        time.sleep(0.2)
    blind = [rank for rank, answer in enumerate(distributed.said(bytes([seen]), device)) if not answer[0]]
    if blind:
        raise TrainingError(
            f"{what}: process {', '.join(map(str, blind))} does not see what process 0 has there ({_here()}); "
            "put the run's folder (--output) on storage that all machines share"
        )


def _holds(is_there: Callable[[], bool]) -> bool:
    try:
        return is_there()
    except OSError:
        return False


def _here() -> str:
    return f"this is process {distributed.rank()}, on {platform.node() or 'this machine'}"
