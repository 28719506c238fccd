"""The folder of a training run. It contains everything that is needed to understand and to resume the run.

recipe.toml    every key, as resolved       run.json        versions, devices, git revision, dataset
metrics.jsonl  logged figures               events.out…     the same for TensorBoard
checkpoints/   states to resume from        best/, model/   model folders for all commands
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


def resume_hint(run: Path) -> str:
    """Return the second half of a message: how to resume a run.

    >>> resume_hint(Path("runs/first"))
    'resume with facespace train runs/first'
    """
    return f"resume with facespace train {shlex.quote(plain_text(str(run)))}"


@contextlib.contextmanager
def report_full_disk(run: Path) -> Iterator[None]:
    """Turn an error of a full disk in the block into a `TrainingError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = plain_text(str(error.filename or run))
        what = resume_hint(run) if is_run(run) else "start the same command again"
        raise TrainingError(f"{where}: {error.strerror}; make room, then {what}") from None


def read_recipe(run: Path) -> Recipe:
    """Read the recipe of a run. Raises `RecipeError` if it is damaged."""
    return load(run / RECIPE)


# Keys that may change when a run is resumed. Changes are reported and written to recipe.toml.
_MAY_CHANGE = {
    *("n_epochs", "workers", "device", "keep", "log_every", "checkpoint_every", "verify_every", "histograms"),
    *("learning_rate", "schedule", "decay_epochs", "decay_factor", "warmup_epochs", "clip_norm"),
}


def begin(run: Path, recipe: Recipe, facts: dict[str, Any]) -> list[str]:
    """Make the folder of a new run, or check that the existing run has this recipe. Return one-line remarks.

    `facts` are written to `run.json`. Raises `RecipeError` if the folder contains a run of another recipe, and
    `TrainingError` if its dataset was different or its `run.json` is damaged.
    """
    if not is_run(run):
        if os.path.lexists(run) and not (run.is_dir() and all(map(_is_leftover, run.iterdir()))):
            raise RecipeError(f"{run}: exists and is not a training run; give another --output")
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
    start_new = f"start a new run with {f'init={run / written[0]} and ' if written else ''}another --output"
    began, now = read_facts(run).get("dataset"), facts["dataset"]
    if not isinstance(began, dict):
        raise TrainingError(f"{run / RUN}: damaged, so the dataset cannot be compared; {start_new}")
    if began.get("fingerprint") != now["fingerprint"]:
        raise TrainingError(
            f"{run}: its dataset had {began.get('n_images')} images of {began.get('n_people')} people when it began, "
            f"and was edited since (now {now['n_images']} of {now['n_people']}); restore it, or {start_new}"
        )
    _write(run / RECIPE, as_toml(recipe))
    return [f"changed for the rest of the run: {line}" for line in changed]


def _is_leftover(path: Path) -> bool:
    """Return whether a process that was killed in `begin` may have left this; `recipe.toml` is written last."""
    return path.name == RUN or path.name.startswith(TEMPORARY)


def read_facts(run: Path) -> dict[str, Any]:
    """Read `run.json`; return an empty dict if it is damaged."""
    try:
        if (run / RUN).stat().st_size > _MAX_JSON:
            return {}
        facts: Any = json.loads((run / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def environment() -> dict[str, Any]:
    """Return versions, devices and the git revision of the working directory."""
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
    """Return the commit of the working directory, with `-dirty` if files differ from it; None outside of git."""
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
    """Yield the runs in a folder, including the folder itself, sorted by path."""
    for root, folders, _ in os.walk(folder):
        if is_run(Path(root)):
            yield Path(root)
            folders.clear()
        else:
            folders.sort()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`, skipping lines that are incomplete."""
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
    """Return a summary of a run: network, losses, state, last step and loss, best accuracy on each set of pairs."""
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
    """Drop the lines logged after a step, because these steps will be computed again."""
    if (run / METRICS).is_file():
        kept = [json.dumps(row) + "\n" for row in read_metrics(run) if row["step"] <= step]
        _write(run / METRICS, "".join(kept))


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")
