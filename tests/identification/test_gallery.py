"""Galleries with a stub embedder, which draws a crop's embedding at random from its content."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import facespace
from facespace.embedding.calibration import LookAlikes
from facespace.embedding.compatibility import model_of
from facespace.embedding.vectors import Embeddings
from facespace.errors import GalleryError, ModelError, UnknownPerson
from facespace.faces.input_spec import INPUT_SPECS, InputSpec
from facespace.identification.gallery import Gallery
from facespace.identification.matching import Match
from support.calibrations import CALIBRATION, DIMENSION, StubEmbedder, crop


def axis(k: int) -> np.ndarray:
    return np.eye(DIMENSION, dtype=np.float32)[k]


def between(similarity: float, k: int = 0, other: int = 7) -> np.ndarray:
    """Return a unit vector with that cosine to axis `k`."""
    return (similarity * axis(k) + math.sqrt(1 - similarity**2) * axis(other)).astype(np.float32)


def open_gallery(path: Path, *, create: bool = False, **changes: Any) -> Gallery:
    return Gallery(path, StubEmbedder(**changes), create=create)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people.gallery"


@pytest.fixture
def gallery(path: Path) -> Iterator[Gallery]:
    with open_gallery(path, create=True) as opened:
        yield opened


# Enrolling and identifying


def test_enrolled_people_are_identified(path: Path, gallery: Gallery) -> None:
    for k, name in enumerate(("Anna", "Ben", "Carl")):
        gallery.add(name, axis(k), crop(k))
    probes = np.stack([between(0.9, 2), between(0.9, 0), between(0.3, 1), -axis(5)])
    for opened in (gallery, open_gallery(path)):
        matches = opened.identify(probes)
        assert [match.name for match in matches] == ["Carl", "Anna", None, None]
        assert [match.similarity for match in matches] == pytest.approx([0.9, 0.9, 0.3, 0.0], abs=1e-3)
        assert len({match.threshold for match in matches}) == 1
        opened.close()


def test_the_quality_of_enrolled_and_probing_faces_moves_the_threshold(path: Path) -> None:
    alike = LookAlikes(((0.1, 0.3), (0.01, 0.4)), ((0.1, 0.3), (0.01, 0.4)), slope=0.25, n_photos=9, n_faces=99)
    embedder = StubEmbedder(calibration=dataclasses.replace(CALIBRATION, look_alikes=alike))
    with Gallery(path, embedder, create=True) as gallery:  # type: ignore[arg-type]
        gallery.add("Anna", axis(0), crop(0), quality=1.0)
        gallery.add("Ben", axis(1), crop(1), quality=0.4)
        gallery.add("Ben", axis(1), crop(2), quality=0.6)
        probes = np.stack([axis(0), axis(0), axis(1)])
        making = {"made_by": "represent", "model": model_of(embedder)}  # type: ignore[arg-type]
        good, poor, to_ben = gallery.identify(Embeddings(probes, quality=[1.0, 0.2, 1.0], **making))
        assert poor.threshold - good.threshold == pytest.approx(0.25 * 0.4)
        # Two photos of Ben, of quality 0.5 in the mean; their average reaches 0.05 more with random people, which among
        # two people counts for part of it.
        assert 0.25 * 0.25 < to_ben.threshold - good.threshold < 0.25 * 0.25 + 0.05
        (unknown,) = gallery.identify(axis(0))
        assert unknown.threshold - good.threshold == pytest.approx(0.25 * 0.125)


def test_a_quality_must_be_a_share(gallery: Gallery) -> None:
    with pytest.raises(ValueError, match=r"quality must be between 0 and 1, got 1\.5"):
        gallery.add("Anna", axis(0), crop(0), quality=1.5)
    assert gallery.people() == []


def test_in_one_photo_each_person_is_named_once(gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    gallery.add("Ben", axis(1), crop(1))
    faces = np.stack([between(0.9), between(0.95), between(0.9, 1)])
    assert [match.name for match in gallery.identify(faces)] == ["Anna", "Anna", "Ben"]
    matches = gallery.identify(faces, one_photo=True)
    assert [match.name for match in matches] == [None, "Anna", "Ben"]
    assert matches[0].nearest == "Anna" and matches[0].similarity == pytest.approx(0.9, abs=1e-3)
    with pytest.raises(ValueError, match="top and one_photo exclude each other"):
        gallery.identify(faces, top=2, one_photo=True)  # type: ignore[call-overload]


def test_it_says_whose_vectors_it_has(path: Path, gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    with Gallery(path) as without_model:
        assert without_model.model_name == StubEmbedder().name


def test_enroll_embeds_the_crop(gallery: Gallery) -> None:
    assert gallery.enroll("Anna", crop(1), source="anna.jpg")
    assert gallery.enroll("Ben", crop(2))
    matches = gallery.identify(StubEmbedder().represent(np.stack([crop(2), crop(1)])))
    assert [(match.name, round(match.similarity or 0, 3)) for match in matches] == [("Ben", 1.0), ("Anna", 1.0)]


def test_the_same_photo_twice_counts_once(gallery: Gallery) -> None:
    assert gallery.enroll("Anna", crop(1))
    assert gallery.enroll("Anna", crop(2))
    before = gallery.identify(StubEmbedder().represent(crop(1)[None]))
    assert not gallery.enroll("Anna", crop(1))
    assert not gallery.enroll(" Anna ", crop(1), source="elsewhere.jpg")
    assert [(person.name, person.n_photos) for person in gallery.people()] == [("Anna", 2)]
    assert gallery.identify(StubEmbedder().represent(crop(1)[None])) == before
    assert gallery.enroll("Ben", crop(1)), "another person may have the same photo"


def test_a_template_is_the_unit_mean(gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    gallery.add("Anna", axis(1), crop(1))
    probes = np.stack([(axis(0) + axis(1)) / np.float32(math.sqrt(2)), axis(0), axis(2)])
    similarity = [match.similarity for match in gallery.identify(probes)]
    assert similarity == pytest.approx([1, math.sqrt(0.5), 0], abs=1e-3)


def test_identify_in_an_empty_gallery(gallery: Gallery) -> None:
    assert len(gallery) == 0
    assert gallery.people() == []
    assert gallery.identify(np.stack([axis(0), axis(1)])) == [Match(None, None, 1.0)] * 2
    assert gallery.identify(np.stack([axis(0)]), threshold=0.3) == [Match(None, None, 0.3)]


def test_identify_without_probes(gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    assert gallery.identify(np.empty((0, DIMENSION), np.float32)) == []


def test_identify_after_all_people_were_removed(gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    assert gallery.identify(axis(0)[None])[0].name == "Anna"
    gallery.remove("Anna")
    assert gallery.identify(axis(0)[None]) == [Match(None, None, 1.0)]


# Thresholds


def test_a_threshold_replaces_the_rate(gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    probe = between(0.45)[None]
    for threshold, name in ((0.44, "Anna"), (0.46, None), (-1.0, "Anna")):
        (match,) = gallery.identify(probe, threshold=threshold)
        assert (match.name, match.threshold) == (name, threshold)
    assert gallery.identify(axis(0)[None], threshold=1.0)[0].name == "Anna", "reaching the threshold is enough"


def test_the_rate_sets_the_threshold(gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    probe = between(0.45)[None]
    for rate, threshold, name in ((0.1, 0.2, "Anna"), (0.01, 0.4, "Anna"), (0.001, 0.5, None)):
        (match,) = gallery.identify(probe, rate=rate)
        assert (match.name, round(match.threshold, 6)) == (name, threshold)
    assert gallery.identify(probe) == gallery.identify(probe, rate=0.01)


def test_more_people_raise_the_threshold(gallery: Gallery) -> None:
    seen = []
    for k in range(5):
        gallery.add(f"person {k}", axis(k), crop(k))
        seen.append(gallery.identify(axis(0)[None])[0].threshold)
    assert (np.diff(seen) > 0).all()


def test_several_photos_raise_the_threshold(gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    gallery.add("Ben", axis(1), crop(1))
    gallery.add("Ben", between(0.999, 1), crop(2))
    assert np.diff(gallery.thresholds()) == pytest.approx([0.05])
    threshold = {match.name: match.threshold for match in gallery.identify(np.stack([axis(0), axis(1)]))}
    assert threshold["Ben"] - threshold["Anna"] == pytest.approx(0.05)
    assert threshold["Anna"] == CALIBRATION.identification_thresholds(0.01, [1, 2])[0]


def test_thresholds_in_the_order_of_adding(gallery: Gallery) -> None:
    for name, n_photos in (("Zoë", 2), ("Anna", 1), ("Mia", 4)):
        for k in range(n_photos):
            gallery.enroll(name, crop(hash((name, k)) % 2**32))
    assert gallery.thresholds() == pytest.approx(CALIBRATION.identification_thresholds(0.01, [2, 1, 4]))


@pytest.mark.parametrize("rate", [0, 1, -1, math.nan])
def test_a_rate_out_of_range(gallery: Gallery, rate: float) -> None:
    for _ in range(2):  # first without people, then with one
        with pytest.raises(ValueError, match="a rate of strangers named"):
            gallery.identify(axis(0)[None], rate=rate)
        gallery.add("Anna", axis(0), crop(0))


def test_a_model_without_calibration(path: Path) -> None:
    with open_gallery(path, create=True, calibration=None) as gallery:
        gallery.add("Anna", axis(0), crop(0))
        with pytest.raises(ModelError, match="no thresholds have been measured"):
            gallery.identify(axis(0)[None])
        with pytest.raises(ModelError, match="--threshold"):
            gallery.thresholds()
        assert gallery.identify(axis(0)[None], threshold=0.5)[0].name == "Anna"


# Names


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("Zoe\u0308", "Zoë"),
        ("王小明", "王小明"),
        ("👩🏽‍🚀", "👩🏽‍🚀"),
        ("../../etc/passwd", "../../etc/passwd"),
        ("x" * 200, "x" * 200),
        ("  Anna\n", "Anna"),
        ("An\x1b[31mna", r"An\x1b[31mna"),
        (os.fsdecode(b"Ren\xe9"), r"Ren\xe9"),
    ],
)
def test_a_name_goes_round(path: Path, gallery: Gallery, given: str, stored: str) -> None:
    gallery.add(given, axis(0), crop(0), source=os.fsdecode(b"caf\xe9\n.jpg"))
    with Gallery(path) as other:
        assert [person.name for person in other.people()] == [stored]
    assert gallery.identify(axis(0)[None])[0].name == stored
    gallery.rename(given, "Ben")
    gallery.rename("Ben", given)
    assert gallery.remove(given) == 1
    assert len(gallery) == 0


@pytest.mark.parametrize("name", ["", "  ", "x" * 201])
def test_an_invalid_name_changes_nothing(gallery: Gallery, name: str) -> None:
    gallery.add("Anna", axis(0), crop(0))
    for change in (
        lambda: gallery.add(name, axis(0), crop(0)),
        lambda: gallery.rename("Anna", name),
        lambda: gallery.rename(name, "Anna"),
        lambda: gallery.remove(name),
    ):
        with pytest.raises(ValueError, match="a name must have 1 to 200 characters"):
            change()
    assert [person.name for person in gallery.people()] == ["Anna"]


def test_rename_and_remove(gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    gallery.add("Ben", axis(1), crop(1))
    gallery.rename("Anna", "Anne")
    assert [match.name for match in gallery.identify(np.stack([axis(0), axis(1)]))] == ["Anne", "Ben"]
    with pytest.raises(GalleryError, match="another person is called 'Ben' already"):
        gallery.rename("Anne", "Ben")
    with pytest.raises(UnknownPerson):
        gallery.rename("Anna", "Dora")
    assert gallery.remove("Anne") == 1
    with pytest.raises(UnknownPerson):
        gallery.remove("Anne")
    assert [match.name for match in gallery.identify(np.stack([axis(0), axis(1)]))] == [None, "Ben"]


# Arguments


@pytest.mark.parametrize(
    "embedding",
    [
        axis(0)[:7],
        axis(0)[None],
        2 * axis(0),
        0 * axis(0),
        np.full(DIMENSION, np.nan, np.float32),
    ],
    ids=["short", "two axes", "long", "zero", "NaN"],
)
def test_invalid_embeddings_are_not_stored(gallery: Gallery, embedding: np.ndarray) -> None:
    with pytest.raises(ValueError, match="an embedding must be 8 numbers of length 1, got"):
        gallery.add("Anna", embedding, crop(0))
    assert len(gallery) == 0


def test_probes_of_another_length(gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    with pytest.raises(ValueError):
        gallery.identify(np.ones((2, DIMENSION + 1), np.float32))


# Changes


def test_a_removal_can_be_undone_until_it_is_erased(gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    gallery.add("Anna", axis(1), crop(1))
    gallery.remove("Anna")
    assert gallery.undo().kind == "remove"
    assert gallery.person("Anna").n_photos == 2
    gallery.remove_photos("Anna", [gallery.photos("Anna")[0].id])
    assert gallery.identify(axis(1), threshold=0.9)[0].name == "Anna"
    assert gallery.erase(before=time.time() - 60) == 0
    assert gallery.erase() == 1
    removed = next(one for one in gallery.log() if one.kind == "remove" and not one.undone)
    with pytest.raises(GalleryError, match="cannot be undone: the people or photos were erased"):
        gallery.undo(removed.id)


def test_reject_photos(gallery: Gallery) -> None:
    for k in range(3):
        gallery.add("Anna", axis(k), crop(k))
    first, second, _ = (photo.id for photo in gallery.photos("Anna"))
    gallery.reject("Anna", [first])
    gallery.reject("Anna", [second], to="Ben")
    assert [(one.name, one.n_photos) for one in gallery.people()] == [("Anna", 1), ("Ben", 1)]
    for k in (0, 1):
        with pytest.raises(GalleryError, match="somebody said that this photo does not show Anna; left out"):
            gallery.add("Anna", axis(k), crop(k))
    assert gallery.merge(["Ben"], "Anna") == 1 and gallery.person("Anna").n_photos == 2


def test_split_and_edit(gallery: Gallery) -> None:
    for k in range(3):
        gallery.add("Anna", axis(k), crop(k))
    gallery.edit("Anna", external_id="crm-7", metadata={"team": "blue"})
    gallery.split("Anna", [photo.id for photo in gallery.photos("Anna")[:2]], "Ben")
    anna, ben = gallery.people()
    assert (anna.external_id, anna.metadata, anna.n_photos) == ("crm-7", {"team": "blue"}, 1)
    assert (ben.external_id, ben.metadata, ben.n_photos) == ("", {}, 2)
    gallery.edit("Ben", templates="best")
    assert gallery.identify(axis(0))[0].similarity == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="templates must be 'mean' or 'best', got 'worst'"):
        gallery.edit("Ben", templates="worst")


def test_templates_of_the_gallery(path: Path, gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    gallery.add("Anna", axis(1), crop(1))
    for templates, similarity in (("best", 1.0), ("mean", math.sqrt(0.5)), ("best", 1.0), ("", math.sqrt(0.5))):
        gallery.set_templates(templates)
        with open_gallery(path) as other:
            for opened in (gallery, other):
                assert opened.identify(axis(0))[0].similarity == pytest.approx(similarity, abs=1e-3)


@pytest.mark.parametrize("days", [0, 0.00001])
def test_retention_erases_old_removals(path: Path, days: float) -> None:
    with open_gallery(path, create=True) as gallery:
        gallery.set_retention(days)
        gallery.add("Anna", axis(0), crop(0))
        gallery.remove("Anna")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE face SET gone = gone - 10")
    connection.execute("UPDATE person SET gone = gone - 10")
    connection.commit()
    connection.close()
    open_gallery(path).close()
    with Gallery(path) as looking:
        assert looking.log()[0].kind == "remove", "reading changes nothing"
    with open_gallery(path, create=True) as gallery:
        assert gallery.log()[0].kind == "erase"


@pytest.mark.parametrize("days", [-1, math.nan, math.inf, 36_500])
def test_a_retention_is_a_number_of_days(gallery: Gallery, days: float) -> None:
    with pytest.raises(ValueError, match=r"a retention must be from 0 to 36,500 days, got"):
        gallery.set_retention(days)


# Calibrations


def stored_calibration(path: Path, value: Any) -> None:
    connection = sqlite3.connect(path)
    connection.execute("INSERT OR REPLACE INTO setting VALUES (1, 'calibration', ?)", (json.dumps(value),))
    connection.commit()
    connection.close()


def test_a_calibration_is_used(path: Path, gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    before = gallery.thresholds()
    for offset in (-0.5, 0.0, 0.25, -1 + 0.6, 1.0):
        stored_calibration(path, {"rate": 0.01, "offset": offset, "evidence": {}})
        assert gallery.thresholds() == pytest.approx(np.minimum(before + offset, 1))


@pytest.mark.parametrize("calibration", [CALIBRATION, None], ids=["table", "no table"])
@pytest.mark.parametrize("offset", [-5, -1.01, 1.01, 7, 1e300])
def test_an_offset_that_calibrate_cannot_choose(path: Path, gallery: Gallery, offset: float, calibration: Any) -> None:
    """The file may have been altered so that every face is named."""
    gallery.add("Anna", axis(0), crop(0))
    stored_calibration(path, {"rate": 0.01, "offset": offset, "evidence": {}})
    gallery._embedder.calibration = calibration  # type: ignore[union-attr]
    with gallery as opened:
        for use in (lambda: opened.identify(-axis(0)), opened.thresholds, opened.check_thresholds, opened.calibration):
            with pytest.raises(
                GalleryError,
                match=r"its calibration was altered .the offset must be from -1 to 1, got .*; run calibrate again",
            ):
                use()


@pytest.mark.parametrize("offset", [-0.9, -1])
def test_an_offset_that_names_every_stranger(path: Path, gallery: Gallery, offset: float) -> None:
    gallery.add("Anna", axis(0), crop(0))
    stored_calibration(path, {"rate": 0.01, "offset": offset, "evidence": {}})
    for use in (lambda: gallery.identify(axis(3)), gallery.thresholds, gallery.check_thresholds):
        with pytest.raises(GalleryError, match=r"every stranger reaches the threshold -0\.\d+\); run calibrate again"):
            use()
    assert gallery.identify(axis(0), threshold=0.5)[0].name == "Anna", "a threshold needs no calibration"


@pytest.mark.parametrize(
    "value",
    [3, [], "x", {}, {"rate": 0.01, "offset": None, "evidence": {}}, {"rate": 2, "offset": 0, "evidence": {}},
     {"rate": 0.01, "offset": math.nan, "evidence": {}}, {"rate": 0.01, "offset": math.inf, "evidence": {}},
     {"rate": 0.01, "offset": 10**400, "evidence": {}}, {"rate": 0.01, "offset": 0, "evidence": 3},
     {"rate": 0, "offset": 0, "evidence": {}}, {"rate": "x", "offset": 0, "evidence": {}}],
    ids=repr,
)  # fmt: skip
def test_invalid_calibrations(path: Path, gallery: Gallery, value: Any) -> None:
    gallery.add("Anna", axis(0), crop(0))
    stored_calibration(path, value)
    with pytest.raises(GalleryError, match=r"damaged \(its calibration is not valid\); run calibrate again"):
        gallery.identify(axis(0))


def test_calibrate_stores_offsets_that_identify_accepts(gallery: Gallery) -> None:
    """Even for strangers unlike all people, and for the rates that lower thresholds the most."""
    for k in range(3):
        gallery.add(f"person {k}", axis(k), crop(k))
    probes = np.stack([between(0.05, k % 3, 3 + k % 5) for k in range(60)])
    for rate in (0.001, 0.01, 0.5):
        result = gallery.calibrate(probes, [f"stranger {k}" for k in range(60)], rate=rate)
        assert gallery.calibration() == result
        gallery.identify(probes)


# Files


def test_another_connections_change_is_seen(path: Path, gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    probes = np.stack([axis(0), axis(1)])
    with open_gallery(path) as other:
        for change, names in (
            (lambda: None, ["Anna", None]),
            (lambda: other.add("Ben", axis(1), crop(1)), ["Anna", "Ben"]),
            (lambda: other.rename("Anna", "Anne"), ["Anne", "Ben"]),
            (lambda: gallery.rename("Ben", "Bob"), ["Anne", "Bob"]),
            (lambda: other.remove("Anne"), [None, "Bob"]),
        ):
            change()
            assert [match.name for match in gallery.identify(probes)] == names
            assert [match.name for match in other.identify(probes)] == names


def test_templates_are_not_recomputed_without_a_change(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery.add("Anna", axis(0), crop(0))
    gallery.identify(axis(0)[None])
    for name in ("read_index", "changed_rows"):
        monkeypatch.setattr(
            f"facespace.identification.stores.sqlite.{name}", lambda *_: pytest.fail("nothing has changed")
        )
    gallery.identify(axis(0)[None])


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "0" * 64},
        {"spec": INPUT_SPECS["facenet-2018"]},
        {"spec": InputSpec(size=16, template="box", crop_margin=1)},
        {"dimension": 16},
        {"calibration": None},
        {"name": "other", "fingerprint": "0" * 64},
    ],
    ids=["weights", "spec", "margin", "dimension", "center", "model"],
)
@pytest.mark.parametrize("create", [False, True])
def test_a_gallery_of_another_model_is_refused(path: Path, changes: dict[str, Any], create: bool) -> None:
    with open_gallery(path, create=True) as gallery:
        gallery.add("Anna", axis(0), crop(0))
    before = path.read_bytes()
    with pytest.raises(GalleryError, match="its vectors were made by the model 'stub'") as caught:
        open_gallery(path, create=create, **changes)
    assert "\n" not in str(caught.value)
    assert "--model stub" in str(caught.value)
    assert ("other weights or another input spec" in str(caught.value)) == (changes.get("name") != "other")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name], "the refused file is closed"
    open_gallery(path, name="the same weights under another name", runtime="openvino", precision="bfloat16").close()


def test_a_gallery_without_a_model_takes_the_first_one_that_adds(path: Path) -> None:
    Gallery(path, create=True).close()
    with open_gallery(path) as first, open_gallery(path, fingerprint="0" * 64) as second:
        first.add("Anna", axis(0), crop(0))
        for _ in range(2):
            with pytest.raises(GalleryError, match="its vectors were made by"):
                second.add("Ben", axis(1), crop(1))
        assert [person.name for person in first.people()] == ["Anna"]
    with pytest.raises(GalleryError, match="its vectors were made by"):
        open_gallery(path, fingerprint="0" * 64)


def test_a_description_of_the_model_that_is_damaged(path: Path) -> None:
    open_gallery(path, create=True).close()
    connection = sqlite3.connect(path)
    connection.execute("""UPDATE setting SET value = '["stub"]'""")
    connection.commit()
    connection.close()
    with pytest.raises(GalleryError, match="made by the model 'another'"):
        open_gallery(path)


def test_without_a_model_it_lists_and_edits_only(path: Path, gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    with Gallery(path) as plain:
        assert [(person.name, person.n_photos) for person in plain.people()] == [("Anna", 1)]
        plain.rename("Anna", "Anne")
        for use in (
            lambda: plain.identify(axis(0)[None]),
            lambda: plain.identify(axis(0)[None], threshold=0.1),
            lambda: plain.enroll("Ben", crop(1)),
            lambda: plain.add("Ben", axis(1), crop(1)),
            lambda: plain.thresholds(),
        ):
            with pytest.raises(GalleryError, match="opened without a model"):
                use()
        assert plain.remove("Anne") == 1


def test_reading_creates_no_gallery(path: Path) -> None:
    with pytest.raises(GalleryError, match="no such gallery"):
        open_gallery(path)
    assert not path.exists()


def test_a_closed_gallery_leaves_one_file(path: Path) -> None:
    with open_gallery(path, create=True) as gallery:
        gallery.add("Anna", axis(0), crop(0))
    assert os.listdir(path.parent) == [path.name]
    with pytest.raises(GalleryError, match="closed"):
        gallery.people()


def test_what_is_stored_with_a_photo(path: Path, gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0), source="anna.jpg")
    gallery.add("Anna", axis(1), crop(1), metadata={"camera": "door"}, keep_crop=True, quality=0.5)
    first, second = gallery.photos("Anna")
    assert first.digest == hashlib.sha256(crop(0).tobytes()).hexdigest()
    assert (first.source, first.made_by, first.metadata, first.has_crop) == (
        "anna.jpg",
        "onnxruntime float32",
        {},
        False,
    )
    assert (second.metadata, second.has_crop, second.quality) == ({"camera": "door"}, True, 0.5)
    assert np.array_equal(gallery.store.embeddings([first.id])[0], axis(0))
    kept = gallery.store.crop(second.id)
    assert kept is not None and np.array_equal(np.asarray(Image.open(io.BytesIO(kept))), crop(1))
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT length(vector) FROM face").fetchall() == [(2 * DIMENSION,)] * 2
    connection.close()
    with pytest.raises(ValueError, match="metadata must be a JSON object"):
        gallery.add("Anna", axis(2), crop(2), metadata={"a": math.nan})
    with pytest.raises(UnknownPerson, match="no person is called 'Ben'"):
        gallery.photos("Ben")


def test_comparing_with_every_photo_raises_the_threshold(gallery: Gallery) -> None:
    for k, name in enumerate(("Anna", "Anna", "Ben")):
        gallery.add(name, axis(k), crop(k))
    mean = gallery.identify(axis(2))[0].threshold
    gallery.set_templates("best")
    best = gallery.identify(axis(2))[0].threshold
    assert best > mean
    gallery.remove("Anna")
    gallery.add("Carl", axis(0), crop(0))
    gallery.add("Dora", axis(1), crop(1))
    gallery.set_templates("mean")
    assert gallery.identify(axis(2))[0].threshold == best, "the threshold is that of three people"
    gallery.set_templates("best")
    with pytest.raises(GalleryError, match="templates must be 'mean' to calibrate, got 'best'"):
        gallery.calibrate(np.stack([axis(2)]), ["Ben"], rate=0.01)


# Several matches of a probe, and vectors that know how they were made


def test_the_best_matches_of_a_probe(gallery: Gallery) -> None:
    for k, name in enumerate(["Ada", "Bob", "Eve"]):
        gallery.add(name, axis(k), crop(k))
    probe = (0.9 * axis(1) + 0.3 * axis(2) + 0.1 * axis(0) + 0.3 * axis(7)).astype(np.float32)
    (best,) = gallery.identify(probe[None], threshold=0.25, top=2)
    assert [(match.name, match.nearest) for match in best] == [("Bob", "Bob"), ("Eve", "Eve")]
    assert [match.similarity for match in best] == pytest.approx([0.9, 0.3], abs=1e-3)
    (best,) = gallery.identify(probe[None], threshold=0.5, top=9)
    assert [(match.name, match.nearest) for match in best] == [("Bob", "Bob"), (None, "Eve"), (None, "Ada")]
    (one,) = gallery.identify(probe[None], threshold=0.95)
    assert (one.name, one.nearest) == (None, "Bob"), "the match has the nearest person but no name"
    assert gallery.identify(np.empty((0, DIMENSION), np.float32), top=3) == []
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        gallery.identify(probe[None], top=0)


def test_the_best_matches_where_nobody_is_enrolled(gallery: Gallery) -> None:
    assert gallery.identify(np.stack([axis(0)] * 2), threshold=0.3, top=2) == [[Match(None, None, 0.3)]] * 2


def test_each_match_has_its_persons_threshold(gallery: Gallery) -> None:
    gallery.add("Ada", axis(0), crop(0))
    for k in range(4):
        gallery.add("Bob", axis(1), crop(k))
    (best,) = gallery.identify(axis(0)[None], top=2)
    assert [match.threshold for match in best] == gallery.thresholds().tolist()
    assert best[0].threshold != best[1].threshold


def test_probes_may_be_a_list_or_a_single_vector(gallery: Gallery) -> None:
    gallery.add("Ada", axis(0), crop(0))
    for probes in (axis(0), [axis(0)], (axis(0),), axis(0)[None]):
        assert [match.name for match in gallery.identify(probes)] == ["Ada"]
    assert gallery.identify([]) == []
    for wrong in (np.ones((2, DIMENSION + 1), np.float32), np.ones(3, np.float32), np.ones((1, 1, 8), np.float32)):
        with pytest.raises(ValueError, match=r"embeddings must be of shape \(N,8\), got"):
            gallery.identify(wrong)


def test_vectors_that_are_not_of_length_1_are_refused(gallery: Gallery) -> None:
    """A longer vector would let a stranger reach the threshold."""
    gallery.add("Ada", axis(0), crop(0))
    for wrong in (5 * axis(0), 0 * axis(0), np.nan * axis(0)):
        with pytest.raises(ValueError, match=r"embeddings must have length 1, row 0 has"):
            gallery.identify(wrong[None])


@pytest.mark.parametrize("wrong", [None, "a.jpg", ["a.jpg"], [None], np.array(["a"])], ids=repr)
def test_arguments_that_are_not_vectors(gallery: Gallery, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^vectors must come from Embedder\.represent, got "):
        gallery.identify(wrong)


def test_wrong_types_of_names_and_models(gallery: Gallery, path: Path) -> None:
    for name in (3, None):
        with pytest.raises(TypeError, match=r"a name must be text, got (int|NoneType)"):
            gallery.add(name, axis(0), crop(0))  # type: ignore[arg-type]
    for model in ("casia-webface", facespace.Embedder, True):
        with pytest.raises(TypeError, match="embedder must be an Embedder, got"):
            Gallery(path, model)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        gallery.identify(axis(0), top="3")  # type: ignore[call-overload]


def test_a_closed_gallery_is_not_called_damaged(path: Path) -> None:
    closed = open_gallery(path, create=True)
    closed.close()
    with pytest.raises(GalleryError, match="the gallery was closed; open it again"):
        closed.people()


def test_vectors_of_another_making_are_refused(gallery: Gallery) -> None:
    model = model_of(StubEmbedder())
    plain = Embeddings(axis(0)[None], made_by="embed", model=model)
    other = Embeddings(axis(0)[None], made_by="represent", model={**model, "fingerprint": "0" * 64})
    for vectors, reason in ((plain, r"from Embedder\.embed; only those of"), (other, "cannot be compared")):
        with pytest.raises(ValueError, match=reason):
            gallery.identify(vectors)
        with pytest.raises(ValueError, match=reason):
            gallery.add("Ada", vectors[0], crop(0))
        with pytest.raises(ValueError, match=reason):
            gallery.calibrate(vectors, ["Ada"], rate=0.01)
    assert len(gallery) == 0
    right = Embeddings(axis(0)[None], made_by="represent", model=model)
    assert gallery.add("Ada", right[0], crop(0))
    assert gallery.identify(right)[0].name == "Ada"


# With the networks


def test_two_women_and_a_stranger(
    path: Path, embedder: facespace.Embedder, detector: facespace.MTCNN,
    hopper_file: Path, collins_file: Path, stranger_file: Path,
) -> None:  # fmt: skip
    crops = {}
    for name, file in (("hopper", hopper_file), ("collins", collins_file), ("stranger", stranger_file)):
        image = facespace.read(file)
        darker = (image * 0.7).astype(np.uint8)
        for change, pixels in (("", image), (" darker", darker)):
            faces = detector.detect(pixels)
            face = max(faces, key=lambda face: face.score)
            crops[name + change] = facespace.align(pixels, face, embedder.spec)
    with Gallery(path, embedder, create=True) as gallery:
        gallery.enroll("Grace Hopper", crops["hopper"])
        gallery.enroll("Eileen Collins", crops["collins"])
        probes = np.stack([crops["collins darker"], crops["hopper darker"], crops["stranger"]])
        matches = gallery.identify(embedder.represent(probes))
    assert [match.name for match in matches] == ["Eileen Collins", "Grace Hopper", None]
    assert min(match.similarity or 0 for match in matches[:2]) > 0.8


def test_templates_of_nobody(gallery: Gallery) -> None:
    assert gallery.templates(500).shape == (0, DIMENSION)


def test_set_templates_takes_effect_in_every_open_gallery(path: Path, gallery: Gallery) -> None:
    gallery.add("Anna", axis(0), crop(0))
    gallery.add("Anna", axis(1), crop(1))
    with open_gallery(path) as elsewhere:
        for opened in (gallery, elsewhere):
            assert opened.identify(axis(0))[0].similarity == pytest.approx(math.sqrt(0.5), abs=1e-3)
        gallery.set_templates("best")
        for opened in (gallery, elsewhere):
            assert opened.identify(axis(0))[0].similarity == pytest.approx(1, abs=1e-3)


def test_thresholds_for_one_certain_person_are_lower_than_among_all(gallery: Gallery) -> None:
    for k in range(5):
        gallery.add(f"P{k}", axis(k), crop(k))
    alone, among_all = gallery.thresholds_for(1, among=1), gallery.thresholds_for(1)
    assert alone == pytest.approx(0.4) and float(among_all) > 0.4
    assert gallery.thresholds_for([1, 2], 0.75, [[0.5], [0.9], [1.0]]).shape == (3, 2)
