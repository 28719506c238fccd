"""A model with embeddings that are all alike: every command that uses or writes it reports that once, and goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facespace
from facespace.identification.classifier import Classifier, Prediction
from support.collapsed import collapsed_folder, collapsed_onnx

ALIKE = "embeddings are all alike"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collapsed_folder(tmp_path_factory.mktemp("collapsed"))


@pytest.fixture
def people(tmp_path: Path, hopper_file: Path, collins_file: Path) -> Path:
    """Two people with three photos each."""
    for name, file in (("Grace", hopper_file), ("Eileen", collins_file)):
        (tmp_path / "people" / name).mkdir(parents=True)
        pixels = Image.fromarray(facespace.read(file))
        for k in range(3):
            pixels.rotate(3 * k).save(tmp_path / "people" / name / f"{name}_{k + 1:04d}.png")
    return tmp_path / "people"


def n_reports(outcome) -> int:
    return sum(ALIKE in line for line in outcome.errors)


def test_convert_and_export_say_it(cli, tmp_path):
    source = collapsed_onnx(tmp_path)
    done = cli("convert", source, tmp_path / "model")
    assert done.code == 0 and sum(ALIKE in line for line in done.lines) == 1, "written nevertheless"
    done = cli("export", tmp_path / "model", "--output", tmp_path / "out.onnx")
    assert done.code == 0 and n_reports(done) == 1
    sound = collapsed_onnx(tmp_path / "sound", bias=0.0)
    done = cli("convert", sound, tmp_path / "sound" / "model")
    assert done.code == 0 and ALIKE not in done.out


def test_enroll_identify_and_classify_say_it_once(cli, model, people, tmp_path, stranger_file):
    gallery, classifier = tmp_path / "g.gallery", tmp_path / "c.classifier"
    done = cli("enroll", "--gallery", gallery, "--folder", people, "--model", model)
    assert done.code == 0 and n_reports(done) == 1 and done.lines[-1].startswith("6 photos added")
    done = cli("identify", "--gallery", gallery, stranger_file, "--threshold", "0.5", "--model", model)
    assert done.code == 0 and n_reports(done) == 1
    done = cli("classify", "train", people, "--output", classifier, "--model", model)
    assert done.code == 0 and n_reports(done) == 1
    done = cli("classify", "predict", classifier, stranger_file, "--model", model)
    assert done.code == 0 and n_reports(done) == 1


def test_photos_of_one_person_enrolled_by_a_good_model_say_nothing(cli, people, tmp_path, hopper_file):
    for k in range(6):
        shutil.copy(hopper_file, people / "Grace" / f"copy{k}.jpg")
    files = sorted((people / "Grace").iterdir())
    done = cli("enroll", "--gallery", tmp_path / "g.gallery", "Grace", *files, "--model", "sface")
    assert done.code == 0 and n_reports(done) == 0


def test_known_people_who_are_all_alike(cli, tmp_path, monkeypatch, hopper_file):
    """A network may distinguish images but not faces, which only the templates of known people show."""
    embedder = facespace.Embedder.load("sface", precision="float32")
    (face,) = facespace.FaceAnalyzer(embedder)(hopper_file)
    for n, expected in ((4, 0), (5, 1)):
        path = tmp_path / f"{n}.gallery"
        with facespace.Gallery(path, embedder, create=True) as gallery:
            for k in range(n):
                gallery.add(f"Person {k}", face.embedding, np.full_like(face.crop, k))
        done = cli("identify", "--gallery", path, hopper_file, "--model", "sface")
        assert done.code == 0 and n_reports(done) == expected
    assert f"sface: its {ALIKE}: of 5 known people, no two have a cosine below 1.00000" in done.err


def test_verify_notes_it(cli, model, people, tmp_path):
    table = tmp_path / "pairs.csv"
    rows = [("Grace", "Eileen", a, b, 0) for a in (1, 2, 3) for b in (1, 2, 3)]
    rows += [(name, name, 1, k, 1) for name in ("Grace", "Eileen") for k in (2, 3)]
    lines = [f"{a}/{a}_{i:04d}.png,{b}/{b}_{k:04d}.png,{same}" for a, b, i, k, same in rows]
    table.write_text("a,b,same\n" + "\n".join(lines) + "\n")
    done = cli("verify", "pairs", table, "--root", people, "--model", model)
    assert done.code == 0
    assert [line for line in done.lines if line.startswith("note ") and ALIKE in line and "different people" in line]
    done = cli("verify", "pairs", table, "--root", people, "--model", model, "--json")
    assert ALIKE in done.json[0]["collapsed"]
    done = cli("verify", "pairs", table, "--root", people, "--model", "sface", "--json")
    assert done.json[0]["collapsed"] is None and n_reports(done) == 0


def test_unknown_is_not_certain(cli, model, people, tmp_path, stranger_file, monkeypatch):
    """With a collapsed network even a stranger has a similarity of 1.000, which must not be printed alone after `unknown`."""
    classifier = tmp_path / "c.classifier"
    assert cli("classify", "train", people, "--output", classifier, "--model", model).code == 0

    def predict(self, embeddings, **options):
        return [Prediction(None, 0.9999991, 0.9999998, "Grace", None) for _ in embeddings]

    monkeypatch.setattr(Classifier, "predict", predict)
    done = cli("classify", "predict", classifier, stranger_file, "--model", model)
    assert "similarity 0.999999 (threshold 1.000000)" in done.out
    done = cli("facenet", "predict", stranger_file, model, classifier)
    assert done.lines[-1] == "unknown: not similar enough to Grace, similarity 0.999999 (threshold 1.000000)"
