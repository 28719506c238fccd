"""Matches from search results that are given by hand."""

from __future__ import annotations

import numpy as np

from facespace.identification.matching import Match, matches, matches_of_photo
from facespace.identification.people_index import Nearest

NO_MATCH = Match(None, None, 1.0)
NAMES = {1: "Anna", 2: "Ben", 3: "Carl"}


def found(people: list[list[int]], similarities: list[list[float]]) -> Nearest:
    shape = np.shape(people)
    return Nearest(
        np.array(people), np.array(similarities, np.float32), np.ones(shape, np.int32), np.ones(shape, np.float32)
    )


def test_a_match_has_a_name_if_it_reaches_the_threshold() -> None:
    nearest = found([[1, 2], [3, 1]], [[0.5, 0.25], [0.375, 0.25]])
    thresholds = np.array([[0.5, 0.2], [0.4, 0.5]])
    first, second = matches(nearest, thresholds, NAMES, NO_MATCH)
    assert first == [Match("Anna", 0.5, 0.5, "Anna"), Match("Ben", 0.25, 0.2, "Ben")]
    assert second == [Match(None, 0.375, 0.4, "Carl"), Match(None, 0.25, 0.5, "Anna")]


def test_removed_people_are_left_out() -> None:
    nearest = found([[9, 2], [9, -1]], [[0.9, 0.5], [0.9, -np.inf]])
    thresholds = np.full((2, 2), 0.4)
    assert matches(nearest, thresholds, NAMES, NO_MATCH) == [[Match("Ben", 0.5, 0.4, "Ben")], [NO_MATCH]]
    assert matches_of_photo(nearest, thresholds, NAMES, NO_MATCH) == [Match("Ben", 0.5, 0.4, "Ben"), NO_MATCH]


def test_in_one_photo_each_person_is_named_once() -> None:
    nearest = found([[1, 2], [1, 3], [1, 2]], [[0.75, 0.5], [0.875, 0.25], [0.375, 0.25]])
    thresholds = np.full((3, 2), 0.4)
    first, second, third = matches_of_photo(nearest, thresholds, NAMES, NO_MATCH)
    assert (first.name, second.name) == ("Ben", "Anna"), "the sum of similarities is largest"
    assert (first.similarity, second.similarity) == (0.5, 0.875)
    assert third == Match(None, 0.375, 0.4, "Anna"), (
        "the match has the nearest person, although another face has the name"
    )


def test_no_probes_and_no_people() -> None:
    none = found(np.empty((0, 2), int).tolist(), [])
    assert matches(Nearest(*(np.empty((0, 2), value.dtype) for value in none)), np.empty((0, 2)), {}, NO_MATCH) == []
    no_people = found([[-1]], [[-np.inf]])
    assert matches_of_photo(no_people, np.ones((1, 1)), {}, NO_MATCH) == [NO_MATCH]
