"""Verification during training: the same figures as for any other network, and photos are cropped once."""

from __future__ import annotations

import copy
import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facespace.backbones.backbone import Backbone
from facespace.backbones.registry import create
from facespace.datasets.pairs.pair_sets import PairSet, binary_pairs, read_pair_set
from facespace.embedding.embedder import Embedder
from facespace.errors import DatasetError, RecipeError
from facespace.evaluation.pairs import Evaluation, evaluate_pairs
from facespace.faces.alignment import align
from facespace.faces.crops import CropRecord
from facespace.faces.face import central_face
from facespace.faces.input_spec import InputSpec
from facespace.io.image import read
from facespace.runtime.torch_network import TorchNetwork
from facespace.training import verification as module
from facespace.training.recipe import Recipe, parse
from facespace.training.verification import prepare

ARCFACE, BOX = InputSpec(112, "arcface"), InputSpec(112, "box", 32)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """An untrained network, which distinguishes faces by their colours; that is enough here."""
    torch.manual_seed(0)
    backbone = create("tiny", dimension=16)
    with torch.no_grad():  # statistics of photos
        backbone.train()(torch.randn(16, 3, 112, 112))
    return backbone


def crop(person: int, noise: int, size: int = 112) -> bytes:
    pixels = np.random.default_rng(person).integers(0, 256, (4, 4, 3)).repeat(size // 4, 0).repeat(size // 4, 1)
    pixels = np.clip(pixels + np.random.default_rng(noise).integers(-90, 91, pixels.shape), 0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def bin_file(path: Path, n: int = 20, size: int = 112, seed: int = 0) -> Path:
    images, same = [], []
    for k in range(n):
        images += [crop(seed + k, 2 * k, size), crop(seed + (k if k % 2 else k + 1), 2 * k + 1, size)]
        same.append(k % 2 == 1)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps((images, same), protocol=2))
    return path


def recipe_of(**values: object) -> Recipe:
    return Recipe.model_validate(values)


def figures(evaluation: Evaluation) -> dict:
    result = evaluation.verification
    return {
        "accuracy": result.accuracy,
        "accuracy_std": result.accuracy_std,
        "accuracy_interval": [*evaluation.intervals["accuracy"]] if "accuracy" in evaluation.intervals else None,
        "val_rate": result.val["1e-3"].value if "1e-3" in result.val else None,
        "auc": result.auc,
        "eer": result.eer,
    }


def others(backbone: Backbone, spec: InputSpec, pairs: PairSet, **options: object) -> dict:
    """The figures of `facespace verify` for the same network."""
    embedder = Embedder(TorchNetwork(copy.deepcopy(backbone)), name="a", spec=spec, fingerprint="b")
    return figures(evaluate_pairs(pairs, embedder, **options))


def without_seconds(measured: dict) -> dict:
    assert all(figures["seconds"] > 0 for figures in measured.values())
    return {
        name: {key: value for key, value in figures.items() if key != "seconds"} for name, figures in measured.items()
    }


# --- bins -------------------------------------------------------------------------------------------------------------

HOW = {
    "plain": ({}, {}),
    "mirrored": (
        {"verify_flip": "concat", "verify_distance": "angle", "verify_subtract_mean": True},
        {"flip": "concat", "distance": "angle", "subtract_mean": True},
    ),
    "added": ({"verify_flip": "add"}, {"flip": "add"}),
}


@pytest.mark.parametrize("how", HOW)
def test_figures_of_bins_are_those_of_evaluate_pairs(tmp_path, backbone, how):
    values, options = HOW[how]
    files = [bin_file(tmp_path / "one.bin"), bin_file(tmp_path / "two.bin", 30, seed=50)]
    verifier = prepare(recipe_of(verify_bin=list(map(str, files)), **values), ARCFACE)
    assert list(verifier.sets) == ["one", "two"]
    backbone.train()
    measured = verifier.measure(backbone, "cpu")
    assert not backbone.training
    expected = {
        name: others(backbone, ARCFACE, binary_pairs(tmp_path / f"{name}.bin"), **options) for name in ("one", "two")
    }
    assert without_seconds(measured) == expected
    assert 0 < measured["one"]["accuracy_interval"][0] <= measured["one"]["accuracy"] and measured["one"]["auc"] > 0.5
    assert measured["one"] != measured["two"]


def test_the_options_change_the_figures(tmp_path, backbone):
    """So the comparison above can fail."""
    file = str(bin_file(tmp_path / "one.bin", 30))
    seen = [
        prepare(recipe_of(verify_bin=[file], **values), ARCFACE).measure(backbone, "cpu") for values, _ in HOW.values()
    ]
    assert len({measured["one"]["auc"] for measured in seen}) == 3


def test_sets_with_the_same_name_get_different_names(tmp_path):
    paths = [bin_file(tmp_path / name, 2) for name in ("a/lfw.bin", "b/lfw.bin", "b/cfp.bin")]
    assert list(prepare(recipe_of(verify_bin=list(map(str, paths))), ARCFACE).sets) == ["lfw", "lfw-2", "cfp"]


def test_a_set_in_the_users_folder(tmp_path, monkeypatch):
    bin_file(tmp_path / "one.bin", 2)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list(prepare(recipe_of(verify_bin=["~/one.bin"]), ARCFACE).sets) == ["one"]


def test_nothing_to_measure():
    verifier = prepare(parse(""), ARCFACE)
    assert verifier.sets == {} and verifier.threshold_from == {}


@pytest.mark.parametrize(("size", "spec"), [(112, BOX), (96, ARCFACE)])
def test_crops_that_do_not_fit_are_refused(tmp_path, size, spec):
    file = str(bin_file(tmp_path / "one.bin", 2, size))
    with pytest.raises(RecipeError) as caught:
        prepare(recipe_of(verify_bin=[file]), spec)
    said = f"verification on one: the crops are {size} px arcface, the model takes 112 px {spec.template}"
    assert str(caught.value).startswith(said) and "give a set that fits, or another input_spec" in str(caught.value)


# --- lists ------------------------------------------------------------------------------------------------------------

TABLE = "a,b,same\nA/1.png,A/2.png,1\nB/1.png,B/2.png,1\nA/1.png,B/1.png,0\nA/2.png,B/2.png,0\n"


def crops_of(folder: Path, size: int = 112) -> Path:
    for k, name in enumerate(("A/1", "A/2", "B/1", "B/2")):
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(crop(k // 2, k, size))
    return folder


def test_aligned_crops_of_a_list_and_a_threshold_from_another(tmp_path, backbone):
    root = crops_of(tmp_path / "crops")
    (tmp_path / "pairs.csv").write_text(TABLE)
    (tmp_path / "other.csv").write_text("a,b,same\nA/1.png,B/1.png,1\nA/2.png,B/1.png,1\nA/1.png,A/2.png,0\n")
    recipe = recipe_of(
        verify_lfw=str(root),
        verify_pairs=str(tmp_path / "pairs.csv"),
        verify_threshold_pairs=str(tmp_path / "other.csv"),
        verify_aligned=True,
    )
    verifier = prepare(recipe, BOX)
    assert list(verifier.sets) == list(verifier.threshold_from) == ["lfw"]
    pairs, other = (read_pair_set(tmp_path / name, root, True, BOX) for name in ("pairs.csv", "other.csv"))
    expected = others(backbone, BOX, pairs, threshold_from=other)
    assert without_seconds(verifier.measure(backbone, "cpu")) == {"lfw": expected}
    assert expected["accuracy"] < others(backbone, BOX, pairs)["accuracy"]  # the other list has the opposite labels


def test_a_bin_called_as_the_list(tmp_path):
    (tmp_path / "pairs.csv").write_text(TABLE)
    recipe = recipe_of(
        verify_lfw=str(crops_of(tmp_path / "crops")),
        verify_pairs=str(tmp_path / "pairs.csv"),
        verify_aligned=True,
        verify_bin=[str(bin_file(tmp_path / "lfw.bin", 2))],
    )
    verifier = prepare(recipe, ARCFACE)
    assert [(name, pairs.name) for name, pairs in verifier.sets.items()] == [("lfw", "lfw.bin"), ("lfw-2", "pairs.csv")]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("key", ["verify_pairs", "verify_threshold_pairs"])
def test_missing_photos_are_reported_before_training(tmp_path, key, aligned):
    root = crops_of(tmp_path / "crops")
    (tmp_path / "pairs.csv").write_text(TABLE)
    (tmp_path / "lost.csv").write_text(f"{TABLE}A/1.png,C/1.png,0\n")
    values = {"verify_pairs": str(tmp_path / "pairs.csv"), key: str(tmp_path / "lost.csv")}
    with pytest.raises(
        DatasetError, match=r"verification on lost.csv: 1 of its 5 photos are missing below .*crops; give"
    ):
        prepare(recipe_of(verify_lfw=str(root), verify_aligned=aligned, **values), BOX)


def test_lists_of_crops_that_do_not_fit(tmp_path):
    root = crops_of(tmp_path / "crops")
    (tmp_path / "pairs.csv").write_text(TABLE)
    CropRecord(112, 0, "arcface").write(root)
    recipe = recipe_of(verify_lfw=str(root), verify_pairs=str(tmp_path / "pairs.csv"), verify_aligned=True)
    with pytest.raises(RecipeError, match="verification on lfw: the crops are 112 px arcface, the model takes"):
        prepare(recipe, BOX)


# --- whole photos -----------------------------------------------------------------------------------------------------


@pytest.fixture
def once(monkeypatch, detector) -> list[str]:
    """Record the photos that the detector gets."""
    seen: list[str] = []
    process = module.process

    def watched(paths, *rest, **options):
        paths = list(paths)
        seen.extend(Path(path).name for path in paths)
        return process(paths, *rest, **options)

    monkeypatch.setattr(module, "process", watched)
    monkeypatch.setattr(module, "create_detector", lambda: detector)
    return seen


def test_whole_photos_are_cut_once(
    tmp_path, backbone, detector, once, hopper_file, collins_file, stranger_file, cat_file
):
    """A photo without a face and an unreadable file count as errors, as for any network."""
    root = tmp_path / "photos"
    root.mkdir()
    for name, file in (
        ("h.jpg", hopper_file),
        ("c.png", collins_file),
        ("s.png", stranger_file),
        ("cat.png", cat_file),
    ):
        shutil.copy(file, root / name)
    both = Image.new("RGB", (1200, 600))
    with Image.open(hopper_file) as hopper, Image.open(collins_file) as collins:
        both.paste(hopper, (350, 0))
        both.paste(collins.resize((300, 300)), (0, 0))
        collins.convert("L").save(root / "c2.png")
    both.save(root / "h2.png")
    (root / "none.png").write_bytes(b"no image")
    rows = [
        "h.jpg,h2.png,1",
        "c.png,c2.png,1",
        "cat.png,cat.png,1",
        "h.jpg,c.png,0",
        "s.png,h2.png,0",
        "s.png,cat.png,0",
    ]
    (tmp_path / "pairs.csv").write_text("a,b,same\n" + "\n".join([*rows, "none.png,c2.png,0", "s.png,c2.png,0"]))
    verifier = prepare(recipe_of(verify_lfw=str(root), verify_pairs=str(tmp_path / "pairs.csv")), BOX)
    assert sorted(once) == ["c.png", "c2.png", "cat.png", "h.jpg", "h2.png", "none.png", "s.png"]
    assert verifier.sets["lfw"].crops == CropRecord(112, 32, "box")
    faces = detector.detect(np.asarray(both))
    assert len(faces) == 2 and central_face(faces, 1200, 600) != faces[0]
    expected = align(np.asarray(both), central_face(faces, 1200, 600), BOX)
    place = verifier.sets["lfw"].pairs.photos.index("h2.png")
    np.testing.assert_array_equal(read(verifier.sets["lfw"].files[place]), expected)
    measured = verifier.measure(backbone, "cpu")
    whole = read_pair_set(tmp_path / "pairs.csv", root, False, BOX)
    assert without_seconds(measured) == {"lfw": others(backbone, BOX, whole, detector=detector)}
    assert measured["lfw"]["accuracy"] <= 5 / 8  # three of 8 pairs lack a face
    verifier.measure(backbone, "cpu")
    assert len(once) == 7


@pytest.mark.shared
def test_photos_of_lfw(shared, tmp_path, backbone, detector, once):
    (tmp_path / "pairs.txt").write_text(
        "2\nAbdullah_Gul\t13\t14\nAbdullah_Gul\t13\t16\nAbdullah_Gul\t13\tAJ_Cook\t1\nAJ_Lamas\t1\tAaron_Guiel\t1\n"
    )
    root = shared / "data" / "lfw_view1" / "images"
    recipe = recipe_of(
        verify_lfw=str(root),
        verify_pairs=str(tmp_path / "pairs.txt"),
        verify_threshold_pairs=str(tmp_path / "pairs.txt"),
    )
    verifier = prepare(recipe, BOX)
    assert len(once) == 12
    for spec_of in (verifier.sets, verifier.threshold_from):
        assert spec_of["lfw"].crops == CropRecord(112, 32, "box")
        assert all(isinstance(file, bytes) for file in spec_of["lfw"].files)
    whole = read_pair_set(tmp_path / "pairs.txt", root, False, BOX)
    expected = others(backbone, BOX, whole, detector=detector, threshold_from=whole)
    assert without_seconds(verifier.measure(backbone, "cpu")) == {"lfw": expected}
    assert len(once) == 12
