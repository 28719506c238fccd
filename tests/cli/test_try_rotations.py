"""`--try-rotations`: faces in photos turned without EXIF are found, and the rotation is reported."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facespace


@pytest.fixture
def turned(tmp_path: Path, hopper: np.ndarray) -> Path:
    """A photo of Hopper that is upright after turning it by 90 degrees clockwise."""
    path = tmp_path / "turned.png"
    Image.fromarray(np.rot90(hopper)).save(path)
    return path


@pytest.fixture
def gallery(cli, tmp_path: Path, hopper_file: Path) -> Path:
    path = tmp_path / "people.gallery"
    assert cli("enroll", "--gallery", path, "Grace", hopper_file).code == 0
    return path


def test_detect(cli, turned, hopper_file, tmp_path):
    done = cli("detect", turned, hopper_file, "--try-rotations", "--json", "--draw", tmp_path / "drawn")
    first, second = done.json
    assert first["turned"] == 90 and "turned" not in second
    assert len(first["faces"]) == 1 and first["faces"] == second["faces"], "coordinates of the upright photo"
    with Image.open(tmp_path / "drawn" / "turned.png.jpg") as drawn:
        assert drawn.size == (512, 600), "drawn upright"
    done = cli("detect", turned, hopper_file, "--try-rotations")
    assert done.lines[0] == f"{turned}: 1 face (turned by 90 degrees clockwise)"
    assert done.lines[2] == f"{hopper_file}: 1 face"
    assert not any("turned" in entry for entry in cli("detect", turned, "--json").json)


def test_identify(cli, turned, gallery):
    (entry,) = cli("identify", "--gallery", gallery, turned, "--try-rotations", "--json").json
    assert entry["turned"] == 90 and [face["name"] for face in entry["faces"]] == ["Grace"]
    done = cli("identify", "--gallery", gallery, turned, "--try-rotations")
    assert done.lines[0] == f"{turned}: 1 face (turned by 90 degrees clockwise)"


def test_classify_predict(cli, turned, tmp_path, hopper_file, collins_file):
    for name, file in (("Grace", hopper_file), ("Eileen", collins_file)):
        (tmp_path / "people" / name).mkdir(parents=True)
        Image.fromarray(facespace.read(file)).save(tmp_path / "people" / name / "1.png")
    assert cli("classify", "train", tmp_path / "people", "--output", tmp_path / "c").code == 0
    (entry,) = cli("classify", "predict", tmp_path / "c", turned, "--try-rotations", "--json").json
    assert entry["turned"] == 90 and [face["name"] for face in entry["faces"]] == ["Grace"]


def test_enroll(cli, turned, tmp_path, hopper_file):
    path = tmp_path / "own.gallery"
    done = cli("enroll", "--gallery", path, "Grace", turned, "--try-rotations")
    assert done.lines[0] == f"Grace: {turned} enrolled (turned by 90 degrees clockwise)"
    (entry,) = cli("identify", "--gallery", path, hopper_file, "--json").json
    assert entry["faces"][0]["similarity"] > 0.99


def test_compare(cli, turned, hopper_file):
    (entry,) = cli("compare", hopper_file, turned, "--try-rotations", "--json").json
    assert entry["same"] and entry["similarity"] > 0.99
    assert entry["turned_b"] == 90 and "turned_a" not in entry
    done = cli("compare", hopper_file, turned, "--try-rotations")
    assert done.lines[0].endswith(f"{hopper_file}  {turned} (turned by 90 degrees clockwise)")


def test_embed(cli, turned, hopper_file, tmp_path):
    assert cli("embed", turned, hopper_file, "--output", tmp_path / "a.npz", "--try-rotations").code == 0
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["turned"].tolist() == [90, 0]
        np.testing.assert_array_equal(archive["box"][0], archive["box"][1])


def test_cluster(cli, turned, hopper_file, tmp_path):
    done = cli("cluster", turned, hopper_file, "--output", tmp_path / "out", "--try-rotations", "--json")
    assert done.code == 0 and done.json[0]["people"] == {"person-0001": 2}
    assert done.errors == [f"facespace: {turned} (turned by 90 degrees clockwise)"]
    with (tmp_path / "out" / "groups.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["x1"] == rows[1]["x1"], "boxes refer to the upright photo"


def test_the_analyzer(turned, hopper, embedder, detector):
    (face,) = facespace.FaceAnalyzer(embedder, detector, try_rotations=True)(turned)
    (expected,) = facespace.FaceAnalyzer(embedder, detector)(hopper)
    assert (face.turned, expected.turned) == (90, 0) and face.box == expected.box
    np.testing.assert_array_equal(face.crop, expected.crop)


@pytest.mark.shared
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_the_photos_of_the_report(cli, shared, degrees):
    (entry,) = cli("detect", shared / "data" / "faults" / f"rot{degrees}.jpg", "--try-rotations", "--json").json
    assert entry["turned"] == degrees and len(entry["faces"]) == 1
    assert json.dumps(entry["faces"][0]["box"])
