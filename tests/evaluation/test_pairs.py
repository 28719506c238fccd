"""Tests the evaluation of labelled pairs: which photos count, which crops are accepted, and mirror images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facespace.datasets.pairs.pair_sets import PairSet
from facespace.errors import DatasetError
from facespace.evaluation.pairs import evaluate_pairs
from facespace.faces.crops import CropRecord
from support.evaluations import FITS, Colours, files, listed


def test_folds_and_mirror_images():
    embedder = Colours()
    source = PairSet("set", listed(fold=True), files(), FITS)
    result = evaluate_pairs(source, embedder, flip="concat", subtract_mean=True, distance="angle", keep_thumbnails=True)
    assert result.verification.accuracy == 1.0 and len(result.verification.fold_accuracies) == 2
    assert set(result.thumbnails) == set(range(16))
    assert len(embedder.seen) == 32
    np.testing.assert_array_equal(embedder.seen[16], embedder.seen[0][:, ::-1])
    assert result.settings["flip"] == "concat" and result.settings["subtract_mean"] and result.settings["folds"] == 2
    assert result.intervals["accuracy"] == (1.0, 1.0)


@pytest.mark.parametrize(("flip", "length"), [("none", 1.0), ("concat", 2.0), ("add", 1.0)])
def test_length_of_embeddings(flip, length, monkeypatch):
    caught = []

    def spy(embeddings, *args, **options):
        caught.append(embeddings)
        raise ValueError("enough seen")

    monkeypatch.setattr("facespace.evaluation.pairs.evaluate", spy)
    with pytest.raises(DatasetError, match="set: enough seen"):
        evaluate_pairs(PairSet("set", listed(), files(), FITS), Colours(), flip=flip)
    np.testing.assert_allclose((caught[0] ** 2).sum(1), length, rtol=1e-5)
    plain = Colours().embed(np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files()]))
    if flip == "none":
        np.testing.assert_array_equal(caught[0], plain)
    if flip == "add":  # left and right are mixed
        np.testing.assert_allclose(caught[0][:, :3], caught[0][:, 3:], rtol=1e-5)


def test_threshold_and_mean_come_from_the_other_list():
    other = PairSet("other", listed(), files(), FITS)
    source = PairSet("set", listed(fold=True), files(), FITS)
    result = evaluate_pairs(source, Colours(), threshold_from=other, subtract_mean=True, distance="angle")
    assert result.verification.threshold_source == "given"
    assert result.verification.fold_accuracies == ()
    assert result.settings["threshold_from"] == "other"
    assert result.verification.mean is not None


def test_missing_files_are_named_and_refused_unless_allowed():
    there = files()
    there[2] = None
    source = PairSet("set", listed(), there, FITS)
    with pytest.raises(DatasetError, match=r"3 of 16 pairs lack a photo \(1/1_1\); .*--allow-missing"):
        evaluate_pairs(source, Colours())
    result = evaluate_pairs(source, Colours(), allow_missing=True)
    assert result.missing == ["1/1_1"]
    assert result.n_missing == 3 and len(result.used) == 13


def test_all_files_missing():
    with pytest.raises(DatasetError, match="no pair has both its photos"):
        evaluate_pairs(PairSet("set", listed(), [None] * 16, FITS), Colours(), allow_missing=True)


def test_uneven_folds_are_refused_unless_allowed():
    pairs = listed(fold=True)
    pairs.fold[:4] = 2
    source = PairSet("set", pairs, files(), FITS)
    with pytest.raises(DatasetError, match="uneven folds, 2 to 6 pairs of the same person"):
        evaluate_pairs(source, Colours())
    assert len(evaluate_pairs(source, Colours(), allow_missing=True).verification.fold_accuracies) == 2


def test_crops_that_do_not_fit_are_refused_unless_resized():
    source = PairSet("set", listed(), files(size=48), CropRecord(48, 0, "arcface"))
    with pytest.raises(DatasetError, match="the crops are 48 px arcface, the model takes 32 px box with a margin of 4"):
        evaluate_pairs(source, Colours())
    embedder = Colours()
    result = evaluate_pairs(source, embedder, resize_crops=True)
    assert result.misfit and result.settings["crops_resized"]
    assert embedder.seen[0].shape == (32, 32, 3)


def test_crops_of_another_size_than_recorded():
    with pytest.raises(DatasetError, match=r"0/0_1 is 48x48 px, the crops must be 32x32"):
        evaluate_pairs(PairSet("set", listed(), files(size=48), FITS), Colours())


def test_unreadable_crops_count_as_errors():
    there = files()
    there[0] = b"no image"
    result = evaluate_pairs(PairSet("set", listed(), there, FITS), Colours())
    assert list(result.failed) == ["0/0_1"]
    assert result.verification.undetected == 3
    assert not result.verification.correct[[0, 1, 15]].any()


def test_one_kind_of_pairs_alone():
    pairs = listed()
    pairs.same[:] = True
    with pytest.raises(DatasetError, match="set: there are no pairs of different people"):
        evaluate_pairs(PairSet("set", pairs, files(), FITS), Colours())


def test_embeddings_with_nan_are_refused():
    embedder = Colours()
    embedder.embed = lambda crops: np.full((len(crops), 6), np.nan, np.float32)
    with pytest.raises(DatasetError, match="NaN"):
        evaluate_pairs(PairSet("set", listed(), files(), FITS), embedder)


def test_groups():
    values = tuple("young" if k < 8 else "old" for k in range(16))
    source = PairSet("set", listed(groups={"age": values}), files(), FITS)
    other = evaluate_pairs(PairSet("set", listed(), files(), FITS), Colours())
    result = evaluate_pairs(source, Colours())
    assert result.verification.accuracy == other.verification.accuracy
    young, old = result.groups["age"]["young"], result.groups["age"]["old"]
    assert list(result.groups["age"]) == ["old", "young"]
    assert (young.n_same, young.n_different, old.n_same) == (4, 4, 4)
    wrong = ~result.verification.correct
    assert young.fmr == wrong[:8][~source.pairs.same[:8]].mean() and young.accuracy == 1 - wrong[:8].mean()


def test_whole_photos_without_a_face(tmp_path, detector, hopper_file, cat_file):
    pairs = listed(2)
    photos = [hopper_file, hopper_file, cat_file, hopper_file]
    with pytest.raises(ValueError, match="need a detector"):
        evaluate_pairs(PairSet("set", pairs, photos), Colours())
    embedder = Colours()
    result = evaluate_pairs(PairSet("set", pairs, photos), embedder, detector=detector)
    assert result.failed == {"1/1_1": "no face found"}
    assert result.verification.undetected == 3  # each pair that the cat is in
    np.testing.assert_array_equal(embedder.seen[0], embedder.seen[1])
    assert Path(result.settings["pairs"]).name == "set"
