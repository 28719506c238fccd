"""Classifiers and groupings on disk: what was written comes back, everything else is refused in one line."""

from __future__ import annotations

import json
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from facespace.clustering.groups import FaceGroups, load_groups
from facespace.errors import ClassifierError, DatasetError
from facespace.identification.classifier import Classifier
from facespace.identification.classifier_file import load, save
from facespace.identification.classifier_methods import METHODS
from facespace.io.tensor_file import read_tensor_file, write_tensor_file
from support.calibrations import StubEmbedder
from support.sphere import people

EMBEDDER = StubEmbedder(dimension=16, calibration=None)


def fitted(method="centroid", **options):
    vectors, owners = people(12, 6, dimension=16)
    return Classifier(method, **options).fit(vectors, [f"p{k:02}" for k in owners])


def digests(n):
    return tuple(f"photo:{k:064x}" for k in range(n))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "people.classifier"
    classifier = fitted()
    save(path, classifier, digests(len(classifier.owners_)), EMBEDDER)
    return path


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("closed_set", [False, True])
def test_a_classifier_comes_back_as_it_was(tmp_path, method, closed_set):
    classifier = fitted(method, closed_set=closed_set, rate=0.05)
    save(tmp_path / "c", classifier, digests(72), EMBEDDER)
    kept = load(tmp_path / "c", EMBEDDER)
    probes, _ = people(40, 2, dimension=16, seed=9)
    assert kept.classifier.predict(probes) == classifier.predict(probes)
    assert kept.digests == digests(72)
    assert kept.classifier.evidence_ == json.loads(json.dumps(classifier.evidence_))
    assert (kept.classifier.method, kept.classifier.rate) == (method, 0.05)


def test_another_models_classifier_is_refused(file):
    other = StubEmbedder(dimension=16, calibration=None, fingerprint="0" * 64, name="other")
    with pytest.raises(ClassifierError, match=r"made by the model 'stub' and cannot be compared with those of 'other'"):
        load(file, other)
    same_name = StubEmbedder(dimension=16, calibration=None, fingerprint="0" * 64)
    with pytest.raises(ClassifierError, match="other weights or another input spec"):
        load(file, same_name)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_not_run(tmp_path, protocol):
    path = tmp_path / "classifier.pkl"
    path.write_bytes(pickle.dumps({"model": Evil(), "names": ["a"]}, protocol=protocol))
    reason = "a pickle, which could run any code" if protocol >= 2 else "a pickle|not a classifier"
    with pytest.raises(ClassifierError, match=reason):
        load(path)


def test_a_truncated_classifier_is_told(file):
    data = file.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(ClassifierError, match=r"cut short|damaged|not a classifier") as error:
            load(file)
        assert "facespace classify train" in str(error.value)
        assert "\n" not in str(error.value)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_changed_byte_is_noticed_or_harmless(place, value):
    import tempfile
    from pathlib import Path

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
        assert len(kept.classifier.predict(classifier.embeddings_)) == 72


def test_what_is_something_else_is_told(tmp_path):
    path = tmp_path / "c"
    with pytest.raises(ClassifierError, match="no classifier there"):
        load(path)
    write_tensor_file(path, "grouping", {}, {})
    with pytest.raises(ClassifierError, match="not a classifier of facespace"):
        load(path)
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}" * 10)
    with pytest.raises(ClassifierError, match="not a classifier of facespace, or cut short"):
        load(path)
    write_tensor_file(path, "classifier", {}, {"names": []})
    with pytest.raises(ClassifierError, match="a damaged classifier"):
        load(path)
    assert read_tensor_file(path, "classifier", ClassifierError, remedy="")[1] == {"names": []}


def changed(path, **record):
    arrays, old = read_tensor_file(path, "classifier", ClassifierError, remedy="")
    write_tensor_file(path, "classifier", arrays, {**old, **record})


@pytest.mark.parametrize(
    "record",
    [
        {"names": ["b", "a"]}, {"names": "abc"}, {"names": ["a"]}, {"closed_set": 1}, {"rate": "1"}, {"seed": None},
        {"probability": [1]}, {"probability": [1, float("nan")]}, {"method": "svm"}, {"method": "magic"}, {"evidence": []},
    ],
)  # fmt: skip
def test_a_record_that_does_not_fit_is_told(file, record):
    changed(file, **record)
    with pytest.raises(ClassifierError, match="a damaged classifier"):
        load(file)


def groups():
    found = FaceGroups(16)
    vectors, _ = people(5, 4, dimension=16, similarity=0.8)
    for k, vector in enumerate(vectors):
        found.photos.append((f"{k}.jpg", f"{k:064x}", ""))
        found.photo.append(k)
        found.box.append((0.0, 0.0, 10.0, 10.0))
        found.score.append(0.5)
        found.embedding.append(vector)
    found.group = np.full(20, -1)
    return found


def test_a_grouping_comes_back_and_goes_on(tmp_path):
    path = tmp_path / "faces.safetensors"
    first = groups()
    first.regroup(method="average", threshold=0.5)
    assert sorted(np.bincount(first.group)) == [4] * 5
    first.save(path, EMBEDDER)
    again = load_groups(path, EMBEDDER)
    assert again.photos == first.photos
    np.testing.assert_array_equal(again.group, first.group)
    np.testing.assert_array_equal(again.embeddings(), first.embeddings())
    again.group[:2] = -1
    assert again.regroup(method="average", threshold=0.5) == 2
    np.testing.assert_array_equal(again.group, first.group)
    with pytest.raises(DatasetError, match="cannot be compared"):
        load_groups(path, StubEmbedder(dimension=16, calibration=None, fingerprint="0" * 64))


@pytest.mark.parametrize("array", ["photo", "box", "score", "embedding", "group"])
def test_a_grouping_that_does_not_fit_is_told(tmp_path, array):
    path = tmp_path / "faces.safetensors"
    groups().save(path, EMBEDDER)
    arrays, record = read_tensor_file(path, "grouping", DatasetError, remedy="")
    for wrong in (arrays[array][1:], arrays[array].astype(np.complex64).view(np.float32), None):
        changed_arrays = (
            {**arrays, array: wrong} if wrong is not None else {k: v for k, v in arrays.items() if k != array}
        )
        write_tensor_file(path, "grouping", changed_arrays, record)
        with pytest.raises(DatasetError, match="a damaged grouping"):
            load_groups(path, EMBEDDER)
    write_tensor_file(path, "grouping", {**arrays, "photo": arrays["photo"] + 1}, record)
    with pytest.raises(DatasetError, match="do not belong to its photos"):
        load_groups(path, EMBEDDER)


def test_a_length_that_begins_like_a_pickle_is_none(tmp_path):
    path, seen = tmp_path / "c", set()
    for n in range(400, 1500):
        write_tensor_file(path, "classifier", {}, {"filled": "x" * n})
        start = path.read_bytes()[:2]
        if start in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            seen.add(start)
            assert read_tensor_file(path, "classifier", ClassifierError, remedy="")[1] == {"filled": "x" * n}
    assert len(seen) >= 3


def test_new_people_get_new_numbers():
    found = groups()
    found.regroup(method="average", threshold=0.5)
    before = found.group.copy()
    found.group = np.where(before == before[-1], -1, before)
    found.group[found.group == before.max()] = before.max() - 1  # a number in the middle is the largest now
    old = set(found.group.tolist()) - {-1}
    new = found.group == -1
    assert found.regroup(method="average", threshold=0.9) == 0
    assert not set(found.group[new].tolist()) & old
