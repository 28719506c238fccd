"""Galleries that are embedded by another model from their stored crops."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.faces.input_spec import InputSpec
from facespace.identification import gallery_migration
from facespace.identification.gallery import Gallery
from facespace.identification.gallery_migration import Migrated, migrate
from facespace.identification.stores.bulk import people_of
from facespace.identification.stores.sqlite import SQLiteStore
from facespace.io.png import encode_png
from support.calibrations import StubEmbedder, crop
from support.gallery_people import everybody, open_people, person, photo, told

OTHER: Any = StubEmbedder(name="other", fingerprint="e" * 64, calibration=None)
PEOPLE = [
    person("Ada", 1, 2, 3, crop=True, external_id="a1", metadata={"x": 1}, rejected=("0" * 64,), templates="best"),
    person("Bob", 4),
    person("Eve", 5, crop=True),
]


@pytest.fixture
def store(tmp_path: Path) -> SQLiteStore:
    return open_people(tmp_path / "people.gallery", PEOPLE, collection="default")


def opened(store: SQLiteStore) -> SQLiteStore:
    return SQLiteStore(store.path, collection="default-other", create=True)


def test_everything_but_the_vectors_is_as_it_was(store: SQLiteStore) -> None:
    before = told(store)
    store.set("templates", "best")
    store.set("calibration", {"rate": 0.01, "offset": 0.1, "evidence": {}})
    seen: list[tuple[str, str]] = []
    done = migrate(store, lambda: opened(store), OTHER, report=lambda *what: seen.append(what))
    assert done == Migrated(2, 4, ["Bob"]) and seen == [("Bob", "left out (no crop is stored)")]
    found = list(people_of(opened(store)))
    assert [one.state for one in found] == [PEOPLE[0].state, PEOPLE[2].state]
    for one, two in zip(found, (PEOPLE[0], PEOPLE[2]), strict=True):
        for new, old in zip(one.photos, two.photos, strict=True):
            assert old.entry.crop is not None
            expected = dataclasses.replace(old.entry, made_by="onnxruntime float32")
            for field in dataclasses.fields(expected):
                if field.name != "embedding":
                    assert getattr(new.entry, field.name) == getattr(expected, field.name), field.name
            assert new.added == old.added
            pixels = np.asarray(gallery_migration.image.read(old.entry.crop))
            vector = OTHER.represent(pixels[None])[0]
            np.testing.assert_allclose(new.entry.embedding, vector, atol=1e-3)
    assert told(store) == before, "the old gallery is unchanged"
    assert opened(store).setting("calibration") is None and opened(store).setting("templates") == "best"
    with Gallery(opened(store), OTHER) as gallery:
        assert gallery.model_name == "other"


def test_photos_without_a_crop_are_reported(tmp_path: Path) -> None:
    mixed = dataclasses.replace(PEOPLE[0], photos=(photo(1, crop=True), photo(2), photo(3)))
    store = open_people(tmp_path / "a.gallery", [mixed])
    seen: list[tuple[str, str]] = []
    done = migrate(store, lambda: opened(store), OTHER, report=lambda *what: seen.append(what))
    assert done == Migrated(1, 1, ["Ada"]) and seen == [("Ada", "2 of 3 photos left out (no crop is stored)")]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x89PNG\r\n\x1a\n no picture", "its crop cannot be read"),
        (encode_png(crop(99)), "its crop is not the one that was enrolled"),
        (encode_png(np.zeros((8, 8, 3), np.uint8)), "its crop is not the one that was enrolled"),
    ],
)
def test_a_crop_that_is_another_or_damaged(tmp_path: Path, data: bytes, said: str) -> None:
    wrong = dataclasses.replace(PEOPLE[0], photos=(photo(1, crop=data), photo(2, crop=True)))
    store = open_people(tmp_path / "a.gallery", [wrong])
    seen: list[tuple[str, str]] = []
    assert migrate(store, lambda: opened(store), OTHER, report=lambda *what: seen.append(what)).n_photos == 1
    assert len(seen) == 1 and said in seen[0][1]


def test_what_cannot_be_embedded_again(store: SQLiteStore, tmp_path: Path) -> None:
    def never() -> SQLiteStore:
        raise AssertionError("nothing is made")

    same: Any = StubEmbedder(name="the same weights")
    with pytest.raises(GalleryError, match="its vectors are already of the model 'the same weights'"):
        migrate(store, never, same)
    larger: Any = dataclasses.replace(OTHER, spec=InputSpec(size=112, template="arcface"))
    with pytest.raises(
        GalleryError, match="the crops are 16 px box with a margin of 0, the model takes 112 px arcface; enrol"
    ):
        migrate(store, never, larger)
    without = open_people(tmp_path / "without.gallery", [person("Ada", 1)])
    with pytest.raises(GalleryError, match="no crops are stored in it; enrol the photos again, with other"):
        migrate(without, never, OTHER)
    target = open_people(tmp_path / "target.gallery", [person("Somebody", 9)])
    with pytest.raises(GalleryError, match="already has people"):
        migrate(store, lambda: target, OTHER)


def test_stopped_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished crops are not embedded again, and the target cannot be opened as a gallery before the end."""
    people = [dataclasses.replace(one, photos=tuple(photo(10 * n + k, crop=True) for k in range(3)))
              for n, one in enumerate(everybody())]  # fmt: skip
    store = open_people(tmp_path / "a.gallery", people)
    monkeypatch.setattr(gallery_migration, "_N_CROPS", 6)
    n_embedded = 0

    class Stopping(StubEmbedder):
        def represent(self, crops: np.ndarray) -> np.ndarray:
            nonlocal n_embedded
            if n_embedded >= 18:
                raise KeyboardInterrupt
            n_embedded += len(crops)
            return super().represent(crops)

    stopping: Any = Stopping(name="other", fingerprint="e" * 64, calibration=None)
    with pytest.raises(KeyboardInterrupt):
        migrate(store, lambda: opened(store), stopping)
    assert opened(store).count() == 6
    with (
        pytest.raises(GalleryError, match="not whole yet: start the same command again"),
        contextlib.closing(opened(store)) as half,
    ):
        Gallery(half, OTHER)
    n_embedded = -10_000
    done = migrate(store, lambda: opened(store), stopping)
    assert done == Migrated(len(people), 3 * len(people), [])
    assert n_embedded == -10_000 + 3 * (len(people) - 6)
    Gallery(opened(store), OTHER).close()
