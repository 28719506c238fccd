"""Checks that all processes of a run, possibly on several machines, use the same recipe, dataset, folder and checkpoint.

All processes call each check at the same time. It raises `TrainingError` in all of them or in none, so that no process
waits for one that has given up.
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

_MAY_DIFFER = {"data", "workers"}  # the same files may have another path on another machine
_SECONDS = 60.0  # a network file system may take this long to show what another machine wrote


def check_same_training(recipe: Recipe, dataset: Mapping[str, Any], device: torch.device) -> None:
    """Check that all processes have the recipe of process 0, and a dataset with the same files, people and images."""
    text = recipe.model_dump_json(exclude=_MAY_DIFFER)
    counts = np.array([dataset["n_images"], dataset["n_people"]], "<i8").tobytes()
    own = hashlib.sha256(text.encode()).digest() + bytes.fromhex(dataset["fingerprint"]) + counts
    messages = distributed.exchange(own, device)
    for rank, message in enumerate(messages):
        if message[:32] != messages[0][:32]:
            raise TrainingError(
                f"process {rank} uses a different recipe than process 0 ({_here()}); "
                "start the same facespace train command on every machine"
            )
        if message[32:] != messages[0][32:]:
            theirs, first = (np.frombuffer(part[64:], "<i8") for part in (message, messages[0]))
            raise TrainingError(
                f"process {rank} has a different dataset than process 0 ({theirs[0]} images of {theirs[1]} people, process 0 has "
                f"{first[0]} of {first[1]}; names and sizes of files are compared; {_here()}); copy the same files to every machine"
            )


def check_shared_folder(run: Path, device: torch.device) -> None:
    """Check that all processes see the run's folder that process 0 has made."""
    if distributed.n_ranks() == 1:
        return
    name = distributed.exchange(secrets.token_bytes(8), device)[0].hex()
    proof = run / f"{TEMPORARY}shared-{name}"
    if distributed.rank() == 0:
        proof.touch()
    try:
        _wait_until_all_see(lambda: proof.name in os.listdir(run), str(run), device)
    finally:
        if distributed.rank() == 0:
            proof.unlink(missing_ok=True)


def latest_checkpoint(folder: Path, device: torch.device) -> Path | None:
    """Return the latest checkpoint that process 0 finds, or None, so that all processes resume from the same step."""
    found = checkpoint.latest(folder)
    step = int.from_bytes(distributed.exchange((_step(found) + 1).to_bytes(8, "little"), device)[0], "little") - 1
    if step < 0:
        return None
    chosen = checkpoint.path_of(folder, step)
    _wait_until_all_see(lambda: found == chosen or checkpoint.is_checkpoint(chosen), str(chosen), device)
    return chosen


def _step(path: Path | None) -> int:
    return -1 if path is None else checkpoint.step_of(path)


def _wait_until_all_see(is_visible: Callable[[], bool], what: str, device: torch.device) -> None:
    """Wait until all processes see what process 0 has written. Raise `TrainingError` if some do not see it in time."""
    end = time.monotonic() + _SECONDS
    while not (seen := _sees(is_visible)) and time.monotonic() < end:
        time.sleep(0.2)
    blind = [rank for rank, answer in enumerate(distributed.exchange(bytes([seen]), device)) if not answer[0]]
    if blind:
        raise TrainingError(
            f"{what}: process {', '.join(map(str, blind))} does not see what process 0 wrote there ({_here()}); "
            "put the run's folder (--output) on storage that all machines share"
        )


def _sees(is_visible: Callable[[], bool]) -> bool:
    try:
        return is_visible()
    except OSError:
        return False


def _here() -> str:
    return f"this is process {distributed.rank()}, on {platform.node() or 'this machine'}"
