"""Decides from the most similar people of a probe whether the probe gets a name or is unknown."""

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
    """The result of `identify` for one probe and one person: `name` is None for unknown.

    `similarity` is the cosine to the person `nearest`, whether or not it reaches `threshold`. Both are None only if the
    gallery is empty.
    """

    name: str | None
    similarity: float | None
    threshold: float
    nearest: str | None = None


def matches(
    found: Nearest, thresholds: npt.NDArray[np.float64], names: Mapping[int, str], no_match: Match
) -> list[list[Match]]:
    """Return up to k matches for each of N probes, best first; a match has a name if it reaches its threshold.

    `thresholds` are (N,k). `names` maps people's ids to their names. People who are not in `names` were removed after
    the search and are left out. A probe for which nobody remains gets `no_match`.
    """
    return [
        [_match(found, thresholds, names, n, k) for k in ranks] or [no_match]
        for n, ranks in enumerate(_present(found, names))
    ]


def matches_of_photo(
    found: Nearest, thresholds: npt.NDArray[np.float64], names: Mapping[int, str], no_match: Match
) -> list[Match]:
    """Return one match for each face of a photo, naming each person at most once; see `assignment.one_face_each`."""
    present = _present(found, names)
    column = {person: k for k, person in enumerate(names)}
    similarity = np.full((len(present), len(column)), -np.inf)
    required = np.full(similarity.shape, np.inf)
    rank: dict[tuple[int, int], int] = {}
    for n, ranks in enumerate(present):
        for k in ranks:
            at = column[int(found.people[n, k])]
            similarity[n, at], required[n, at], rank[n, at] = found.similarities[n, k], thresholds[n, k], k
    chosen = one_face_each(similarity, required).tolist()
    best = []
    for n, at in enumerate(chosen):
        if not present[n]:
            best.append(no_match)
            continue
        match = _match(found, thresholds, names, n, rank[n, at] if at >= 0 else present[n][0])
        best.append(match if at >= 0 else dataclasses.replace(match, name=None))
    return best


def _present(found: Nearest, names: Mapping[int, str]) -> list[list[int]]:
    """Return for each probe the ranks of the people who are still in the gallery."""
    return [[k for k, person in enumerate(row) if person in names] for row in found.people.tolist()]


def _match(found: Nearest, thresholds: npt.NDArray[np.float64], names: Mapping[int, str], n: int, k: int) -> Match:
    similarity, threshold = float(found.similarities[n, k]), float(thresholds[n, k])
    person = names[int(found.people[n, k])]
    return Match(person if similarity >= threshold else None, similarity, threshold, person)
