"""The folder of a training run: what it began with, so that anyone can tell what its numbers mean, and resume it.

recipe.toml    every key, as resolved       run.json        versions, devices, git revision, dataset
metrics.jsonl  what was logged              events.out…     the same for TensorBoard
checkpoints/   states to resume from        best/, model/   model folders that every command takes
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facespace._version import __version__
from facespace.errors import RecipeError, TrainingError
from facespace.io.files import FULL, TEMPORARY, atomic_path, restore_folders
from facespace.io.text import plain_text
from facespace.models.folder import BEST, CHECKPOINTS, METRICS, MODEL, RECIPE, RUN, is_run
from facespace.training.recipe import Recipe, as_toml, load

_MAX_JSON = 10_000_000


def goes_on(run: Path) -> str:
    """The command that goes on with a run, in words.

    >>> goes_on(Path("runs/first"))
    'facespace train runs/first goes on with what is saved'
    """
    return f"facespace train {shlex.quote(plain_text(str(run)))} goes on with what is saved"


@contextlib.contextmanager
def full_disk_told(run: Path) -> Iterator[None]:
    """What is written into the run's folder while this lasts: a full disk is a `TrainingError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = plain_text(str(error.filename or run))
        what = goes_on(run) if is_run(run) else "start the same command again"
        raise TrainingError(f"{where}: {error.strerror}; make room, then {what}") from None


def read_recipe(run: Path) -> Recipe:
    """The recipe a run was begun with; `RecipeError` where it is damaged."""
    return load(run / RECIPE)


# What may change when a run goes on: how long, how fast and where. The change is told, and recipe.toml has it.
_MAY_CHANGE = {
    *("n_epochs", "workers", "device", "keep", "log_every", "checkpoint_every", "verify_every", "histograms"),
    *("learning_rate", "schedule", "decay_epochs", "decay_factor", "warmup_epochs", "clip_norm"),
}


def begin(run: Path, recipe: Recipe, facts: dict[str, Any]) -> list[str]:
    """Make the folder of a new run, or check that the one that is there is of this recipe; remarks, a line each.

    `facts` go into `run.json`. Raises `RecipeError` where a run of another recipe is there, and `TrainingError` where
    its dataset was another one, or its `run.json` is damaged.
    """
    if not is_run(run):
        if os.path.lexists(run) and not (run.is_dir() and all(map(_begun, run.iterdir()))):
            raise RecipeError(f"{run}: is there and holds something else; give another --output")
        run.mkdir(parents=True, exist_ok=True)
        _write(run / RUN, json.dumps({**environment(), **facts}, indent=1) + "\n")
        _write(run / RECIPE, as_toml(recipe))
        return []
    for folder in (run, run / CHECKPOINTS):
        restore_folders(folder)
    before = read_recipe(run)
    changed = before.differences(recipe)
    if fatal := [line for line in changed if line.split(" ", 1)[0] not in _MAY_CHANGE]:
        raise RecipeError(f"{run}: is a run of another recipe ({'; '.join(fatal)[:300]}); give another --output")
    written = [name for name in (MODEL, BEST) if (run / name).is_dir()]
    anew = f"begin anew with {f'init={run / written[0]} and ' if written else ''}another --output"
    began, now = read_facts(run).get("dataset"), facts["dataset"]
    if not isinstance(began, dict):
        raise TrainingError(f"{run / RUN}: damaged, so whether the dataset is the same cannot be told; {anew}")
    if began.get("fingerprint") != now["fingerprint"]:
        raise TrainingError(
            f"{run}: its dataset had {began.get('n_images')} images of {began.get('n_people')} people when it began, "
            f"and was edited since (now {now['n_images']} of {now['n_people']}); restore it, or {anew}"
        )
    _write(run / RECIPE, as_toml(recipe))
    return [f"changed for the rest of the run: {line}" for line in changed]


def _begun(path: Path) -> bool:
    """Whether a process that was killed while it began a run may have left this; `recipe.toml` is written last."""
    return path.name == RUN or path.name.startswith(TEMPORARY)


def read_facts(run: Path) -> dict[str, Any]:
    """What `run.json` says; empty where it is damaged."""
    try:
        if (run / RUN).stat().st_size > _MAX_JSON:
            return {}
        facts: Any = json.loads((run / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def environment() -> dict[str, Any]:
    """Versions, devices and the git revision of the working directory."""
    import numpy
    import torch

    return {
        "facespace": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
        "command": sys.argv,
        "git": _revision(),
    }


def _revision() -> str | None:
    """The commit of the working directory, with `-dirty` where files differ from it; None outside of git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def runs_below(folder: Path) -> Iterator[Path]:
    """The runs in a folder, itself included, sorted by path."""
    for root, folders, _ in os.walk(folder):
        if is_run(Path(root)):
            yield Path(root)
            folders.clear()
        else:
            folders.sort()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, without one that was cut short."""
    rows: list[dict[str, Any]] = []
    try:
        with (run / METRICS).open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    row: Any = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict) and type(row.get("step")) is int:
                    rows.append(row)
    except OSError:
        return []
    return rows


def summary(run: Path) -> dict[str, Any]:
    """A run in a few words and figures: network, losses, state, last step and loss, best accuracy of each set of pairs."""
    recipe, rows = read_recipe(run), read_metrics(run)
    steps = [row for row in rows if _number(row, "total_loss") is not None]
    accuracy: dict[str, float] = {}
    for row in rows:
        measured = row.get("verification")
        for name, figures in measured.items() if isinstance(measured, dict) else ():
            if (value := _number(figures, "accuracy")) is not None:
                accuracy[name] = max(accuracy.get(name, 0.0), value)
    return {
        "run": str(run),
        "network": f"from {recipe.init}" if recipe.init else recipe.backbone,
        "losses": "+".join(term.name for term in recipe.losses),
        "state": "finished" if (run / MODEL).is_dir() else "begun",
        "step": max((row["step"] for row in rows), default=0),
        "loss": _number(steps[-1], "total_loss") if steps else None,
        "images_per_second": _number(steps[-1], "images_per_second") if steps else None,
        "accuracy": accuracy,
    }


def _number(row: Any, key: str) -> float | None:
    value = row.get(key) if isinstance(row, dict) else None
    return value if isinstance(value, (int, float)) else None


def rewind_metrics(run: Path, step: int) -> None:
    """Drop what was logged from a step on: it is about to happen again."""
    if (run / METRICS).is_file():
        kept = [json.dumps(row) + "\n" for row in read_metrics(run) if row["step"] <= step]
        _write(run / METRICS, "".join(kept))


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")
