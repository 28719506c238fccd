"""What the most similar people of a probe mean: a name, or unknown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facespace.identification.assignment import one_face_each
from facespace.identification.people_index import Nearest


@dataclass(frozen=True, slots=True)
class Match:
    """What `identify` says of one probe and one person: `name` is None for unknown.

    `similarity` (cosine) is that to the person `nearest`, whether or not it reaches `threshold`; both are None only when
    nobody is enrolled.
    """

    name: str | None
    similarity: float | None
    threshold: float
    nearest: str | None = None


def matches(
    found: Nearest, thresholds: npt.NDArray[np.float64], names: Mapping[int, str], nobody: Match
) -> list[list[Match]]:
    """For each of N probes its k people, best first; a name stands where the person's threshold (N,k) is reached.

    `names` are those of the people by id. Somebody without one was removed since the search, and is left out; a probe that
    nobody is left for gets `nobody`.
    """
    return [
        [_match(found, thresholds, names, n, k) for k in ranks] or [nobody]
        for n, ranks in enumerate(_there(found, names))
    ]


def matches_of_photo(
    found: Nearest, thresholds: npt.NDArray[np.float64], names: Mapping[int, str], nobody: Match
) -> list[Match]:
    """One match a face of one photo, in which each person has at most one face; see `assignment.one_face_each`."""
    there = _there(found, names)
    column = {person: k for k, person in enumerate(names)}
    similarity = np.full((len(there), len(column)), -np.inf)
    least = np.full(similarity.shape, np.inf)
    rank: dict[tuple[int, int], int] = {}
    for n, ranks in enumerate(there):
        for k in ranks:
            at = column[int(found.people[n, k])]
            similarity[n, at], least[n, at], rank[n, at] = found.similarities[n, k], thresholds[n, k], k
    chosen = one_face_each(similarity, least).tolist()
    best = []
    for n, at in enumerate(chosen):
        if not there[n]:
            best.append(nobody)
            continue
        match = _match(found, thresholds, names, n, rank[n, at] if at >= 0 else there[n][0])
        best.append(match if at >= 0 else dataclasses.replace(match, name=None))
    return best


def _there(found: Nearest, names: Mapping[int, str]) -> list[list[int]]:
    """Of each probe the ranks of the people who are there."""
    return [[k for k, person in enumerate(row) if person in names] for row in found.people.tolist()]


def _match(found: Nearest, thresholds: npt.NDArray[np.float64], names: Mapping[int, str], n: int, k: int) -> Match:
    similarity, threshold = float(found.similarities[n, k]), float(thresholds[n, k])
    person = names[int(found.people[n, k])]
    return Match(person if similarity >= threshold else None, similarity, threshold, person)
