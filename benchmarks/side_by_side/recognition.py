"""Rows of recognition: the album from files to names, strangers who get a name, and accuracy on LFW view 1."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .rounds import CANNOT, Cell, Failures, Party, Row, attempt

PAIRS_A_REQUEST = 100
PHOTOS_A_REQUEST = 40


class Kept:
    """Keeps the answers of peers about photos in a folder, for as long as a peer's file and versions are the same.

    Slow peers need minutes for a thousand pairs. The answers of this project itself are never kept.
    """

    def __init__(self, folder: Path, peers: dict[str, Path]) -> None:
        self._folder = folder
        self._peers = peers  # name: its file

    def ask(self, party: Party, do: str, key: str, items: Sequence[Any], size: int) -> list[Any]:
        """The answers `key` to `do`, an answer an item, `size` items a request."""
        path = None
        if party.name in self._peers:
            said = [do, party.about["versions"], [list(one) if isinstance(one, tuple) else one for one in items]]
            digest = hashlib.sha256(self._peers[party.name].read_bytes() + json.dumps(said).encode()).hexdigest()
            path = self._folder / f"{party.name}-{digest}.json"
            if path.exists():
                kept: list[Any] = json.loads(path.read_text())
                return kept
        answers: list[Any] = []
        values = {"compare": "pairs", "identify": "paths"}[do]
        for start in range(0, len(items), size):
            answers += party.conversation.ask(do, **{values: list(items[start : start + size])})[key]
        if len(answers) != len(items):
            raise ValueError(f"{len(answers)} {key} for {len(items)} {values}")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".part").write_text(json.dumps(answers))
            path.with_suffix(".part").replace(path)
        return answers


class Album(NamedTuple):
    """One photo of each known person, and the probes: (path, name, or None for a stranger)."""

    enrolled: dict[str, str]
    probes: list[tuple[str, str | None]]


def read_album(shared: Path, every: int = 1) -> Album:
    """The first photo of each known person is enrolled; the seventh and later ones, and all of strangers, are probes."""
    folder = shared / "data/album"
    known = {person.name: sorted(map(str, person.iterdir())) for person in sorted((folder / "known").iterdir())}
    probes: list[tuple[str, str | None]] = [(path, name) for name, paths in known.items() for path in paths[6:]]
    probes += [(str(path), None) for path in sorted((folder / "unknown").rglob("*")) if path.is_file()]
    return Album({name: paths[0] for name, paths in known.items()}, probes[::every])


def enroll(parties: Sequence[Party], album: Album, row: Row, failures: Failures) -> None:
    """Have every party that can identify enrol the album's people; where it fails, the row says so."""
    for party in parties:
        if "identify" in party.can or party.stopped:
            attempt(party, row, failures, lambda cell, p=party: _enroll(p, album, cell))


def _enroll(party: Party, album: Album, cell: Cell) -> None:
    cell.facts["enrolled"] = int(party.conversation.ask("enroll", people=album.enrolled)["enrolled"])


def names(parties: Sequence[Party], album: Album, kept: Kept, failures: Failures) -> list[Row]:
    """Two rows: strangers' photos in which the face is named, and known people named right, at the peer's own threshold.

    A photo without a face found counts as not named. Speed does not count here: two parties answer at a time.
    """
    strangers = Row("recognition", "album: strangers named", "share of photos", "lower")
    right = Row("recognition", "album: known people named right", "share of photos", "higher")
    truth = [name for _, name in album.probes]
    asked = [party for party in parties if _recognises(party, (strangers, right))]

    def work(party: Party, cell: Cell) -> None:
        said = kept.ask(party, "identify", "names", [path for path, _ in album.probes], PHOTOS_A_REQUEST)
        named = [bool(name) for name in said]
        cell.values.append(_share([one for one, name in zip(named, truth, strict=True) if name is None]))
        correct = [one == name for one, name in zip(said, truth, strict=True) if name is not None]
        right.cells[party.name] = Cell([_share(correct)])

    for party in asked:
        enrolling = Row("recognition", "enrolment", "", "higher")
        if not attempt(party, enrolling, failures, lambda cell, p=party: _enroll(p, album, cell)):
            strangers.cells[party.name] = enrolling.cells[party.name]
    _two_at_a_time(asked, strangers, failures, work)
    for name, cell in strangers.cells.items():
        right.cells.setdefault(name, Cell(missing=cell.missing))
    return [strangers, right]


