"""Appearances: who was seen from when to when, with synthetic changes of the picture."""

from __future__ import annotations

import numpy as np
import pytest

from facespace.faces.face import Face
from facespace.video.appearances import AppearanceLog, NamedFace, NamedFrame
from facespace.video.cuts import Changes

SIZE = (320, 180)  # ten pixels for each cell of the changes


def face(x: float = 100) -> Face:
    return Face((x, 40.0, x + 40, 80.0), 0.9, ((x, 50.0),) * 5)


def seen(
    k: int, *faces: tuple[int, str | None], similarity: float | None = 0.5, cuts: tuple[float, ...] = ()
) -> NamedFrame:
    """Return frame k, of five a second, with (track, name) of its faces next to each other."""
    named = [NamedFace(face(100 * n), track, name, similarity, 0.4) for n, (track, name) in enumerate(faces)]
    return NamedFrame(5 * k, k / 5, named, cuts=cuts)


def changed(x: int, second: float) -> Changes:
    """Return changes by which the picture was replaced at a second, from 10 pixels left of `x` to 50 right of it."""
    strength, when = np.zeros((18, 32), np.int16), np.zeros((18, 32))
    strength[:, max(x // 10 - 1, 0) : x // 10 + 5], when[:] = 99, second
    return Changes(strength, when)


def test_similarity_and_threshold_are_means_over_the_frames() -> None:
    log = AppearanceLog()
    for k, similarity in enumerate([0.5, None, 0.7]):
        log.add(seen(k, (1, "Anna"), similarity=similarity), SIZE, None)
    log.add(seen(3, (2, None), similarity=None), SIZE, None)
    anna, unknown = log.appearances()
    assert (anna.similarity, anna.threshold, anna.n_frames) == (pytest.approx(0.6), 0.4, 3)
    assert (unknown.similarity, unknown.n_frames) == (None, 1)


def test_a_track_under_another_name_is_another_appearance() -> None:
    log = AppearanceLog()
    for k, name in enumerate(["Anna", "Anna", None, "Ben", "Ben", "Anna"]):
        log.add(seen(k, (1, name)), SIZE, None)
    assert [(one.track, one.name, one.first, one.last, one.n_frames) for one in log.appearances()] == [
        (1, "Anna", 0.0, 0.2, 2), (1, None, 0.4, 0.4, 1), (1, "Ben", 0.6, 0.8, 2), (1, "Anna", 1.0, 1.0, 1),
    ]  # fmt: skip


def test_a_face_that_is_missed_for_a_moment_has_one_appearance() -> None:
    log = AppearanceLog()
    for k, faces in enumerate([[(1, "Anna")], [], [], [(1, "Anna")]]):
        log.add(seen(k, *faces), SIZE, None)
    (anna,) = log.appearances()
    assert (anna.first, anna.last, anna.n_frames, anna.begin, anna.end) == (0.0, pytest.approx(0.6), 2, None, None)


def test_a_face_whose_position_was_replaced_meanwhile_has_two() -> None:
    log = AppearanceLog()
    log.add(seen(0, (1, "Anna")), SIZE, None)
    log.add(seen(1), SIZE, changed(0, 0.12))
    log.add(seen(2), SIZE, None)
    log.add(seen(3, (1, "Anna")), SIZE, changed(0, 0.44))
    first, second = log.appearances()
    assert (first.first, first.last, first.end) == (0.0, 0.0, 0.12)
    assert (second.begin, second.first, second.end) == (0.44, pytest.approx(0.6), None)


def test_changes_elsewhere_are_ignored() -> None:
    log = AppearanceLog()
    log.add(seen(0, (1, "Anna"), (2, "Ben")), SIZE, None)
    log.add(seen(1, (3, "Carl"), (4, "Dora")), SIZE, changed(100, 0.16))
    assert {one.name: one.begin or one.end for one in log.appearances()} == {
        "Anna": None, "Ben": 0.16, "Carl": None, "Dora": 0.16,
    }  # fmt: skip


def test_people_end_at_the_first_cut_and_begin_at_the_last() -> None:
    log = AppearanceLog()
    log.add(seen(0, (1, "Anna"), (2, "Ben")), SIZE, None)
    log.add(seen(1, (1, "Anna"), (3, "Carl")), SIZE, None)
    log.add(seen(2, (1, "Anna"), (4, "Dora"), cuts=(0.24, 0.36)), SIZE, None)
    assert {one.name: (one.begin, one.end) for one in log.appearances()} == {
        "Anna": (None, None), "Ben": (None, None), "Carl": (None, 0.24), "Dora": (0.36, None),
    }  # fmt: skip
    log.add(seen(3, (1, "Ben"), cuts=(0.52,)), SIZE, None)
    found = {(one.track, one.name): (one.begin, one.end) for one in log.appearances()}
    assert found[1, "Anna"] == (None, 0.52), "a track that continues under another name"
    assert found[1, "Ben"] == (0.52, None)
