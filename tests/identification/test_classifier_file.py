"""Classifiers on disk: a round trip, and refusals of other files with one line."""

from __future__ import annotations

import json
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from facespace.errors import ClassifierError
from facespace.identification.classifier import Classifier
from facespace.identification.classifier_methods import METHODS
from facespace.io.tensor_file import read_tensor_file, write_tensor_file
from support.calibrations import CALIBRATION, StubEmbedder
from support.sphere import people

EMBEDDER = StubEmbedder(dimension=16, calibration=None)
load = Classifier.load


def save(path, classifier, digests, embedder):
    """Write a classifier with these photo digests."""
    classifier.digests_ = digests
    classifier.save(path, embedder)


def fitted(method="centroid", **options):
    vectors, owners = people(12, 6, dimension=16)
    return Classifier(method, **options).fit(vectors, [f"p{k:02}" for k in owners])


def digests(n):
    return tuple(f"photo:{k:064x}" for k in range(n))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "people.classifier"
    save(path, fitted(), digests(72), EMBEDDER)
    return path


def change(path, arrays=None, **record):
    """Rewrite a classifier with changed record entries or arrays; None removes an array."""
    old_arrays, old = read_tensor_file(path, "classifier", ClassifierError, remedy="")
    kept = {name: array for name, array in {**old_arrays, **(arrays or {})}.items() if array is not None}
    write_tensor_file(path, "classifier", kept, {**old, **record})


def refusal(path, embedder=None):
    """Return the one-line error for a refused file, which begins with the file's path."""
    with pytest.raises(ClassifierError) as error:
        load(path, embedder)
    line = str(error.value)
    assert line.startswith(f"{path}: ")
    assert len(line.splitlines()) == 1
    return line


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("closed_set", [False, True])
def test_a_classifier_comes_back_as_it_was(tmp_path, method, closed_set):
    classifier = fitted(method, closed_set=closed_set, rate=0.05, seed=3)
    save(tmp_path / "c", classifier, digests(72), EMBEDDER)
    kept = load(tmp_path / "c", EMBEDDER)
    probes, _ = people(40, 2, dimension=16, seed=9)
    assert kept.predict(probes) == classifier.predict(probes)
    assert kept.digests_ == digests(72)
    assert kept.evidence_ == json.loads(json.dumps(classifier.evidence_))
    again = kept
    assert (again.method, again.rate, again.closed_set, again.seed) == (method, 0.05, closed_set, 3)
    assert again.names_ == classifier.names_
    np.testing.assert_array_equal(again.embeddings_, classifier.embeddings_)
    np.testing.assert_array_equal(again.owners_, classifier.owners_)
    np.testing.assert_array_equal(again.thresholds_, classifier.thresholds_)


@pytest.mark.parametrize("method", ["centroid", "svm"])
def test_one_person_alone_comes_back(tmp_path, method):
    embeddings = np.eye(8, dtype=np.float32)[[0, 0]]
    classifier = Classifier(method).fit(embeddings, ["王小明"] * 2, calibration=CALIBRATION)
    assert classifier.probability_ is None
    save(tmp_path / "c", classifier, ("photo:1", "photo:2"), StubEmbedder())
    kept = load(tmp_path / "c", StubEmbedder())
    assert kept.predict(embeddings) == classifier.predict(embeddings)
    assert kept.names_ == ("王小明",)
    assert kept.digests_ == ("photo:1", "photo:2"), "shorter digests come back without padding"


def test_what_was_loaded_and_saved_loads_alike(file, tmp_path):
    kept = load(file)
    kept.thresholds_ = kept.thresholds_ + 0.25
    kept.save(tmp_path / "again")
    again = load(tmp_path / "again", EMBEDDER)
    np.testing.assert_array_equal(again.thresholds_, kept.thresholds_)
    assert again.digests_ == kept.digests_
    assert again.model_ == kept.model_
    kept.thresholds_ = kept.thresholds_ - 0.25
    assert again.predict(kept.embeddings_) != kept.predict(kept.embeddings_)


def test_what_cannot_be_saved_leaves_the_old_file(file):
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"one digest for each of 72 photos, got 71"):
        save(file, fitted(), digests(71), EMBEDDER)
    with pytest.raises(UnicodeEncodeError):
        save(file, fitted(), ("é", *digests(71)), EMBEDDER)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_another_models_classifier_is_refused(file):
    other = StubEmbedder(dimension=16, calibration=None, fingerprint="0" * 64, name="other")
    line = refusal(file, other)
    assert "made by the model 'stub' and cannot be compared with those of 'other'" in line
    assert "train again" in line
    assert "other weights" in refusal(file, StubEmbedder(dimension=16, calibration=None, fingerprint="0" * 64))
    assert "cannot be compared" in refusal(file, StubEmbedder(dimension=16)), "the mean over people is subtracted now"
    assert load(file).model_["model"] == "stub", "without an embedder any model is accepted"
    assert load(file, StubEmbedder(dimension=16, calibration=None, name="renamed")).digests_ == digests(72)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_not_run(tmp_path, protocol):
    path = tmp_path / "classifier.pkl"
    path.write_bytes(pickle.dumps({"model": Evil(), "names": ["a"]}, protocol=protocol))
    line = refusal(path)
    assert "facespace classify train" in line
    assert "a pickle, which could run any code" in line or (protocol < 2 and "not a facespace classifier" in line)


