"""Checkpoints of a training run: tensors as safetensors, the rest as JSON, in a folder that appears only when complete.

checkpoints/step-000001000/state.safetensors    every tensor of process 0
                           shard-1.safetensors  process 1's rows of the sharded tensors, and so on
                           checkpoint.json      step, facts (values other than tensors), checksums of all files,
                                                number of shards; written last
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facespace.errors import TrainingError
from facespace.io.files import TEMPORARY, sync_file, take_folder_place
from facespace.io.text import first_line
from facespace.training import distributed
from facespace.training.run_folder import resume_hint

_FACTS, _STATE, _FORMAT = "checkpoint.json", "state.safetensors", "facespace-checkpoint"
_NAME = re.compile(r"step-([0-9]{9})")
_MAX_FACTS = 10_000_000


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Represents the state before step `step`: `tensors` by name, and `facts`, other values that JSON can store."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, *, sharded: Iterable[str] = ()) -> Path:
    """Write a checkpoint below `folder` and return its path. All ranks call this.

    Each rank passes its own rows of the `sharded` tensors. Earlier checkpoints stay untouched until the new one is
    complete. Raises `TrainingError` if it cannot be written, for example to a full disk.
    """
    from safetensors.torch import save_file

    target = path_of(folder, checkpoint.step)
    unfinished = folder / f"{TEMPORARY}{target.name}"
    rank, split = distributed.rank(), set(sharded)
    mine = {
        name: tensor.detach().cpu().contiguous().clone()  # safetensors refuses tensors that share memory
        for name, tensor in checkpoint.tensors.items()
        if rank == 0 or name in split
    }
    problem = ""
    if rank == 0:
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        except OSError as error:
            problem = first_line(error)
    distributed.wait()
    try:
        file = unfinished / _file_of(rank)
        if mine and not problem:
            save_file(mine, file)
            sync_file(file)  # by the machine that wrote it
    except Exception as error:  # safetensors raises its own for a full disk
        problem = first_line(error)
    failed = distributed.summed(torch.tensor([1.0 if problem else 0.0], device=_device(checkpoint.tensors)))
    if rank == 0 and not failed.item():
        try:
            facts = {
                "format": _FORMAT,
                "version": 1,
                "step": checkpoint.step,
                "shards": distributed.n_ranks(),
                "sharded": sorted(split),
                "facts": checkpoint.facts,
                "files": {
                    name: _checksum(unfinished / name) for name in _files_of(distributed.n_ranks() if split else 1)
                },
            }
            facts["checksum"] = zlib.crc32(json.dumps(facts).encode())
            (unfinished / _FACTS).write_text(json.dumps(facts) + "\n", encoding="utf-8")
            take_folder_place(unfinished, target)
        except OSError as error:
            problem = first_line(error)
    failed = distributed.summed(torch.tensor([1.0 if problem else 0.0], device=_device(checkpoint.tensors)))
    if failed.item():
        if rank == 0:
            shutil.rmtree(unfinished, ignore_errors=True)
        kept = latest(folder)
        raise TrainingError(
            f"{target}: the checkpoint cannot be written ({problem or 'another process failed'}); "
            + (f"{kept.name} is intact; " if kept else "")
            + f"make room, then {resume_hint(folder.parent)}"
        )
    return target


def path_of(folder: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint.

    >>> path_of(Path("run/checkpoints"), 1000).name
    'step-000001000'
    """
    return folder / f"step-{step:09d}"


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint's folder.

    >>> step_of(Path("run/checkpoints/step-000001000"))
    1000
    """
    return int(path.name.removeprefix("step-"))


def is_checkpoint(path: Path) -> bool:
    """Return whether the path is a complete checkpoint."""
    return bool(_NAME.fullmatch(path.name)) and (path / _FACTS).is_file()


def latest(folder: Path) -> Path | None:
    """Return the checkpoint of the highest step, or None if there is no checkpoint."""
    found = _all(folder)
    return found[-1] if found else None


def prune(folder: Path, keep: int) -> None:
    """Remove all but the `keep` latest checkpoints, and temporary folders that killed processes left."""
    for old in _all(folder)[:-keep]:
        with contextlib.suppress(OSError):  # rename first: if this is killed, a half-removed one must not look complete
            old.rename(old.with_name(f"{TEMPORARY}{old.name}"))
    for leftover in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint. The rows of all ranks are joined into whole `sharded` tensors.

    Raises `TrainingError` if a file is damaged or missing.
    """
    from safetensors import SafetensorError

    facts = read_facts(path)
    try:
        tensors = _read_tensors(path, facts)
    except (SafetensorError, OSError, KeyError, RuntimeError, ValueError, TypeError, IndexError) as error:
        raise TrainingError(
            f"{path}: a damaged checkpoint ({first_line(error)}); remove it to resume from the previous one"
        ) from None
    return Checkpoint(facts["step"], tensors, facts["facts"])


