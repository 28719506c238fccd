"""Exported models against their sources: by ONNX Runtime alone, as another program would use them."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from facespace import export as module
from facespace.backbones import create
from facespace.convert import convert
from facespace.embedder import Embedder
from facespace.errors import ModelError, RuntimeUnavailable
from facespace.export import LEAST_COSINE, export
from facespace.torch_weights import as_safetensors

SIZE = 112


def faces(n: int) -> np.ndarray:
    """Smooth coloured patches: as far apart as crops of people, and not noise, whose averages are all alike."""
    rng = np.random.default_rng(0)
    return np.stack(
        [
            np.asarray(Image.fromarray(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)).resize((SIZE, SIZE)))
            for _ in range(n)
        ]
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    (folder / "weights").write_bytes(as_safetensors(create("tiny", dimension=16)))
    convert(folder / "weights", folder / "tiny")
    return folder / "tiny"


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    for n, crop in enumerate(faces(48)):
        Image.fromarray(crop).save(folder / f"{n:02}.png")
    return folder


def by_onnxruntime(path, crops):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["embeddings"], {"crops": crops})[0]


@pytest.mark.parametrize("precision", LEAST_COSINE)
def test_crops_in_embeddings_out(model, crops, tmp_path, precision, capfd):
    out = tmp_path / "m.onnx"
    exported = export(model, out, precision=precision, crops=crops)
    assert capfd.readouterr() == ("", "")
    others = faces(60)[48:]
    wanted = Embedder.load(model, precision="float32").embed(others)
    found = by_onnxruntime(out, others)
    assert (found * wanted).sum(axis=1).min() >= LEAST_COSINE[precision]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert exported.cosine >= LEAST_COSINE[precision]
    assert exported.n_bytes == out.stat().st_size
    assert exported.n_crops == 16
    about = json.loads(out.with_suffix(".json").read_text())
    assert about["precision"] == precision
    assert about["parity"] == {"least_cosine": exported.cosine, "n_crops": 16, "crops": "given"}
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["m.json", "m.onnx"]
    # And we open what we export.
    assert (Embedder.load(out, precision="float32").embed(others) * found).sum(axis=1).min() > 0.999
    assert (exported.embedder.embed(others) * found).sum(axis=1).min() > 0.999


def test_precisions_differ_in_size(model, crops, tmp_path):
    sizes = {p: export(model, tmp_path / f"{p}.onnx", precision=p, crops=crops).n_bytes for p in ("fp32", "fp16")}
    assert sizes["fp16"] < sizes["fp32"]


def test_without_crops_noise_is_compared(model, tmp_path):
    exported = export(model, tmp_path / "m.onnx")
    assert exported.n_crops == module.N_PARITY
    assert json.loads((tmp_path / "m.json").read_text())["parity"]["crops"] == "noise"


def test_an_export_that_computes_something_else_is_not_kept(model, crops, tmp_path, monkeypatch):
    torch.manual_seed(1)
    (tmp_path / "w").write_bytes(as_safetensors(create("tiny", dimension=16)))
    convert(tmp_path / "w", tmp_path / "other")
    other = (tmp_path / "other" / "model.onnx").read_bytes()
    monkeypatch.setattr(module, "_half", lambda data: other)
    with pytest.raises(
        ModelError, match=r"^weights as fp16: the cosine to its source falls to .*; nothing was written"
    ):
        export(model, tmp_path / "m.onnx", precision="fp16", crops=crops)
    assert not (tmp_path / "m.onnx").exists()
    assert not (tmp_path / "m.json").exists()


def test_what_is_there_stays(model, tmp_path):
    (tmp_path / "m.json").write_text("mine")
    with pytest.raises(ModelError, match=r"m\.json: is there already"):
        export(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"wants a name that ends in \.onnx"):
        export(model, tmp_path / "m.bin")


def test_int8_wants_crops_of_its_own(model, tmp_path):
    with pytest.raises(ModelError, match="int8 wants aligned crops of real faces"):
        export(model, tmp_path / "m.onnx", precision="int8")
    (tmp_path / "few").mkdir()
    Image.fromarray(faces(1)[0]).save(tmp_path / "few" / "a.png")
    with pytest.raises(ModelError, match="1 crops; wanted are at least 16"):
        export(model, tmp_path / "m.onnx", precision="int8", crops=tmp_path / "few")


def test_int8_of_an_export_is_refused(model, crops, tmp_path):
    export(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="holds its preprocessing already"):
        export(tmp_path / "m.onnx", tmp_path / "n.onnx", precision="int8", crops=crops)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_without_onnx(model, crops, tmp_path, monkeypatch, precision):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RuntimeUnavailable, match=rf"^{precision} needs the package onnx; pip install"):
        export(model, tmp_path / "m.onnx", precision=precision, crops=crops)


def test_a_precision_nobody_knows(model, tmp_path):
    with pytest.raises(ValueError, match="precision wants fp32, fp16, int8; got 'int4'"):
        export(model, tmp_path / "m.onnx", precision="int4")


@pytest.mark.shared
def test_the_default_model(shared, tmp_path):
    out = tmp_path / "facenet.onnx"
    export("casia-webface", out, crops=shared / "data" / "train_182")
    with np.load(shared / "golden" / "casia_20180408_embeddings.npz") as file:
        crops, wanted = file["crops"], file["embeddings"]
    np.testing.assert_allclose(by_onnxruntime(out, crops), wanted, atol=1e-5)
