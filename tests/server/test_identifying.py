"""Names, reasons and rounding in answers."""

from __future__ import annotations

import pytest

from facespace.faces.face import Face
from facespace.identification.matching import Match
from facespace.server.engine import AnalyzedPhoto
from facespace.server.identifying import _reason, _rounded, face_entry, largest_first

POINTS = ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60))


def face(side: float = 80, quality: float = 0.9) -> Face:
    return Face((0, 0, side, side), 0.9, POINTS, quality=quality)


def test_the_largest_come_first():
    photo = AnalyzedPhoto("", faces=[face(20), face(60), face(40)])
    assert largest_first(photo, 2) == [1, 2]


@pytest.mark.parametrize(
    ("match", "of", "ignored", "reason"),
    [
        (Match(None, 0.1, 0.4, "Ada"), face(), False, "stranger"),
        (Match(None, 0.1, 0.4, "Ada"), face(20, 0.1), False, "too_small"),
        (Match(None, 0.1, 0.4, "Ada"), face(80, 0.1), False, "too_blurred"),
        (Match(None, None, 1.0), face(), False, "nobody_enrolled"),
        (Match(None, 0.5, 0.4, "Ada"), face(), False, "somebody_else_here"),
        (Match(None, 0.1, 0.4, "Ada"), face(), True, "ignored"),
    ],
)
def test_reasons(match, of, ignored, reason):
    assert _reason(match, of, ignored) == reason


@pytest.mark.parametrize(
    ("similarity", "threshold"),
    [(0.40001, 0.40004), (0.40004, 0.40001), (0.39996, 0.40003), (0.4, 0.4), (0.12345678, 0.9), (0.399949, 0.39995)],
)
def test_rounded_numbers_say_the_same(similarity, threshold):
    shown_similarity, shown_threshold = _rounded(Match(None, similarity, threshold, "Ada"))
    assert (shown_similarity >= shown_threshold) == (similarity >= threshold)
    assert abs(shown_similarity - similarity) < 2e-4
    assert abs(shown_threshold - threshold) < 1e-4


def test_a_face_as_json():
    entry = face_entry(face(), [0.5], landmarks=True)
    assert entry["box"] == [0, 0, 80, 80]
    assert entry["embedding"] == [0.5]
    assert len(entry["landmarks"]) == 5
    assert "landmarks" not in face_entry(face())
