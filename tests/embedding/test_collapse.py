"""Tests that networks whose embeddings are all alike are detected, and trained ones are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import facespace
from facespace.backbones.registry import create
from facespace.detection.factory import create_detector
from facespace.embedding.collapse import (
    LIMIT,
    collapse_remark,
    different_pictures,
    looks_collapsed,
    lowest_cosine,
)
from facespace.embedding.embedder import Embedder
from facespace.faces.input_spec import INPUT_SPECS
from facespace.runtime.torch_network import TorchNetwork
from support.collapsed import collapsed_folder, collapsed_onnx


def embedder_of(backbone, spec: str) -> Embedder:
    network = TorchNetwork(backbone, precision="float32")
    return Embedder(network, name=backbone.name, spec=INPUT_SPECS[spec], fingerprint="")


def around(centre: np.ndarray, n: int, noise: float) -> np.ndarray:
    return centre + noise * np.random.default_rng(0).standard_normal((n, len(centre)))


def test_vectors_are_alike_if_no_two_differ():
    centre = np.ones(64)
    assert looks_collapsed(around(centre, 12, 0.01))
    assert not looks_collapsed(around(centre, 12, 1.0))
    assert not looks_collapsed(np.concatenate([around(centre, 12, 0.01), -centre[None]])), "one that differs is enough"
    assert looks_collapsed(around(centre, 5, 0.01)) and not looks_collapsed(around(centre, 4, 0.01))
    assert not looks_collapsed(np.empty((0, 64)))


def test_the_limit_is_the_lowest_cosine_of_any_two():
    vectors = around(np.ones(64), 40, 0.4)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = min(float(a @ b) for k, a in enumerate(unit) for b in unit[:k])
    assert lowest_cosine(vectors) == pytest.approx(expected)
    assert lowest_cosine(7 * vectors) == pytest.approx(expected), "features need not be of unit length"
    angle = np.arccos(LIMIT)
    for beyond, alike in ((0.99, True), (1.01, False)):
        two = np.array([[1, 0], [np.cos(beyond * angle), np.sin(beyond * angle)]])
        assert looks_collapsed(np.concatenate([two] * 3)) is alike


def test_thousands_are_compared_by_a_few():
    vectors = np.ones((10_000, 16), np.float32)
    assert looks_collapsed(vectors)
    vectors[-1] = -1
    assert not looks_collapsed(vectors), "the last is among them"


def test_vectors_without_a_direction_are_alike():
    for nothing in (np.zeros((8, 4)), np.full((8, 4), np.inf), np.full((8, 4), np.nan), np.full((8, 4), 1e200)):
        assert looks_collapsed(nothing)
    assert not looks_collapsed(np.concatenate([np.eye(4), np.zeros((4, 4))]))


@pytest.mark.parametrize("size", [8, 112, 160])
def test_the_pictures_have_nothing_in_common(size):
    pictures = different_pictures(size)
    assert pictures.shape == (8, size, size, 3) and pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures, different_pictures(size))
    flat = pictures.reshape(8, -1).astype(float)
    flat -= flat.mean(axis=1, keepdims=True)
    if size > 24:
        assert np.abs(np.corrcoef(flat) - np.eye(8)).max() < 0.5


@pytest.mark.parametrize("model", ["sface", "casia-webface"])
def test_the_shipped_models_are_not_reported(model):
    embedder = Embedder.load(model, precision="float32")
    assert embedder.collapse_remark() == "" and embedder.remarks == ()
    assert lowest_cosine(embedder.embed(different_pictures(embedder.spec.size))) < 0.6, "far from the limit"


@pytest.mark.parametrize(("network", "spec"), [("squeezenet", "facenet-2018"), ("squeezenet", "facenet-2017")])
def test_networks_of_2018_with_random_weights(network, spec):
    torch.manual_seed(0)
    assert "all alike" in embedder_of(create(network), spec).collapse_remark()


def test_a_network_that_collapsed_in_training():
    """Its last batch norm shifts all embeddings by the same vector."""
    torch.manual_seed(0)
    backbone = create("tiny", dimension=64)
    with torch.no_grad():
        backbone.norm.bias.fill_(100.0)
    remark = embedder_of(backbone, "arcface-112").collapse_remark()
    assert remark.startswith(
        "its embeddings are all alike: of pictures that have nothing in common, no two have a cosine "
    )
    assert "below 1.00000;" in remark and remark.endswith("untrained or collapsed and cannot tell people apart")
    with torch.no_grad():
        backbone.norm.bias.fill_(0.0)
    assert embedder_of(backbone, "arcface-112").collapse_remark() == ""


def test_a_loaded_model_has_the_remark(tmp_path):
    for source in (collapsed_folder(tmp_path / "folder"), collapsed_onnx(tmp_path / "onnx")):
        (remark,) = Embedder.load(source).remarks
        assert "all alike" in remark
    sound = collapsed_onnx(tmp_path / "sound", bias=0.0)
    assert Embedder.load(sound).remarks == ()


def test_one_person_and_copies_give_no_remark(hopper):
    """The remark depends on fixed pictures, not on the people in a run's photos."""
    embedder = Embedder.load("sface", precision="float32")
    (face,) = create_detector("yunet").detect(hopper)
    crop = facespace.align(hopper, face, embedder.spec)
    copies = embedder.represent(np.stack([crop] * 6))
    assert lowest_cosine(copies) > 0.999 and embedder.collapse_remark() == ""


def test_the_remark_names_what_was_compared():
    assert "of 12 people, no two have a cosine below 1.00000" in collapse_remark(np.ones((12, 4)), "12 people")
    assert collapse_remark(np.eye(12), "12 people") == ""
