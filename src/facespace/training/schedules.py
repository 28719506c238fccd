"""Learning-rate schedules: tables by epoch in the format of FaceNet's programs, step decay, cosine, polynomial, warm-up."""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass
from typing import Literal, get_args

from facespace.io.files import read_whole
from facespace.io.text import plain_text

Kind = Literal["step", "cosine", "polynomial"]
KINDS = get_args(Kind)
Table = tuple[tuple[int, float], ...]
_MAX_TABLE = 1_000_000  # bytes


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate as a function of the step, which counts from 0.

    With a `table` of (epoch, rate), where epochs count from 1, the rate is that of the last line whose epoch has begun;
    after the last line it stays the same. Without a table, `kind` selects the rate: `learning_rate` (`step`), or that
    times ½(1 + cos(π·t)) (`cosine`) or (1 − t)² (`polynomial`), where t is the fraction of all steps done. With and
    without a table, the rate is multiplied by `decay_factor` after every `decay_epochs` epochs, and increases linearly
    during the first `warmup_epochs`. A rate of 0 or less ends training.

    >>> schedule = Schedule(epoch_size=10, n_epochs=4, table=((1, 0.1), (3, 0.01), (4, -1)))
    >>> [schedule.at(step) for step in (0, 19, 20, 30)]
    [0.1, 0.1, 0.01, -1]
    """

    epoch_size: int
    n_epochs: int
    learning_rate: float = 0.1
    kind: Kind = "step"
    table: Table = ()
    decay_epochs: int = 100
    decay_factor: float = 1.0
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"schedule must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.epoch_size < 1 or self.decay_epochs < 1:
            raise ValueError(
                f"epoch_size and decay_epochs must be at least 1, got {self.epoch_size} and {self.decay_epochs}"
            )
        for name, most in {"learning_rate": math.inf, "decay_factor": 1.0, "warmup_epochs": math.inf}.items():
            if not 0 <= getattr(self, name) <= most or math.isinf(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number from 0 to {most:g}, got {getattr(self, name)}")
        epochs = [epoch for epoch, _ in self.table]
        for before, after in itertools.pairwise(epochs):
            if after <= before:
                raise ValueError(f"a schedule's epochs must increase from line to line, got {after} after {before}")
        if epochs and epochs[0] > 1:
            raise ValueError(f"a schedule's first line must be for epoch 0 or 1, got epoch {epochs[0]}")

    def at(self, step: int) -> float:
        """Return the learning rate of a step; 0 or less means that training ends before it."""
        epoch = step // self.epoch_size + 1
        if self.table:
            rate = [rate for first, rate in self.table if first <= epoch][-1]
            if rate <= 0:
                return rate
        else:
            done = min(1.0, step / max(1, self.epoch_size * self.n_epochs))
            shape = {"step": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "polynomial": (1 - done) ** 2}
            rate = self.learning_rate * shape[self.kind]
        rate *= self.decay_factor ** (step // (self.decay_epochs * self.epoch_size))
        return rate * min(1.0, (step + 1) / max(1.0, self.warmup_epochs * self.epoch_size))


def read_table(source: str | os.PathLike[str]) -> Table:
    """Read a table from a file of lines `epoch: rate`, or from a text of such entries separated by commas.

    `#` begins a comment; a rate `-` means −1, which ends training. Raises `ValueError` for anything else,
    `DatasetError` for a file that cannot be read.

    >>> read_table("0: 0.05, 60: 0.005, 91: -1")
    ((0, 0.05), (60, 0.005), (91, -1.0))
    """
    text = os.fspath(source)
    name = "schedule"
    if ":" not in text or os.path.isfile(text):
        name, text = plain_text(text), read_whole(text, _MAX_TABLE).decode("utf-8-sig", "replace")
    rows: list[tuple[int, float]] = []
    lines = [line.split("#", 1)[0] for line in text.splitlines()]  # first, because comments may contain commas
    for entry in map(str.strip, ",".join(lines).split(",")):
        if not entry:
            continue
        epoch, _, rate = (part.strip() for part in entry.partition(":"))
        try:
            rows.append((int(epoch), -1.0 if rate == "-" else float(rate)))
        except ValueError:
            raise ValueError(f"{name}: expected `epoch: rate`, such as `60: 0.005`, got {entry[:60]!r}") from None
        if not math.isfinite(rows[-1][1]):
            raise ValueError(f"{name}: the rate must be finite, got {entry[:60]!r}")
    if not rows:
        raise ValueError(f"{name}: must have at least one line `epoch: rate`, got none")
    return tuple(rows)