def _read_tensors(path: Path, facts: dict[str, Any]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    for name, checksum in facts["files"].items():
        if _checksum(path / name) != checksum:
            raise ValueError(f"the checksum of {name} does not match")
    tensors = dict(load_file(path / _STATE))
    n_shards = facts["shards"] if facts["sharded"] else 1
    shards = [tensors, *(load_file(path / name) for name in _files_of(n_shards)[1:])]
    for name in facts["sharded"]:
        parts = [shard[name] for shard in shards]
        # Step counters are scalars with the same value in every rank.
        tensors[name] = torch.cat(parts) if parts[0].ndim else parts[0]
    return tensors


def read_facts(path: Path) -> dict[str, Any]:
    """Read `checkpoint.json`. Raises `TrainingError` if it is damaged."""
    file = path / _FACTS
    facts: Any = None
    try:
        if file.stat().st_size <= _MAX_FACTS:
            facts = json.loads(file.read_text(encoding="utf-8"))
            if facts.pop("checksum") != zlib.crc32(json.dumps(facts).encode()):
                facts = None
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError):
        facts = None
    kinds = {"step": int, "shards": int, "sharded": list, "facts": dict, "files": dict}
    if (
        not isinstance(facts, dict)
        or facts.get("format") != _FORMAT
        or any(type(facts.get(name)) is not kind for name, kind in kinds.items())
    ):
        raise TrainingError(f"{file}: a damaged checkpoint; remove {path.name} to resume from the previous one")
    result: dict[str, Any] = facts
    return result


def part_of(whole: Tensor, own: Tensor, name: str) -> Tensor:
    """Return this rank's part of the tensor `whole` of a checkpoint: all of it, or the rows of a sharded tensor.

    The part has the shape of `own`. Raises `TrainingError` for shapes that do not fit.

    >>> part_of(torch.arange(4.0), torch.zeros(4), "x").tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    if whole.shape == own.shape:
        return whole
    if whole.shape[1:] == own.shape[1:] and distributed.n_ranks() > 1:
        start = len(whole) * distributed.rank() // distributed.n_ranks()
        rows = whole[start : len(whole) * (distributed.rank() + 1) // distributed.n_ranks()]
        if rows.shape == own.shape:
            return rows
    raise TrainingError(
        f"the checkpoint's {name} has shape {tuple(whole.shape)}, the recipe's has {tuple(own.shape)}; "
        "recipe and checkpoint do not belong together"
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """Return an optimiser's state tensors as `optimizer.PARAMETER.KEY`; `names` maps `id(parameter)` to PARAMETER."""
    return {
        f"optimizer.{names[id(parameter)]}.{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]
) -> None:
    """Restore the state of an optimiser from what `optimizer_tensors` returned."""
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            parameter, _, key = name.removeprefix("optimizer.").rpartition(".")
            by_parameter.setdefault(parameter, {})[key] = tensor
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            for key, tensor in by_parameter.get(name, {}).items():
                if tensor.ndim:  # in the memory layout of the parameter, as fused optimisers require
                    own = torch.empty_like(parameter, dtype=tensor.dtype)
                    own.copy_(part_of(tensor, parameter, f"{name}.{key}"))
                else:  # a step counter, which fused optimisers require on the parameter's device
                    own = tensor.to(parameter.device if group.get("fused") else "cpu", copy=True)
                optimizer.state[parameter][key] = own


def _all(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(filter(is_checkpoint, folder.iterdir()))


def _file_of(rank: int) -> str:
    return f"shard-{rank}.safetensors" if rank else _STATE


def _files_of(n_shards: int) -> list[str]:
    """Return the names of the files that the ranks write. Listing the folder could miss new files on network disks."""
    return [_file_of(rank) for rank in range(n_shards)]


def _checksum(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while part := stream.read(2**24):
            checksum = zlib.crc32(part, checksum)
    return checksum


def _device(tensors: Mapping[str, Tensor]) -> torch.device:
    """Return the device for communication between ranks: NCCL requires tensors on the GPU."""
    return next((tensor.device for tensor in tensors.values() if tensor.is_cuda), torch.device("cpu"))