def lfw(
    parties: Sequence[Party],
    train: Sequence[tuple[str, str, bool]],
    test: Sequence[tuple[str, str, bool]],
    advice: dict[str, str],
    kept: Kept,
    failures: Failures,
) -> list[Row]:
    """Two rows: accuracy on the pairs of `test` at the peer's own threshold, and at the best one on those of `train`.

    Pairs are (path, path, same). One with a photo in which no face is found counts as wrong.
    """
    own = Row("recognition", "LFW view 1: accuracy at the advised threshold", "share of pairs", "higher")
    best = Row(
        "recognition", "LFW view 1: accuracy at the best threshold on training pairs", "share of pairs", "higher"
    )
    asked = [party for party in parties if _recognises(party, (own, best))]

    def work(party: Party, cell: Cell) -> None:
        scores, calls = _verdicts(party, [*train, *test], kept)
        same = np.array([pair[2] for pair in [*train, *test]])
        n = len(train)
        threshold = best_threshold(scores[:n], same[:n])
        accuracy = float(((scores[n:] >= threshold) == same[n:])[~np.isnan(scores[n:])].sum() / len(test))
        facts = {"without_a_face": int(np.isnan(scores[n:]).sum()), "threshold": threshold}
        best.cells[party.name] = Cell([accuracy], facts=facts)
        if all(call is None for call in calls):
            cell.missing = CANNOT
            cell.facts["says"] = advice.get(party.name, "")
            return
        tested = list(zip(calls[n:], same[n:], strict=True))
        cell.values.append(sum(call is not None and call == truth for call, truth in tested) / len(tested))
        cell.facts["says"] = advice.get(party.name, "")
        cell.facts["different_called_same"] = _share([bool(call) for call, truth in tested if not truth])
        cell.facts["same_called_different"] = _share([not call for call, truth in tested if truth])

    _two_at_a_time(asked, own, failures, work)
    for name, cell in own.cells.items():
        best.cells.setdefault(name, Cell(missing=cell.missing))
    return [own, best]


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """The midpoint between neighbouring scores with the fewest errors; pairs without a score (NaN) do not count."""
    seen = ~np.isnan(scores)
    order = np.sort(scores[seen])
    if len(order) < 2:
        raise ValueError(f"at least two pairs must have a score, got {len(order)}")
    candidates = (order[1:] + order[:-1]) / 2
    right = [((scores[seen] >= one) == same[seen]).sum() for one in candidates]
    return float(candidates[int(np.argmax(right))])


def _verdicts(party: Party, pairs: Sequence[tuple[str, str, bool]], kept: Kept) -> tuple[np.ndarray, list[bool | None]]:
    """Scores (N,), NaN where a photo has no face, and what the party calls the pairs; None where it calls nothing."""
    said = kept.ask(party, "compare", "verdicts", [pair[:2] for pair in pairs], PAIRS_A_REQUEST)
    scores = np.array([np.nan if one is None else float(one[0]) for one in said])
    return scores, [None if one is None or one[1] is None else bool(one[1]) for one in said]


def _recognises(party: Party, rows: Sequence[Row]) -> bool:
    if party.recognises or party.stopped:
        return True
    for row in rows:
        row.cells[party.name] = Cell(missing=CANNOT)
    return False


def _two_at_a_time(parties: Sequence[Party], row: Row, failures: Failures, work: Callable[[Party, Cell], None]) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda party: attempt(party, row, failures, lambda cell: work(party, cell)), parties))


def _share(of: Sequence[bool]) -> float:
    return sum(of) / len(of) if of else 0.0
