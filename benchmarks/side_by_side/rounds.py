"""Peers alternate at a row of the table: ours, theirs, ours, theirs; medians, spread and ratios of their results."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .conversation import Conversation, PeerError, PeerStopped

CANNOT = "cannot"  # a dash in the table: the peer has no such function
SHORTEST = 0.3  # seconds that one measurement lasts; shorter work is repeated
MOST_REPEATS = 50


@dataclass
class Cell:
    """The values of one peer for one row, one per round in the row's unit, or the reason for their absence."""

    values: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # seconds of the processor an item
    facts: dict[str, Any] = field(default_factory=dict)
    missing: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass
class Row:
    """A row of the table. `better` is "higher" or "lower"."""

    group: str
    name: str
    unit: str
    better: str
    cells: dict[str, Cell] = field(default_factory=dict)

    def ratio(self, ours: str, theirs: str) -> float | None:
        """How many times as good ours is by the medians; None where one of them is missing or zero."""
        a, b = self.cells.get(ours), self.cells.get(theirs)
        if a is None or b is None or not a.values or not b.values:
            return None
        return _times(a.median, b.median, self.better)

    def ratio_spread(self, ours: str, theirs: str) -> tuple[float, float] | None:
        """The lowest and highest of the ratios of single rounds."""
        if self.ratio(ours, theirs) is None:
            return None
        rounds = zip(self.cells[ours].values, self.cells[theirs].values, strict=False)
        ratios = [ratio for a, b in rounds if (ratio := _times(a, b, self.better)) is not None]
        return (min(ratios), max(ratios)) if ratios else None


def _times(ours: float, theirs: float, better: str) -> float | None:
    above, below = (ours, theirs) if better == "higher" else (theirs, ours)
    return above / below if below else None


@dataclass
class Party:
    """A peer that takes part: its process, and what it says it can do. `stopped` says why it no longer answers."""

    name: str
    conversation: Conversation
    can: frozenset[str] = frozenset()
    recognises: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    stopped: str = ""

    def begin(self) -> None:
        """Have the peer load its models and say what it can do. Raises `PeerError`."""
        self.about = self.conversation.ask("about")
        self.can, self.recognises = frozenset(self.about["can"]), bool(self.about["recognises"])


class Failures(list[str]):
    """What went wrong, a line each, printed as it happens."""

    def note(self, line: str) -> None:
        self.append(line)
        print(f"  failed: {line}", flush=True)


def attempt(party: Party, row: Row, failures: Failures, work: Callable[[Cell], None]) -> bool:
    """Let `work` fill the party's cell; where the peer fails, the cell and `failures` say why."""
    cell = row.cells.setdefault(party.name, Cell())
    if party.stopped or cell.missing:
        cell.missing = cell.missing or f"stopped: {party.stopped}"
        return False
    try:
        work(cell)
    except (PeerError, KeyError, TypeError, ValueError) as error:
        why = str(error) if isinstance(error, PeerError) else f"an answer of another form: {error!r}"
        if isinstance(error, PeerStopped):
            party.stopped = why
        cell.missing = f"failed: {why}"
        failures.note(f"{party.name}, {row.group}, {row.name}: {why}")
        return False
    return True


def take_turns(
    row: Row,
    parties: Iterable[Party],
    ability: str,
    do: str,
    values: dict[str, Any],
    n_items: int,
    failures: Failures,
    *,
    rounds: int,
    seconds: float,
) -> Row:
    """Fill a row: every party is asked `do` once to warm up, then in turns with the others.

    A party that has had `seconds` of a row takes no further turn, but each has one. A row's value is items a second where
    higher is better, else seconds an item. The sum of an answer's `faces`, and
    its `found`, are kept in the cell's facts.
    """
    repeats: dict[str, int] = {}
    spent: dict[str, float] = {}
    taking: list[Party] = []

    def measure(party: Party, cell: Cell, repeat: int, *, kept: bool) -> None:
        answer = party.conversation.ask(do, **values, **({"repeat": repeat} if repeat > 1 else {}))
        took, cpu = float(answer["seconds"]), float(answer["cpu"])
        if not (math.isfinite(took) and took > 0):
            raise ValueError(f"seconds must be positive, got {took}")
        spent[party.name] = spent.get(party.name, 0.0) + took * repeat
        repeats[party.name] = max(1, min(MOST_REPEATS, math.ceil(SHORTEST / took)))
        if kept:
            cell.values.append(n_items / took if row.better == "higher" else took / n_items)
            cell.cpu.append(cpu / n_items)
        if "faces" in answer:
            cell.facts["faces"] = sum(answer["faces"])
        if "found" in answer:
            cell.facts["found"] = answer["found"]

    for party in parties:
        if ability not in party.can and not party.stopped:
            row.cells[party.name] = Cell(missing=CANNOT)
        elif attempt(party, row, failures, lambda cell, party=party: measure(party, cell, 1, kept=False)):
            taking.append(party)
    for turn in range(rounds):
        for party in list(taking):
            if turn and spent[party.name] >= seconds:
                continue
            repeat = repeats[party.name]
            if not attempt(
                party, row, failures, lambda cell, party=party, repeat=repeat: measure(party, cell, repeat, kept=True)
            ):
                taking.remove(party)
    return row