def test_a_truncated_classifier_is_refused(file):
    data = file.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length])
        assert "facespace classify train" in refusal(file)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_changed_byte_is_noticed_or_harmless(place, value):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c"
        classifier = fitted()
        save(path, classifier, digests(72), EMBEDDER)
        data = bytearray(path.read_bytes())
        data[place % len(data)] = value
        path.write_bytes(data)
        try:
            kept = load(path)
        except ClassifierError:
            return
        assert len(kept.predict(classifier.embeddings_)) == 72


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "c"
    assert "no classifier there" in refusal(path)
    write_tensor_file(path, "grouping", {}, {})
    assert "not a facespace classifier" in refusal(path)
    write_tensor_file(path, "classifier", {}, {"names": []})
    assert "a damaged classifier" in refusal(path)


NAMES = [f"p{k:02}" for k in range(12)]


@pytest.mark.parametrize(
    "record",
    [
        {"names": NAMES[::-1]}, {"names": "abc"}, {"names": NAMES[:11]}, {"names": [*NAMES[:11], NAMES[10]]},
        {"names": [*NAMES[:11], "p11 "]}, {"names": [*NAMES[:11], "q\nr"]}, {"names": [*NAMES[:11], 7]}, {"names": None},
        {"names": ["", *NAMES[:11]]}, {"names": [*NAMES[:11], "p" * 201]}, {"names": dict.fromkeys(NAMES, 0)},
        {"closed_set": 1}, {"rate": "1"}, {"rate": 1}, {"seed": None}, {"seed": True}, {"method": "svm"},
        {"method": "magic"}, {"evidence": []}, {"model": "stub"}, {"probability": [1]}, {"probability": [1, 2, 3]},
        {"probability": [1, float("nan")]}, {"probability": [float("inf"), 1]}, {"probability": 1},
        {"probability": ["steep", "deep"]}, {"probability": [10**400, 1]}, {"rate": float("nan")}, {"rate": 7.0},
        {"names": []},
    ],
)  # fmt: skip
def test_a_record_that_does_not_fit_is_refused(file, record):
    change(file, **record)
    line = refusal(file)
    assert "a damaged classifier" in line
    assert "facespace classify train" in line


@pytest.mark.parametrize("array", ["embeddings", "owners", "thresholds", "digests"])
def test_an_array_that_is_missing_or_too_short_is_refused(file, array):
    whole = file.read_bytes()
    change(file, {array: None})
    assert "a damaged classifier" in refusal(file)
    file.write_bytes(whole)
    old, _ = read_tensor_file(file, "classifier", ClassifierError, remedy="")
    change(file, {array: old[array][:-1]})
    assert "a damaged classifier" in refusal(file)


@pytest.mark.parametrize(
    ("array", "wrong"),
    [
        ("embeddings", lambda old: old.astype(np.float64)),
        ("embeddings", lambda old: 2 * old),
        ("embeddings", lambda old: old * np.float32(np.nan)),
        ("embeddings", lambda old: old.reshape(-1)),
        ("owners", lambda old: old.astype(np.int32)),
        ("owners", lambda old: old + 1),
        ("owners", lambda old: old - 1),
        ("owners", lambda old: old.reshape(36, 2)),
        ("thresholds", lambda old: old.astype(np.float32)),
        ("thresholds", lambda old: np.where(np.arange(12) == 3, np.nan, old)),
        ("thresholds", lambda old: np.append(old, 0.5)),
        ("digests", lambda old: old | 0x80),
    ],
)
def test_an_array_that_does_not_fit_is_refused(file, array, wrong):
    old, _ = read_tensor_file(file, "classifier", ClassifierError, remedy="")
    change(file, {array: wrong(old[array])})
    assert "a damaged classifier" in refusal(file)


@pytest.mark.parametrize("array", ["weights", "bias"])
def test_weights_that_are_missing_or_too_few_are_refused(tmp_path, array):
    path = tmp_path / "c"
    save(path, fitted("svm"), digests(72), EMBEDDER)
    whole = path.read_bytes()
    change(path, {array: None})
    assert "a damaged classifier" in refusal(path)
    path.write_bytes(whole)
    change(path, {array: np.zeros((11, 16)[: 2 if array == "weights" else 1], np.float32)})
    assert "a damaged classifier" in refusal(path)


def test_a_hostile_file_name_stays_on_one_line(tmp_path):
    with pytest.raises(ClassifierError) as error:
        load(tmp_path / "a\nb\x1b[31m")
    assert len(str(error.value).splitlines()) == 1
    assert "\x1b" not in str(error.value)


def test_a_classifier_of_nobody_is_refused(file):
    old, _ = read_tensor_file(file, "classifier", ClassifierError, remedy="")
    change(file, {name: array[:0] for name, array in old.items()}, names=[])
    assert "a damaged classifier" in refusal(file)


@pytest.mark.parametrize("array", ["weights", "bias"])
def test_weights_that_are_not_finite_are_refused(tmp_path, array):
    path = tmp_path / "c"
    save(path, fitted("svm"), digests(72), EMBEDDER)
    old, _ = read_tensor_file(path, "classifier", ClassifierError, remedy="")
    change(path, {array: np.full_like(old[array], np.inf)})
    assert "a damaged classifier" in refusal(path)


def test_a_digest_that_is_too_long_is_not_cut(file):
    before = file.read_bytes()
    with pytest.raises(ValueError, match="at most 72 characters"):
        save(file, fitted(), ("x" * 73, *digests(71)), EMBEDDER)
    assert file.read_bytes() == before
