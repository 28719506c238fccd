"""Tests analysing images, enrolling whole photos, and comparing two faces."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facespace
from facespace import FaceAnalyzer, Gallery, ImageError, ModelError
from facespace.pipeline import analyzer as module
from support.tiny_model import tiny_model


@pytest.fixture(scope="module")
def analyzer(embedder: facespace.Embedder, detector: facespace.MTCNN) -> FaceAnalyzer:
    return FaceAnalyzer(embedder, detector)


@pytest.fixture(scope="module")
def pair(hopper: np.ndarray, collins_file: Path) -> np.ndarray:
    """Hopper, small, and Collins, large, side by side."""
    left, right = Image.fromarray(hopper).resize((256, 256)), Image.fromarray(facespace.read(collins_file))
    return np.hstack([np.pad(np.asarray(left), ((0, 256), (0, 0), (0, 0))), np.asarray(right)])


def test_a_face_has_its_crop_and_embedding(analyzer, hopper, hopper_file, embedder):
    (face,) = analyzer(hopper_file)
    (expected,) = analyzer.detector.detect(hopper)
    assert (face.box, face.score, face.landmarks) == (expected.box, expected.score, expected.landmarks)
    crop = facespace.align(hopper, expected, embedder.spec)
    np.testing.assert_array_equal(face.crop, crop)
    np.testing.assert_allclose(face.embedding, embedder.represent(crop[None])[0], atol=1e-5)
    assert face.embedding.made_by == "represent"
    assert isinstance(face, facespace.Face) and face.width == expected.width


def test_one_image_gives_faces_and_a_list_gives_lists(analyzer, hopper, hopper_file, cat_file, pair):
    with Image.open(hopper_file) as opened:
        several = analyzer([str(hopper_file), opened, hopper, cat_file, pair])
    assert [len(faces) for faces in several] == [1, 1, 1, 0, 2]
    assert several[0][0].box == several[1][0].box == several[2][0].box
    assert analyzer(cat_file) == [] and analyzer([]) == [] and analyzer((cat_file,)) == [[]]
    assert len(analyzer(pair)) == 2
    gray = np.asarray(Image.fromarray(hopper).convert("L"))
    assert len(analyzer(gray)) == 1


def test_unreadable_images_raise_one_line(analyzer, hopper, tmp_path):
    with pytest.raises(ImageError, match=r"none\.jpg: no such file$"):
        analyzer(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match=r"none\.jpg: no such file$"):
        analyzer([hopper, tmp_path / "none.jpg"])
    with pytest.raises(ImageError, match="no images in this folder"):
        analyzer(str(tmp_path))
    for nothing in (None, [None], 3):
        with pytest.raises(TypeError, match="must be a path"):
            analyzer(nothing)


def test_whole_photos_are_enrolled(analyzer, embedder, tmp_path, hopper_file, collins_file, cat_file, pair):
    with Gallery(tmp_path / "g", embedder, create=True) as gallery:
        assert analyzer.enroll(gallery, "Grace", hopper_file)
        assert not analyzer.enroll(gallery, "Grace", hopper_file), "this very face is there"
        (face,) = analyzer(collins_file)
        assert gallery.enroll("Eileen", face, source="collins"), "an analysed face in the place of a crop"
        names = [match.name for match in gallery.identify([face.embedding for face in analyzer(pair)])]
        assert sorted(names) == ["Eileen", "Grace"]
        with pytest.raises(ImageError, match=r"chelsea\.png: no face found"):
            analyzer.enroll(gallery, "Cat", cat_file)
        with pytest.raises(ImageError, match=r"<array>: 2 faces, one expected; use largest=True for the largest"):
            analyzer.enroll(gallery, "Two", pair)
        assert analyzer.enroll(gallery, "Two", pair, largest=True)
        (face,) = analyzer(collins_file)
        (best,) = gallery.identify(face.embedding, top=2)
        assert {match.name for match in best} == {"Two", "Eileen"}, "the largest face is Collins's"
        with pytest.raises(TypeError, match=r"crop must be a crop \(S,S,3\) or an analysed face, got str"):
            gallery.enroll("Grace", str(hopper_file))
        assert [person.n_photos for person in gallery.people()] == [1, 1, 1]


def test_two_faces_are_compared(analyzer, embedder, hopper, hopper_file, collins_file, pair):
    (grace,), (eileen,) = analyzer([hopper_file, collins_file])
    expected = float(np.asarray(grace.embedding) @ np.asarray(eileen.embedding))
    for a, b in ((hopper_file, collins_file), (grace, collins_file), (hopper, eileen.embedding)):
        verdict = analyzer.verify(a, b)
        assert verdict.similarity == pytest.approx(expected, abs=1e-4)
        assert verdict.threshold == embedder.threshold(1e-3) and verdict.same is False
    similarity, threshold, same = analyzer.verify(hopper_file, np.ascontiguousarray(hopper[:, ::-1]), rate=1e-4)
    assert similarity > 0.9 and threshold == embedder.threshold(1e-4) and same is True
    assert analyzer.verify(pair, collins_file).same and not analyzer.verify(pair, hopper_file).same, "the largest face"
    assert analyzer.verify(grace, np.asarray(grace.embedding)).same, "a bare vector is taken as represent's"


def test_the_threshold_decides(analyzer, monkeypatch, hopper_file, collins_file):
    (grace,), (eileen,) = analyzer([hopper_file, collins_file])
    similarity = analyzer.verify(grace, eileen).similarity
    monkeypatch.setattr(type(analyzer.embedder), "threshold", lambda self, rate, quality: similarity)
    assert analyzer.verify(grace, eileen).same, "the threshold itself is reached"
    monkeypatch.setattr(type(analyzer.embedder), "threshold", lambda self, rate, quality: np.nextafter(similarity, 2))
    assert not analyzer.verify(grace, eileen).same


def test_vectors_made_otherwise_are_refused(analyzer, embedder, hopper_file):
    (face,) = analyzer(hopper_file)
    plain = embedder.embed(face.crop[None])[0]
    with pytest.raises(ValueError, match=r"these vectors come from Embedder\.embed; only those of"):
        analyzer.verify(plain, face)
    with pytest.raises(ValueError, match=r"embeddings must be of shape \(N,512\), got \(3,\)"):
        analyzer.verify(face, np.ones(3, np.float32))


def test_plain_mistakes_are_one_line(analyzer, embedder, tmp_path, hopper_file):
    (face,) = analyzer(hopper_file)
    with pytest.raises(TypeError, match="one image is expected, got a list of 1"):
        analyzer.verify([hopper_file], hopper_file)
    with pytest.raises(TypeError, match="enroll takes a Gallery, a name and an image, got str for the Gallery"):
        analyzer.enroll("people.gallery", "Ada", hopper_file)
    with pytest.raises(ValueError, match="embeddings must have length 1, row 0 has 5"):
        analyzer.verify(5 * np.asarray(face.embedding), face)
    with pytest.raises(TypeError, match="a false match rate must be a number, got str"):
        analyzer.verify(face, face, rate="1e-3")
    with pytest.raises(TypeError, match="face must be one Face, got list; align each detected face"):
        facespace.align(hopper_file, [face], embedder.spec)
    with pytest.raises(TypeError, match=r"spec must be an InputSpec, such as embedder\.spec, got Embedder"):
        facespace.align(hopper_file, face, embedder)
    with pytest.raises(TypeError, match="detector must be a Detector, got str"):
        next(facespace.process([hopper_file], "mtcnn"))
    with Gallery(tmp_path / "g", embedder, create=True) as gallery:
        assert analyzer.enroll(gallery, "Ada", face), "an analysed face in the place of a photo"
        assert gallery.identify([face])[0].name == gallery.identify(face)[0].name == "Ada", "faces as probes"
    assert analyzer.verify(face, face.embedding[None]).same


def test_a_model_without_thresholds_says_so(detector, tmp_path, hopper_file):
    (tmp_path / "own.onnx").write_bytes(tiny_model())
    (tmp_path / "own.json").write_text('{"size": 16, "template": "box"}')
    own = FaceAnalyzer(tmp_path / "own.onnx", detector)
    assert own(hopper_file)[0].embedding.shape == (4,)
    with pytest.raises(ModelError, match="no thresholds have been measured"):
        own.verify(hopper_file, hopper_file)
    assert own.verify(hopper_file, hopper_file, threshold=0.9).same, "a threshold of one's own"


def test_the_function_loads_its_model_once(monkeypatch, analyzer, hopper_file, cat_file):
    loaded = []
    monkeypatch.setattr(module, "FaceAnalyzer", lambda model: loaded.append(model) or analyzer)
    module._analyzer.cache_clear()
    for _ in range(2):
        assert facespace.verify(hopper_file, hopper_file).same
    with pytest.raises(ImageError, match="no face found"):
        facespace.verify(hopper_file, cat_file)
    assert loaded == ["sface"]
    module._analyzer.cache_clear()


def test_an_analyzer_is_made_from_names(hopper_file):
    made = FaceAnalyzer()
    assert (made.embedder.name, type(made.detector)) == ("sface", facespace.detection.YuNet)
    made = FaceAnalyzer(made.embedder, "mtcnn")
    assert type(made.detector) is facespace.MTCNN
    assert type(FaceAnalyzer("casia-webface").detector) is facespace.MTCNN, "a model brings its detector"
    with pytest.raises(ValueError, match="no detector is called 'retina'"):
        FaceAnalyzer(made.embedder, "retina")
    with pytest.raises(TypeError, match="model must be a name, a path or an Embedder, got NoneType"):
        FaceAnalyzer(None, made.detector)
    with pytest.raises(TypeError, match="detector must be a name or a Detector, got int"):
        FaceAnalyzer(made.embedder, 3)
    with pytest.raises(TypeError, match="store must be the path of a file, an address, or a store, got NoneType"):
        Gallery(None, made.embedder)


def _n_faces(analyzer: FaceAnalyzer, path: str) -> tuple[int, bytes]:
    faces = analyzer(path)
    return len(faces), np.asarray(faces[0].embedding).tobytes()


def test_an_analyzer_can_be_sent_to_a_spawned_process(analyzer, hopper_file):
    """An analyzer is pickled by its arguments: each process loads the networks again and gives the same result."""
    assert len(pickle.dumps(analyzer)) < 10_000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        n, vector = pool.apply(_n_faces, (analyzer, str(hopper_file)))
    assert n == 1
    expected = np.asarray(analyzer(hopper_file)[0].embedding)
    np.testing.assert_allclose(np.frombuffer(vector, np.float32), expected, atol=1e-5)
