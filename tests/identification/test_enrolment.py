"""The checks of a photo before it is enrolled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.identification import enrolment
from facespace.identification.gallery import Gallery
from support.calibrations import DIMENSION, StubEmbedder, crop


def axis(k: int) -> np.ndarray:
    return np.eye(DIMENSION, dtype=np.float32)[k]


def like(similarity: float, k: int = 0, other: int = 7) -> np.ndarray:
    return (similarity * axis(k) + math.sqrt(1 - similarity**2) * axis(other)).astype(np.float32)


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery(tmp_path / "g", StubEmbedder(), create=True) as opened:  # type: ignore[arg-type]
        opened.add("Anna", axis(0), crop(0))
        opened.add("Ben", axis(1), crop(1))
        yield opened


def test_likeness_is_to_the_mean_of_the_photos(gallery: Gallery) -> None:
    gallery.add("Anna", axis(2), crop(2))
    found = enrolment.likeness(gallery, " Anna ", np.stack([axis(0), axis(1)]))
    assert found is not None
    assert found.similarities == pytest.approx([math.sqrt(0.5), 0], abs=1e-3)
    # Two photos of Anna raise the threshold by 0.05, and it is higher among two people than for one particular person.
    assert found.thresholds == pytest.approx([0.45, 0.45])
    assert (found.thresholds_among_all > found.thresholds).all()
    assert enrolment.likeness(gallery, "Nobody", axis(0)) is None


def test_of_several_faces_the_one_like_the_others(gallery: Gallery) -> None:
    assert enrolment.face_like_others(gallery, "Anna", np.stack([axis(3), like(0.8), axis(1)])) == 1


@pytest.mark.parametrize(
    ("faces", "reason"),
    [
        ([axis(3), like(0.3)], r"2 faces, none like Anna's other photos \(similarity 0\.300, threshold 0\.43\d\)"),
        ([like(0.8), like(0.75)], r"2 faces, two of them about equally like Anna \(similarity 0\.800 and 0\.750\)"),
        ([like(0.6, 0, 1), axis(3)], "2 faces, the one like Anna is more like Ben"),
        ([], "0 faces, one expected"),
    ],
)
def test_faces_that_are_not_clearly_the_persons(gallery: Gallery, faces: list[np.ndarray], reason: str) -> None:
    embeddings = np.stack(faces) if faces else np.empty((0, DIMENSION), np.float32)
    with pytest.raises(enrolment.NoClearFace, match=reason):
        enrolment.face_like_others(gallery, "Anna", embeddings)


def test_a_face_below_its_persons_threshold_is_not_named(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    named = gallery.identify

    def unsure(*given: Any, **options: Any) -> Any:
        return [dataclasses.replace(match, name=None) for match in named(*given, **options)]

    monkeypatch.setattr(gallery, "identify", unsure)
    with pytest.raises(enrolment.NoClearFace, match="the one like Anna is more like another person"):
        enrolment.face_like_others(gallery, "Anna", np.stack([like(0.6, 0, 1), axis(3)]))


def test_an_unknown_person_has_no_clear_face(gallery: Gallery) -> None:
    with pytest.raises(enrolment.NoClearFace, match="one expected"):
        enrolment.face_like_others(gallery, "Carl", np.stack([axis(0), axis(1)]))


def test_holders_and_rejections_of_a_crop(gallery: Gallery) -> None:
    gallery.add("Carl", axis(0), crop(0))
    assert sorted(enrolment.holders(gallery, crop(0))) == ["Anna", "Carl"]
    assert enrolment.holders(gallery, crop(9)) == []
    gallery.add("Ben", axis(2), crop(2))
    gallery.reject("Ben", [gallery.photos("Ben")[0].id])
    assert enrolment.is_rejected(gallery, " Ben ", crop(1))
    assert not enrolment.is_rejected(gallery, "Ben", crop(2))
    assert not enrolment.is_rejected(gallery, "Nobody", crop(1))


def test_whom_a_face_resembles(gallery: Gallery) -> None:
    assert enrolment.resembles(gallery, "Carl", like(0.9)) == "Anna"
    assert enrolment.resembles(gallery, "Anna", like(0.9)) == ""
    assert enrolment.resembles(gallery, "Anna", like(0.75, 0, 1)) == "Ben", (
        "even if the person's own name is the best match"
    )
    assert enrolment.resembles(gallery, "Carl", axis(4)) == ""


def test_a_model_without_thresholds_compares_nothing(tmp_path: Path) -> None:
    with Gallery(tmp_path / "h", StubEmbedder(calibration=None), create=True) as gallery:  # type: ignore[arg-type]
        gallery.add("Anna", axis(0), crop(0))
        assert not enrolment.can_compare(gallery)
        assert enrolment.resembles(gallery, "Carl", axis(0)) == ""
