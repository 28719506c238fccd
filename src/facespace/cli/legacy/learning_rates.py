"""The learning rates of the old trainers: one number, or a schedule file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from facespace.cli.shared.output import say
from facespace.errors import DatasetError, RecipeError
from facespace.io.text import plain_text

DEFAULT_FILE = "data/learning_rate_schedule.txt"
# The schedule files in `data/` of the FaceNet repository in April 2018.
SHIPPED = {
    "learning_rate_schedule_classifier_casia.txt": "0: 0.05, 60: 0.005, 80: 0.0005, 91: -1",
    "learning_rate_schedule_classifier_vggface2.txt": "0: 0.05, 100: 0.005, 200: 0.0005, 276: -1",
    "learning_rate_schedule_classifier_msceleb.txt": "0: 0.1, 150: 0.01, 180: 0.001, 251: 0.0001",
    "learning_rate_retrain_tripletloss.txt": "0: 0.1, 300: 0.01, 400: 0.001, 1000: 0.0001",
}


def keys_of(learning_rate: float, file: str, decay_epochs: int, decay_factor: float) -> dict[str, Any]:
    """Return the recipe's keys: a constant rate if `learning_rate` is above 0, else the schedule in `file`.

    A rate of −1 in the schedule ends training. If the file does not exist but FaceNet had a schedule of that name,
    FaceNet's schedule is used. Raises `RecipeError` for any other missing file, and for a file that is not a schedule.
    """
    decay = {"decay_epochs": decay_epochs, "decay_factor": decay_factor}
    if learning_rate > 0:
        return {"learning_rate": learning_rate, "schedule": "step", **decay}
    return {"schedule": schedule_text(file), **decay}


def schedule_text(file: str) -> str:
    """Return the schedule in a file as entries `epoch: rate` separated by commas."""
    from facespace.training.schedules import read_table

    path = Path(os.path.expanduser(file))
    if not path.is_file():
        if path.name in SHIPPED:
            say(f"{path}: no such file; using FaceNet's schedule of this name: {SHIPPED[path.name]}")
            return SHIPPED[path.name]
        raise RecipeError(
            f"--learning_rate_schedule_file: {plain_text(str(path))}: no such file; give one with lines `epoch: rate`, or "
            f"the name of one of FaceNet's: {', '.join(SHIPPED)}"
        )
    try:
        table = read_table(path)
    except (ValueError, DatasetError) as error:
        raise RecipeError(f"--learning_rate_schedule_file: {error}") from None
    return ", ".join(f"{epoch}: {rate!r}" for epoch, rate in table)
