"""The findings of `gallery check` in galleries with deliberate mistakes."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facespace.errors import ModelError
from facespace.identification import gallery_check
from facespace.identification.gallery import Gallery
from facespace.identification.gallery_check import Finding, check_gallery
from facespace.identification.stores import sqlite_rows
from support.calibrations import DIMENSION, StubEmbedder, crop


def axis(k: int) -> np.ndarray:
    return np.eye(DIMENSION, dtype=np.float32)[k]


def like(similarity: float, k: int, other: int) -> np.ndarray:
    return (similarity * axis(k) + math.sqrt(1 - similarity**2) * axis(other)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people.gallery"


@pytest.fixture
def gallery(path: Path) -> Iterator[Gallery]:
    """A gallery without mistakes: Anna with three photos and Ben with one."""
    with Gallery(path, StubEmbedder(), create=True) as opened:  # type: ignore[arg-type]
        for k in range(3):
            opened.add("Anna", like(0.9, 0, 5 + k), crop(k))
        opened.add("Ben", axis(1), crop(3))
        yield opened


def check(gallery: Gallery, **options: float) -> list[Finding]:
    return list(check_gallery(gallery, StubEmbedder(), **options))  # type: ignore[arg-type]


def test_nothing_is_found_in_a_good_gallery(gallery: Gallery) -> None:
    told: list[tuple[int, int]] = []
    found = list(check_gallery(gallery, StubEmbedder(), progress=lambda *done: told.append(done)))  # type: ignore[arg-type]
    assert found == [] and told == [(2, 2)]


def test_a_photo_of_two_people_is_reported_once(gallery: Gallery) -> None:
    gallery.add("Carl", axis(2), crop(3))
    (found,) = check(gallery)
    number = gallery.photos("Ben")[0].id
    assert found == Finding("same photo", f"photo {number} of Ben is also a photo of Carl", ("Ben", "Carl"), (number,))
    assert list(check_gallery(gallery, None)) == [found], "this needs no comparison of faces"


def test_two_names_that_are_alike_are_reported_once(gallery: Gallery) -> None:
    gallery.add("Benjamin", like(0.7, 1, 4), crop(7))
    (found,) = check(gallery)
    assert (found.kind, found.people) == ("alike", ("Ben", "Benjamin"))
    assert found.text.startswith("Ben and Benjamin are alike (similarity 0.700, threshold 0.4")
    assert found.similarity == pytest.approx(0.7, abs=1e-3) and found.threshold == pytest.approx(0.44, abs=0.02)
    assert list(check_gallery(gallery, None)) == []


def test_a_photo_unlike_the_others_and_whom_it_looks_like(gallery: Gallery) -> None:
    gallery.add("Anna", axis(1), crop(8))
    number = gallery.photos("Anna")[-1].id
    (found,) = check(gallery)
    assert (found.kind, found.people, found.photos) == ("unlike", ("Anna", "Ben"), (number,))
    assert found.text.startswith(f"photo {number} of Anna is unlike the others (similarity 0.000, threshold 0.4")
    assert found.text.endswith("; it looks like Ben")


def test_two_photos_that_are_unlike_are_reported_together(gallery: Gallery) -> None:
    gallery.add("Ben", axis(3), crop(8))
    (found,) = check(gallery)
    one, two = (photo.id for photo in gallery.photos("Ben"))
    assert found.photos == (one, two)
    assert found.text == f"photos {one} and {two} of Ben are unlike each other (similarity 0.000, threshold 0.400)"


def test_a_given_threshold(gallery: Gallery) -> None:
    assert {one.kind for one in check(gallery, threshold=0.95)} == {"unlike"}
    assert {one.people for one in check(gallery, threshold=-0.5) if one.kind == "alike"} == {("Anna", "Ben")}


def test_a_model_without_thresholds_needs_one(tmp_path: Path) -> None:
    embedder = StubEmbedder(calibration=None)
    with Gallery(tmp_path / "h", embedder, create=True) as gallery:  # type: ignore[arg-type]
        with pytest.raises(ModelError, match="no thresholds have been measured"):
            next(iter(check_gallery(gallery, embedder)))  # type: ignore[arg-type]
        gallery.add("Anna", axis(0), crop(0))
        with pytest.raises(ModelError, match="give one with --threshold"):
            list(check_gallery(gallery, embedder))  # type: ignore[arg-type]
        assert list(check_gallery(gallery, embedder, threshold=0.5)) == []  # type: ignore[arg-type]


def test_people_are_read_in_pages(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_check, "_READ", 2)
    monkeypatch.setattr(gallery_check, "_PAGE", 1)
    monkeypatch.setattr(gallery_check, "_N_VECTORS", 2)
    gallery.add("Benjamin", axis(1), crop(7))
    told: list[tuple[int, int]] = []
    found = list(check_gallery(gallery, StubEmbedder(), progress=lambda *done: told.append(done)))  # type: ignore[arg-type]
    assert [one.people for one in found] == [("Ben", "Benjamin")]
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            "UPDATE collection SET n_photos = 9",
            "damaged (2 people and 4 photos, but its counts are 2 and 9; if it was copied",
        ),
        ("DELETE FROM person WHERE name = 'Ben'", "1 photos have no owner"),
        ("UPDATE face SET digest = x'00' WHERE id = 4", "damaged"),
    ],
)
def test_damage(path: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch, damage: str, told: str) -> None:
    """The gallery is treated as too large to be checked completely when it is opened."""
    monkeypatch.setattr(sqlite_rows, "_COUNTED_ON_OPENING", 0)
    gallery.close()
    connection = sqlite3.connect(path)
    connection.execute(damage)
    connection.commit()
    connection.close()
    with Gallery(path) as opened:
        found = list(check_gallery(opened, None))
    assert any(one.kind == "damage" and told in one.text for one in found), found
    assert {one.kind for one in found} == {"damage"}


def test_people_who_cannot_be_read_are_reported_once(
    path: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_rows, "_COUNTED_ON_OPENING", 0)
    monkeypatch.setattr(gallery_check, "_PAGE", 1)
    gallery.add("Carl", axis(2), crop(3))
    gallery.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE face SET vector = zeroblob(16) WHERE id = 5")
    connection.commit()
    connection.close()
    with Gallery(path, StubEmbedder()) as opened:  # type: ignore[arg-type]
        found = check(opened)
    assert sum("not of length 1" in one.text for one in found) == 1, found
    assert any(one.kind == "same photo" for one in found), "the other checks still run"
