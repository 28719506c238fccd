"""Reads what TensorBoard would show of a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


def events(run: Path) -> Any:
    """Return what TensorBoard shows of the folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    # Files of the same second are numbered in their names, which do not sort correctly from 10 on.
    for number, file in enumerate(sorted(run.glob("events.out.*"), key=lambda file: int(file.name.split(".")[-1]))):
        file.rename(file.with_name(f"events.out.tfevents.{number:010d}"))
    found = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    found.Reload()
    return found
