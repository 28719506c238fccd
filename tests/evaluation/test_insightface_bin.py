"""Tests InsightFace's protocol for `.bin` files against explicit arithmetic."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facespace.embedding.embedder import Embedder
from facespace.errors import DatasetError
from facespace.evaluation.insightface_bin import measure_bin
from facespace.faces.input_spec import InputSpec
from facespace.runtime.onnx_network import OnnxNetwork
from support.tiny_model import SIZE, tiny_model


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    network = OnnxNetwork(tiny_model(), source="tiny", precision="float32")
    return Embedder(network, name="tiny", spec=InputSpec(SIZE, "arcface"), fingerprint="")


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(path: Path, images: list[np.ndarray], same: list[bool]) -> Path:
    path.write_bytes(pickle.dumps(([png(image) for image in images], same), protocol=2))
    return path


def test_features_are_added_before_they_are_scaled(tmp_path: Path, embedder: Embedder) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) // (k % 7 + 1) for k in range(40)]
    same = [k % 2 == 0 for k in range(20)]
    reported: list[tuple[int, int]] = []
    figures = measure_bin(write(tmp_path / "a.bin", images, same), embedder, progress=lambda *n: reported.append(n))
    plain, mirror = (embedder.features(np.stack(stack)) for stack in (images, [image[:, ::-1] for image in images]))
    lengths = np.linalg.norm(np.concatenate([plain, mirror]), axis=1)
    assert figures.xnorm == pytest.approx(lengths.mean(), rel=1e-5)
    added = plain + mirror
    added /= np.linalg.norm(added, axis=1, keepdims=True)
    np.testing.assert_allclose(figures.verification.distances, ((added[::2] - added[1::2]) ** 2).sum(1), atol=1e-5)
    assert len(figures.verification.fold_accuracies) == 10
    assert (figures.size, reported) == (SIZE, [(40, 40)])


def test_crops_of_another_size_and_folds_of_one_kind(tmp_path: Path, embedder: Embedder) -> None:
    random = np.random.default_rng(1)
    images = [random.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(40)]
    figures = measure_bin(write(tmp_path / "a.bin", images, [k < 10 for k in range(20)]), embedder)
    assert figures.size == 40 and figures.verification.accuracy_std is None


def test_an_unreadable_image_is_refused(tmp_path: Path, embedder: Embedder) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps(([b"none"] * 4, [True, False]), protocol=2))
    with pytest.raises(DatasetError, match=r"a\.bin: an image .* cannot be read"):
        measure_bin(path, embedder)
