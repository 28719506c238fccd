"""The folder of a training run: what it began with, so that anyone can tell what its numbers mean, and resume it.

recipe.toml    every key, as resolved       run.json        versions, devices, git revision, dataset
metrics.jsonl  what was logged              events.out…     the same for TensorBoard
checkpoints/   states to resume from        best/, model/   model folders that every command takes
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facespace import __version__
from facespace.errors import RecipeError, TrainingError
from facespace.files import atomic_path
from facespace.recipe import Recipe, as_toml, parse
from facespace.text import plain_text

RECIPE, RUN, METRICS, CHECKPOINTS, BEST, MODEL = (
    "recipe.toml",
    "run.json",
    "metrics.jsonl",
    "checkpoints",
    "best",
    "model",
)
_MAX_JSON = 10_000_000


def is_run(path: Path) -> bool:
    """Whether there is a `recipe.toml` and a `run.json` in it."""
    return (path / RECIPE).is_file() and (path / RUN).is_file()


def read_recipe(run: Path) -> Recipe:
    """The recipe a run was begun with."""
    return parse((run / RECIPE).read_text(encoding="utf-8"), source=plain_text(str(run / RECIPE)))


# What may change when a run goes on: it decides how long, how fast and where, not what is computed until then.
_MAY_CHANGE = {"n_epochs", "workers", "device", "keep", "log_every", "checkpoint_every", "verify_every", "histograms"}


def begin(run: Path, recipe: Recipe, facts: dict[str, Any]) -> list[str]:
    """Make the folder of a new run, or check that the one that is there is of this recipe; remarks, a line each.

    `facts` go into `run.json`. Raises `RecipeError` where a run of another recipe is there, and `TrainingError` where
    its dataset was another one.
    """
    if not is_run(run):
        if run.is_dir() and any(run.iterdir()):
            raise RecipeError(f"{run}: is there and holds something else; give another --output")
        run.mkdir(parents=True, exist_ok=True)
        _write(run / RUN, json.dumps({**environment(), **facts}, indent=1) + "\n")
        _write(run / RECIPE, as_toml(recipe))
        return []
    before = read_recipe(run)
    changed = before.differences(recipe)
    if fatal := [line for line in changed if line.split(" ", 1)[0] not in _MAY_CHANGE]:
        raise RecipeError(f"{run}: is a run of another recipe ({'; '.join(fatal)[:300]}); give another --output")
    began = read_facts(run)
    if began.get("dataset", {}).get("fingerprint") != facts["dataset"]["fingerprint"]:
        raise TrainingError(
            f"{run}: its dataset had {began.get('dataset', {}).get('n_images')} images of "
            f"{began.get('dataset', {}).get('n_people')} people when it began, and was edited since (now "
            f"{facts['dataset']['n_images']} of {facts['dataset']['n_people']}); restore it, or begin anew with "
            f"init={run / MODEL} and another --output"
        )
    _write(run / RECIPE, as_toml(recipe))
    return [f"changed for the rest of the run: {line}" for line in changed]


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
        with (run / METRICS).open(encoding="utf-8") as lines:
            for line in lines:
                try:
                    row: Any = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict) and isinstance(row.get("step"), int):
                    rows.append(row)
    except OSError:
        return []
    return rows


def summary(run: Path) -> dict[str, Any]:
    """A run in a few words and figures: network, losses, state, last step and loss, best accuracy of each set of pairs."""
    recipe, rows = read_recipe(run), read_metrics(run)
    steps = [row for row in rows if "total_loss" in row]
    accuracy: dict[str, float] = {}
    for row in rows:
        for name, figures in row.get("verification", {}).items():
            accuracy[name] = max(accuracy.get(name, 0.0), figures["accuracy"])
    return {
        "run": str(run),
        "network": f"from {recipe.init}" if recipe.init else recipe.backbone,
        "losses": "+".join(term.name for term in recipe.losses),
        "state": "finished" if (run / MODEL).is_dir() else "begun",
        "step": max((row["step"] for row in rows), default=0),
        "loss": steps[-1]["total_loss"] if steps else None,
        "images_per_second": steps[-1]["images_per_second"] if steps else None,
        "accuracy": accuracy,
    }


def rewind_metrics(run: Path, step: int) -> None:
    """Drop what was logged from a step on: it is about to happen again."""
    if (run / METRICS).is_file():
        kept = [json.dumps(row) + "\n" for row in read_metrics(run) if row["step"] <= step]
        _write(run / METRICS, "".join(kept))


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
