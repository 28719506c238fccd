"""Comparisons: rounding, people, and templates of both kinds."""

from __future__ import annotations

import pytest

import facespace
from facespace.server.comparing import Comparison, compare_faces, compare_with_person, one_face, person_with
from facespace.server.engine import AnalyzedPhoto
from facespace.server.problems import Problem
from support.service import running_service, service_behind


@pytest.mark.parametrize(("similarity", "threshold"), [(0.40001, 0.40004), (0.39996, 0.39995), (0.4, 0.4), (-0.1, 0.3)])
def test_rounded_numbers_say_the_same(similarity, threshold):
    entry = Comparison(similarity, threshold, 0.01).entry()
    assert entry["same"] == (similarity >= threshold) == (entry["similarity"] >= entry["threshold"])


@pytest.mark.parametrize(
    ("photo", "code"), [(AnalyzedPhoto("", error="no image"), "unreadable_image"), (AnalyzedPhoto(""), "no_face")]
)
def test_a_photo_without_a_face(photo, code):
    with pytest.raises(Problem) as refused:
        one_face(photo, "photo")
    assert (refused.value.status, refused.value.code) == (422, code)


@pytest.fixture(scope="module")
def known(tmp_path_factory, hopper_file, collins_file):
    with running_service(tmp_path_factory.mktemp("comparing")) as client:
        service = service_behind(client)
        gallery = service.galleries.get()
        analyzer = facespace.FaceAnalyzer(service.engine.embedder("sface"), service.engine.detector("sface"))
        analyzer.enroll(gallery, "Grace", hopper_file)
        photos = client.portal.call(lambda: service.engine.analyze(
            [hopper_file.read_bytes(), collins_file.read_bytes()], model="sface", largest=True
        ))  # fmt: skip
        yield service, gallery, *(one_face(photo, "photo") for photo in photos)


def test_two_faces_as_the_library_says(known, hopper_file, collins_file):
    service, _, grace, collins = known
    analyzer = facespace.FaceAnalyzer(service.engine.embedder("sface"), service.engine.detector("sface"))
    for rate in (None, 0.001):
        verdict = analyzer.verify(hopper_file, collins_file, rate=rate)
        compared = compare_faces(grace, collins, service.engine.embedder("sface"), rate)
        assert compared.similarity == pytest.approx(verdict.similarity, abs=1e-3)
        assert compared.threshold == pytest.approx(verdict.threshold, abs=1e-3)


@pytest.mark.parametrize("templates", ["mean", "best"])
def test_a_face_and_a_person(known, templates):
    _, gallery, grace, collins = known
    gallery.set_templates(templates)
    person = gallery.store.find("Grace")
    same = compare_with_person(grace, person, gallery, None)
    assert same.similarity > 0.99 > same.threshold
    assert same.rate == 0.01
    (quality,) = [photo.quality for photo in gallery.photos("Grace")]
    (expected,) = gallery.thresholds_for([1], [quality], [grace.face.quality], among=1)
    assert same.threshold == pytest.approx(expected)
    (of_many,) = gallery.thresholds_for([1], [quality], [grace.face.quality], among=1000)
    assert same.threshold < of_many  # a comparison with one person, regardless of how many are enrolled
    other = compare_with_person(collins, person, gallery, 0.001)
    assert other.similarity < other.threshold
    assert other.threshold > same.threshold
    gallery.set_templates("mean")


@pytest.mark.parametrize("text", ["0", "999", "-1", "x", "", "1; DROP TABLE person", "９", "1" * 30])
def test_ids_that_do_not_exist(known, text):
    with pytest.raises(Problem) as refused:
        person_with(known[1], text)
    assert (refused.value.status, refused.value.code) == (404, "no_such_person")
