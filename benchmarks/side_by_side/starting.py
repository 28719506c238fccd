"""Rows of installing and starting: size and time of an installation, import, first answer, memory."""

from __future__ import annotations

import time

from .environments import Environment
from .rounds import CANNOT, Cell, Failures, Party, Row, attempt


def installation(installed: dict[str, dict[str, float]]) -> list[Row]:
    """Two rows of what `Environment.install` said when each environment was made."""
    seconds = Row("installing and starting", "installation, without pip's cache", "s", "lower")
    size = Row("installing and starting", "size of what is installed", "MB", "lower")
    for name, made in installed.items():
        seconds.cells[name] = Cell([made["seconds"]])
        size.cells[name] = Cell([made["bytes"] / 1e6])
    return [seconds, size]


def fresh_processes(
    environments: dict[str, Environment], small: str, large: str, failures: Failures, *, rounds: int
) -> list[Row]:
    """Rows of processes that were just started: import, first answer and memory, with photos `small` and `large`.

    The first answer is the faces of `small`, from the start of the process, models loaded on the way. The disk is warm: a
    first round is not counted.
    """
    group = "installing and starting"
    imported = Row(group, "import", "s", "lower")
    answered = Row(group, "first answer: a process started, the faces of a 250 px photo", "s", "lower")
    memory = Row(group, "memory after that answer, peak", "MB", "lower")
    memory_large = Row(group, "memory with a photo of 12 MP, peak", "MB", "lower")
    rows = [imported, answered, memory, memory_large]
    broken: set[str] = set()
    for turn in range(rounds + 1):
        for name, environment in environments.items():

            def fill(cell: Cell, environment: Environment = environment, turn: int = turn) -> None:
                measured = _one_process(environment, small, large if turn == 1 else None)
                if measured is None:
                    cell.missing = CANNOT
                elif turn:
                    for row, value in zip(rows, measured, strict=True):
                        if value is not None:
                            row.cells.setdefault(environment.peer.name, Cell()).values.append(value)

            if name not in broken and not attempt(Party(name, None), answered, failures, fill):  # type: ignore[arg-type]
                broken.add(name)
    for row in rows:
        for name, cell in answered.cells.items():
            row.cells.setdefault(name, Cell(missing=cell.missing or CANNOT))
    return rows


def _one_process(
    environment: Environment, small: str, large: str | None
) -> tuple[float, float, float, float | None] | None:
    """Seconds of import and first answer, megabytes after it, and after `large`; None for a peer that finds no faces."""
    start = time.perf_counter()
    with environment.start() as conversation:
        party = Party(environment.peer.name, conversation)
        party.begin()
        if "detect" not in party.can:
            return None
        conversation.ask("detect", paths=[small])
        took, peak = time.perf_counter() - start, conversation.ask("memory")["peak"]
        peak_large = None
        if large is not None:
            conversation.ask("detect", paths=[large])
            peak_large = conversation.ask("memory")["peak"] / 1e6
        return float(party.about["import_seconds"]), took, peak / 1e6, peak_large
