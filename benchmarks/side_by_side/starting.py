"""Rows of installing and starting: size and time of an installation, import, first answer, memory."""

from __future__ import annotations

import time

from .environments import Environment
from .rounds import Cell, Failures, Party, Row, attempt


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
            if name in broken:
                continue

            def first(cell: Cell, name: str = name, environment: Environment = environment) -> None:
                start = time.perf_counter()
                with environment.start() as conversation:
                    party = Party(name, conversation)
                    party.begin()
                    if "detect" not in party.can:
                        cell.missing = "cannot"
                        return
                    conversation.ask("detect", paths=[small])
                    took, peak = time.perf_counter() - start, conversation.ask("memory")["peak"]
                    if turn == 0:
                        return
                    cell.values.append(took)
                    imported.cells.setdefault(name, Cell()).values.append(float(party.about["import_seconds"]))
                    memory.cells.setdefault(name, Cell()).values.append(peak / 1e6)
                    if turn == 1:
                        conversation.ask("detect", paths=[large])
                        peak = conversation.ask("memory")["peak"]
                        memory_large.cells.setdefault(name, Cell()).values.append(peak / 1e6)

            if not attempt(Party(name, None), answered, failures, first):  # type: ignore[arg-type]
                broken.add(name)
    for row in rows:
        for name, cell in answered.cells.items():
            row.cells.setdefault(name, Cell(missing=cell.missing or "cannot"))
    return rows

